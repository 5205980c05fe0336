//! The two pipelines. They know no transport and no database: stores come in by the traits of the crate, so a test
//! runs them over memory.

use std::fmt;

use streambreaker::Event;
use streambreaker::flow::NewEvent;
use streambreaker::idempotence::{Collected, EventStore, Version, VersionedStore};
use streambreaker::prelude::*;

use crate::event::{ALL, OrderEvent, SHOWN, What};
use crate::rules::{Outcome, Rules};

/// Collect, correlate, evaluate: keeps each event, looks at all that is known of its order, and says what follows.
///
/// It does not matter which event of an order comes last, nor how often one comes: each leads to an evaluation of all
/// there is. What is said has an identity of its own (the order), hence one id, whichever event led to it.
///
/// Events of one order run one after the other, in the order of the stream. That is not needed for *complete*; it keeps
/// the timer behind the events that it waited for, also when one of them is retried.
pub fn rules<E>(
    flow: Flow<Input>,
    facts: E,
    rules: Rules,
    store: &Resource,
) -> Flow<impl Stage<Out = NewEvent> + use<E>>
where
    E: EventStore<OrderEvent> + 'static,
{
    flow.of_type(ALL)
        .json::<OrderEvent>()
        .validate(OrderEvent::check)
        .parallel_by_key(
            64,
            |event| event.order.clone(),
            store,
            async move |event: &Event<OrderEvent>| {
                let known = facts.collect(&Collected::of(event, &event.order)).await?;
                rules.evaluate(&known).iter().map(published).collect::<Result<Vec<_>, _>>()
            },
        )
        .named("evaluate")
        .split(|said| said) // one event may say two things, and most say nothing: those are counted as filtered
}

/// An outcome as an event of ours.
fn published(outcome: &Outcome) -> Result<NewEvent, StepError> {
    let (new, order) = match outcome {
        Outcome::Completed(body) => (NewEvent::json("order-completed", body)?, &body.order),
        Outcome::Overdue(body) => (NewEvent::json("order-overdue", body)?, &body.order),
    };
    Ok(new.with_key(order).with_identity(order))
}

/// The part of an order's view that one event writes.
///
/// Each part has a version of its own: with one version a whole order, a change of address that comes late would be
/// taken for stale because the goods were sent meanwhile.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The order itself: the newest state wins.
    Order(String),
    /// Its shipment: the newest state wins.
    Shipment(String),
    /// A payment, under its own id: payments are added up when the view is read, never as they come.
    Payment {
        /// The order.
        order: String,
        /// The event.
        id: String,
    },
}

/// Shows which kind of part, not whose.
impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Order(_) => "Part(order)",
            Part::Shipment(_) => "Part(shipment)",
            Part::Payment { .. } => "Part(payment)",
        })
    }
}

impl Part {
    /// The part that an event writes; `None` of the timer.
    pub fn of(event: &OrderEvent) -> Option<Part> {
        let order = event.order.clone();
        match event.what {
            What::Submitted(_) | What::Changed(_) => Some(Part::Order(order)),
            What::Shipped { .. } => Some(Part::Shipment(order)),
            What::Paid { .. } => Some(Part::Payment { order, id: event.id.clone() }),
            What::Due => None,
        }
    }
}

/// The materialised view, under an inverse optimistic lock: whatever the order of the events and however often they
/// come, the newest of each part stays.
pub fn view<V>(flow: Flow<Input>, view: V, store: &Resource) -> Flow<impl Stage<Out = ()> + use<V>>
where
    V: VersionedStore<Part, What> + 'static,
{
    flow.of_type(SHOWN).json::<OrderEvent>().validate(OrderEvent::check).parallel(
        64,
        store,
        async move |event: &Event<OrderEvent>| {
            if let Some(part) = Part::of(event) {
                // stale is a success: what is stored is newer
                view.put_if_newer(&part, &Version::of(event.received()), &event.what).await?;
            }
            Ok(())
        },
    )
}

//! What is done about a fault event that is too large for its sink (rule F6).
//!
//! Step by step: drop the derived value; cut message and stack; split by record into several events,
//! each of which says of which whole it is a part; and what is then still too large, one record by
//! itself, is given to a hook that knows a store for it. Never is a record cut or dropped: without a
//! hook the event is held, and the sink's back-pressure tells the operator that something must be done.

use std::collections::VecDeque;

use async_trait::async_trait;

use super::cap::cut;
use super::event::{FaultEvent, FaultPart};
use crate::minutely::Minutely;

/// What is left of message and of stack when space is short.
const SHORT: usize = 1024;

/// One event that [`reduce`] ended with.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Rung {
    /// It is within the limit.
    Fits(FaultEvent),
    /// It holds one record, or none, and is still too large.
    TooLarge(FaultEvent),
}

#[cfg(test)]
impl Rung {
    fn event(&self) -> &FaultEvent {
        match self {
            Rung::Fits(event) | Rung::TooLarge(event) => event,
        }
    }
}

/// Reduces an event until it is within `limit` bytes by `size`, in the steps that this module
/// describes. The events hold, in order, exactly the records of the one that was given, untouched.
///
/// A pure function of its arguments: it does the same in the next life of a process. Parts have ids of
/// their own ([`part_id`](super::part_id)), keep the error and the fingerprint, and their
/// [`part`](FaultEvent::part) counts records of the outermost whole, also where an event is reduced
/// again to a smaller limit.
pub(super) fn reduce(
    event: FaultEvent,
    limit: usize,
    size: impl Fn(&FaultEvent) -> usize,
) -> Vec<Rung> {
    if size(&event) <= limit {
        return vec![Rung::Fits(event)];
    }
    let mut event = event;
    if event.derived.take().is_some() && size(&event) <= limit {
        return vec![Rung::Fits(event)];
    }
    if event.err.message.len() > SHORT || event.err.stack.len() > SHORT {
        cut(&mut event.err.message, SHORT);
        cut(&mut event.err.stack, SHORT);
        if size(&event) <= limit {
            return vec![Rung::Fits(event)];
        }
    }
    split(event, limit, size)
}

/// By halves, since nothing is known of `size` but that fewer records are less.
fn split(event: FaultEvent, limit: usize, size: impl Fn(&FaultEvent) -> usize) -> Vec<Rung> {
    let mut done = Vec::new();
    let mut open = VecDeque::from([event]);
    while let Some(event) = open.pop_front() {
        // the first one is known to be too large, but asking again is cheap beside a second path
        if size(&event) <= limit {
            done.push(Rung::Fits(event));
        } else if event.records.len() <= 1 {
            done.push(Rung::TooLarge(event));
        } else {
            let (left, right) = halves(event);
            open.push_front(right);
            open.push_front(left);
        }
    }
    done
}

fn halves(mut event: FaultEvent) -> (FaultEvent, FaultEvent) {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let total = count(event.records.len());
    let whole = event.part.unwrap_or(FaultPart { of: event.id, first: 0, total });
    let right = event.records.split_off(event.records.len() / 2);
    let left = std::mem::take(&mut event.records);
    // a partition key that somebody chose stays; the default one is the id
    let keyed_by_id = event.partition_key == event.id.to_string();
    let part = |records: Vec<_>, first: u32, mut event: FaultEvent| {
        event.records = records;
        event.part = Some(FaultPart { first, ..whole });
        event.id = event.computed_id();
        if keyed_by_id {
            event.partition_key = event.id.to_string();
        }
        event
    };
    let middle = whole.first.saturating_add(count(left.len()));
    (part(left, whole.first, event.clone()), part(right, middle, event))
}

/// What becomes of an event that no step made small enough.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum OversizeAction {
    /// The record is stored elsewhere, durably, and this smaller event says where
    /// ([`FaultRecord::claimed`](super::FaultRecord::claimed)). It must be the same fault: same id,
    /// same records by stream, shard, position and part. If it is not, or is still too large, the
    /// event is held.
    ClaimCheck(Box<FaultEvent>),
    /// Nothing can be done: try again later. The shard's checkpoint stands until the limit is raised
    /// or a hook is given.
    Hold,
}

/// Knows what to do with a fault event that is too large even with a single record.
#[async_trait]
pub trait Oversize: Send + Sync {
    /// Decides about `event`, of which the sink takes at most `limit` bytes. Asked again, with the
    /// same event, for as long as it is held.
    ///
    /// # Cancel safety
    /// Dropped when the processor gives up its drain; it is then asked again in the next life. What it
    /// stores must therefore be named after the fault, not drawn.
    async fn handle(&self, event: &FaultEvent, limit: usize) -> OversizeAction;
}

/// The default: holds. It never loses anything, and never goes on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hold;

#[async_trait]
impl Oversize for Hold {
    async fn handle(&self, _: &FaultEvent, _: usize) -> OversizeAction {
        OversizeAction::Hold
    }
}

/// What a publisher is to do with an event that came out of [`fit`].
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fit {
    /// It can be sent.
    Send(FaultEvent),
    /// It cannot, now: [`fit`] it again later. Its records stay in flight.
    Hold(FaultEvent),
}

/// [`reduce`], and the hook for what that leaves too large. The order of the records is kept.
///
/// Says once a minute by `line` that something is held.
///
/// # Cancel safety
/// Dropping it loses what the hook said; `event` has to be fitted again, with the same result.
pub(super) async fn fit(
    event: FaultEvent,
    limit: usize,
    size: impl Fn(&FaultEvent) -> usize,
    oversize: &dyn Oversize,
    line: &Minutely,
) -> Vec<Fit> {
    let mut fits = Vec::new();
    for rung in reduce(event, limit, &size) {
        fits.push(match rung {
            Rung::Fits(event) => Fit::Send(event),
            Rung::TooLarge(event) => match oversize.handle(&event, limit).await {
                OversizeAction::ClaimCheck(small)
                    if same_fault(&event, &small) && size(&small) <= limit =>
                {
                    Fit::Send(*small)
                }
                action => {
                    let refused = matches!(action, OversizeAction::ClaimCheck(_));
                    if let Some(count) = line.due() {
                        say_held(&event, limit, size(&event), refused, count);
                    }
                    Fit::Hold(event)
                }
            },
        });
    }
    fits
}

fn say_held(event: &FaultEvent, limit: usize, bytes: usize, refused: bool, count: u64) {
    tracing::error!(
        target: "streambreaker::fault",
        fault = %event.id,
        pipeline = %event.pipeline,
        bytes,
        limit,
        count,
        refused_claim_check = refused,
        "a fault event is too large for its sink and is held; the checkpoint waits. \
         Raise the sink's limit or store a claim check (`Oversize`)"
    );
}

/// A claim check may take bytes away, not change what the fault is about.
fn same_fault(a: &FaultEvent, b: &FaultEvent) -> bool {
    a.id == b.id
        && a.part == b.part
        && a.pipeline == b.pipeline
        && a.records.len() == b.records.len()
        && a.records.iter().zip(&b.records).all(|(a, b)| {
            let unchanged = a == b;
            let claimed = b.claim.is_some()
                && a.part == b.part
                && a.record.stream() == b.record.stream()
                && a.record.shard() == b.record.shard()
                && a.record.position() == b.record.position()
                && a.record.arrival() == b.record.arrival()
                && a.record.delivery() == b.record.delivery();
            unchanged || claimed
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;
    use crate::fault::{FaultRecord, part_id};
    use crate::record::{Position, Record};
    use proptest::prelude::*;

    fn json(event: &FaultEvent) -> usize {
        event.to_json().len()
    }

    fn fault(sizes: &[usize]) -> FaultEvent {
        let records = (sizes.iter().enumerate())
            .map(|(n, size)| {
                let position = Position::from(n as u64);
                FaultRecord::whole(Record::new("s", "0", position, vec![b'x'; *size]))
            })
            .collect();
        let mut fault = FaultEvent::new("p", "q", "group_by", Class::Fault, records);
        fault.grouped = sizes.len() > 1;
        fault
    }

    #[test]
    fn f6_the_derived_value_goes_first() {
        let mut fault = fault(&[100, 100]);
        let bare = fault.clone();
        fault.derived = Some("x".repeat(10_000));
        fault.err.stack = "y".repeat(5_000);
        let limit = json(&fault) - 1;
        let rungs = reduce(fault.clone(), limit, json);
        let [Rung::Fits(event)] = &rungs[..] else { panic!("{rungs:?}") };
        assert_eq!((event.derived.as_ref(), &event.err, event.id), (None, &fault.err, fault.id));

        let rungs = reduce(fault.clone(), json(&bare) + 2 * SHORT, json);
        let [Rung::Fits(event)] = &rungs[..] else { panic!("{rungs:?}") };
        assert!(event.err.stack.len() <= SHORT && event.records == fault.records);
    }

    #[test]
    fn f6_a_part_says_of_which_whole() {
        let whole = fault(&[1000, 1000, 1000]);
        let rungs = reduce(whole.clone(), 2500, json);
        let parts: Vec<_> = rungs.iter().map(|r| r.event().part.expect("a part")).collect();
        assert_eq!(
            parts.iter().map(|p| (p.first, p.total)).collect::<Vec<_>>(),
            [(0, 3), (1, 3), (2, 3)]
        );
        assert!(parts.iter().all(|part| part.of == whole.id));
        assert_eq!(rungs[1].event().id, part_id(whole.id, 1, 1));
        assert!(rungs.iter().all(|rung| rung.event().grouped));
    }

    #[test]
    fn f6_one_record_too_large_is_left_whole_beside_its_neighbours() {
        let rungs = reduce(fault(&[10, 100_000, 10]), 5000, json);
        assert!(matches!(
            &rungs[..],
            [Rung::Fits(_), Rung::TooLarge(event), Rung::Fits(_)] if event.record_bytes() == 100_000
        ));
    }

    #[tokio::test]
    async fn f6_without_a_hook_it_is_held() {
        let held = fault(&[100_000]);
        let fits = fit(held.clone(), 5000, json, &Hold, &Minutely::default()).await;
        assert_eq!(fits, [Fit::Hold(held)]);
    }

    /// Makes a claim check, as a hook that has stored the record would; or a wrong one.
    struct Claims {
        wrong: bool,
    }

    #[async_trait]
    impl Oversize for Claims {
        async fn handle(&self, event: &FaultEvent, _: usize) -> OversizeAction {
            let mut small = event.clone();
            for record in &mut small.records {
                *record = record.claimed(format!("lake:{}", event.id));
            }
            if self.wrong {
                small.records.clear();
            }
            OversizeAction::ClaimCheck(Box::new(small))
        }
    }

    #[tokio::test]
    async fn f6_a_claim_check_is_sent_and_one_that_loses_records_is_not() {
        let large = fault(&[100_000]);
        let fits =
            fit(large.clone(), 5000, json, &Claims { wrong: false }, &Minutely::default()).await;
        let [Fit::Send(event)] = &fits[..] else { panic!("{fits:?}") };
        assert_eq!(event.records[0].claim.as_ref().map(|claim| claim.size), Some(100_000));
        assert_eq!(event.computed_id(), large.id);
        assert_eq!(FaultEvent::from_json(&event.to_json()).as_ref(), Ok(event));

        let fits =
            fit(large.clone(), 5000, json, &Claims { wrong: true }, &Minutely::default()).await;
        assert_eq!(fits, [Fit::Hold(large)]);
    }

    proptest! {
        #[test]
        fn f6_nothing_is_lost_and_order_is_kept(
            sizes in proptest::collection::vec(0usize..3000, 0..24), limit in 0usize..8000,
            smaller in 0usize..4000,
        ) {
            let whole = fault(&sizes);
            let rungs = reduce(whole.clone(), limit, json);
            // a part can be reduced again, to a sink with a smaller limit
            let rungs: Vec<_> = rungs.into_iter().flat_map(|rung| match rung {
                Rung::Fits(event) => {
                    assert!(json(&event) <= limit);
                    reduce(event, smaller, json)
                }
                too_large => vec![too_large],
            }).collect();
            let records: Vec<_> =
                rungs.iter().flat_map(|rung| rung.event().records.iter().cloned()).collect();
            prop_assert_eq!(&records, &whole.records);
            let mut first = 0;
            for rung in &rungs {
                let event = rung.event();
                prop_assert_eq!(event.computed_id(), event.id);
                match event.part {
                    Some(part) => {
                        prop_assert_eq!((part.of, part.first), (whole.id, first));
                        prop_assert_eq!(part.total as usize, sizes.len());
                    }
                    None => prop_assert_eq!(event.id, whole.id),
                }
                first += event.records.len() as u32;
                if let Rung::TooLarge(event) = rung {
                    prop_assert!(event.records.len() <= 1);
                }
            }
        }
    }
}

//! `publish`: write events of one's own, in bulk, with ids that are the same however often they are made.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::inline::{Inline, Step};
use super::plan::StagePlan;
use super::{BulkWrite, Flow, Stage, StageCx};
use crate::error::{Class, StepError};
use crate::fault::{effect_id, named_effect_id};
use crate::record::Timestamp;
use crate::resource::Resource;
use crate::sink::Sink;
use crate::unit::{Lineage, Uow};

/// An event to be published: what a component has to say. Id, time and causes are added by
/// [`Flow::publish`].
///
/// `Debug` shows the type and the size, never the body.
#[derive(Clone, PartialEq, Eq)]
pub struct NewEvent {
    kind: String,
    key: Option<String>,
    identity: Option<String>,
    tags: BTreeMap<String, String>,
    body: Bytes,
}

impl NewEvent {
    /// An event of this type with a body that serialises to JSON.
    ///
    /// # Errors
    /// [`Class::Fault`], where the body does not serialise.
    pub fn json<B: Serialize>(kind: impl Into<String>, body: &B) -> Result<Self, StepError> {
        Ok(Self {
            kind: kind.into(),
            key: None,
            identity: None,
            tags: BTreeMap::new(),
            body: serde_json::to_vec(body)?.into(),
        })
    }

    /// With the key by which the stream orders events.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// With what makes it the one that it is: two of a type with the same identity get the same id, whatever they were
    /// made of. For what several events lead to, each by itself (an order is complete, whichever of its events came last);
    /// without it the id is that of the unit it was made of. Time and causes are those of the unit all the same.
    #[must_use]
    pub fn with_identity(mut self, identity: impl Into<String>) -> Self {
        self.identity = Some(identity.into());
        self
    }

    /// With a tag.
    #[must_use]
    pub fn with_tag(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(name.into(), value.into());
        self
    }

    /// Its type.
    pub fn kind(&self) -> &str {
        &self.kind
    }
}

impl fmt::Debug for NewEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewEvent({}, {} bytes)", self.kind, self.body.len())
    }
}

/// An event as it is written: a [`NewEvent`] with its id, its time and what caused it.
///
/// The same unit makes the same publication in every retry, redelivery and life, so that a consumer can
/// leave out what it has seen.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Publication {
    /// UUID v5 over processor, pipeline, stage, type, and the records it was made of, or the identity that it was
    /// [given](NewEvent::with_identity).
    pub id: Uuid,
    /// Its type.
    pub kind: String,
    /// When what caused it happened: the latest of the times of its causes.
    pub time: Timestamp,
    /// The key by which the stream orders events.
    pub key: Option<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// The ids of the events it was made of; an event without one is named by its place.
    pub causation: Vec<String>,
    /// The `traceparent` of its first cause.
    pub traceparent: Option<String>,
    /// The body: JSON.
    pub body: Bytes,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    id: Uuid,
    r#type: &'a str,
    timestamp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition_key: Option<&'a str>,
    tags: &'a BTreeMap<String, String>,
    causation: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    data: &'a RawValue,
}

impl Publication {
    fn new(cx: &StageCx, new: NewEvent, lineage: &Lineage) -> Self {
        let pipeline = &cx.lane.pipeline;
        let stage = pipeline.stage(cx.id).name;
        let (processor, name) = (&pipeline.processor, &pipeline.name);
        let id = match &new.identity {
            Some(identity) => named_effect_id(processor, name, &stage, &new.kind, identity),
            None => {
                let records = lineage.members().map(|(ticket, part)| (ticket.record(), part));
                effect_id(processor, name, &stage, &new.kind, records)
            }
        };
        let mut time = None;
        let mut causation = Vec::new();
        for (ticket, _) in lineage.members() {
            let (record, envelope) = (ticket.record(), &ticket.batch.batch.envelope);
            time = time.max(Some(envelope.time(record).unwrap_or_else(|| record.arrival())));
            causation.push(match envelope.id(record) {
                Some(id) => id.into_owned(),
                None => {
                    format!("{}/{}/{}", record.stream(), record.shard(), record.position())
                }
            });
        }
        causation.dedup();
        let traceparent = lineage
            .records()
            .find_map(|record| record.header("traceparent"))
            .and_then(|value| std::str::from_utf8(value).ok())
            .map(str::to_owned);
        let NewEvent { kind, key, tags, body, .. } = new;
        let time = time.unwrap_or_default();
        Self { id, kind, time, key, tags, causation, traceparent, body }
    }

    /// As a plain JSON event: `id`, `type`, `timestamp` (milliseconds), `partitionKey`, `tags`, `causation`,
    /// `traceparent` and `data`.
    ///
    /// # Errors
    /// If the body is not JSON; one made by [`NewEvent::json`] is.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Wire {
            id: self.id,
            r#type: &self.kind,
            timestamp: self.time.as_millis(),
            partition_key: self.key.as_deref(),
            tags: &self.tags,
            causation: &self.causation,
            traceparent: self.traceparent.as_deref(),
            data: serde_json::from_slice(&self.body)?,
        })
    }
}

impl fmt::Debug for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Publication({}, {}, {} bytes)", self.id, self.kind, self.body.len())
    }
}

/// Whether a step with effects outside takes part in a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnReplay {
    /// It does nothing; its units go on as if it had.
    #[default]
    Mute,
    /// It acts as ever.
    Keep,
}

/// The stage of [`Flow::publish`]: a [`BulkWrite`] of publications.
pub type Publish<S, K> = BulkWrite<S, K>;

struct Publications;

impl Step<NewEvent> for Publications {
    type Out = Publication;

    fn step(&mut self, cx: &StageCx, unit: Uow<NewEvent>) -> Option<Uow<Publication>> {
        let (new, lineage) = unit.into_parts();
        if serde_json::from_slice::<&RawValue>(&new.body).is_err() {
            let error = StepError::new(Class::Fault, "the body of the event is not JSON");
            cx.fault(lineage.with(()), error.with_name("BodyNotJson"));
            return None;
        }
        // an envelope is user code, and may panic
        match cx.catch(|| Publication::new(cx, new, &lineage)) {
            Ok(publication) => Some(lineage.with(publication)),
            Err(panic) => {
                cx.fault(lineage.with(()), panic);
                None
            }
        }
    }
}

impl<S: Stage<Out = NewEvent>> Flow<S> {
    /// Publishes the events, in bulk as [`bulk_write`](Self::bulk_write) does, through the guards of `resource`.
    ///
    /// Ids are deterministic, the causes' ids and `traceparent` go along. In a replay nothing is published,
    /// unless [`on_replay`](Flow::on_replay) says so. To publish several events of one unit,
    /// [`split`](Self::split) it before.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use streambreaker::flow::NewEvent;
    ///
    /// let (bus, out) = (resource("bus"), Collect::new());
    /// let target = out.clone();
    /// let report = run([r#"{"id":"order-1","total":7}"#], move |flow| {
    ///     flow.json::<serde_json::Value>()
    ///         .try_map(|order| NewEvent::json("order-totalled", &order["total"]))
    ///         .publish(&bus, target.clone())
    /// })
    /// .await;
    /// assert_eq!(report.done, 1);
    /// assert_eq!(out.items()[0].causation, ["order-1"]);
    /// # }
    /// ```
    pub fn publish<K>(
        self,
        resource: &Resource,
        sink: K,
    ) -> Flow<Publish<impl Stage<Out = Publication> + use<S, K>, K>>
    where
        K: Sink<Publication> + 'static,
    {
        // one stage in the plan: what makes the publications has no name of its own
        let id = u16::try_from(self.cx.plan.len()).unwrap_or(u16::MAX);
        let cx = StageCx { lane: self.cx.lane.clone(), id };
        let publications = Inline::new(self.stage, cx, Publications);
        let mut flow = Flow { stage: publications, cx: self.cx }.bulk_write(resource, sink);
        if let Some(plan) = flow.cx.plan.last_mut() {
            *plan = StagePlan { combinator: "publish", ..plan.clone() };
        }
        flow.mute_replay(true)
    }
}

impl<S: Stage, K> Flow<BulkWrite<S, K>> {
    /// Whether this write takes part in a replay. A `bulk_write` does unless told otherwise, a `publish` does
    /// not.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/flow/example.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use streambreaker::flow::OnReplay;
    ///
    /// let (search, index) = (resource("search"), Collect::<u64>::new());
    /// let report = run(["1"], move |flow| {
    ///     // an index that a replay must not touch
    ///     flow.json::<u64>().map(|n| *n).bulk_write(&search, index.clone()).on_replay(OnReplay::Mute)
    /// })
    /// .await;
    /// assert_eq!(report.done, 1);
    /// # }
    /// ```
    pub fn on_replay(self, on_replay: OnReplay) -> Self {
        self.mute_replay(on_replay == OnReplay::Mute)
    }
}

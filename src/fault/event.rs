//! The fault event as a value.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::Location;
use std::time::Duration;

use uuid::Uuid;

use super::scrub::Scrubber;
use super::{cap, fault_id, fingerprint, part_id};
use crate::envelope::pick;
use crate::error::{Class, StepError};
use crate::record::{Delivery, PartPath, Record, Timestamp};

/// A unit of work that could not be processed: its records, byte for byte, and what became of it.
///
/// `Debug` prints ids, classes, names and sizes; never a payload, a key, a header or the error's text
/// (rule L12).
///
/// ```
/// use streambreaker::fault::{FaultEvent, FaultRecord, Scrub};
/// use streambreaker::error::Class;
/// use streambreaker::{Position, Record};
///
/// let record = Record::new("orders", "0", Position::from(42), &b"not \xff JSON"[..]);
/// let mut fault =
///     FaultEvent::new("order-totals", "main", "json", Class::Fault, vec![FaultRecord::whole(record)]);
/// fault.err.name = "JsonError".into();
/// fault.err.message = "expected value at line 1 column 1".into();
/// let fault = fault.finish(&Scrub);
///
/// let json = fault.to_json();
/// assert_eq!(FaultEvent::from_json(&json)?, fault);
/// # Ok::<(), streambreaker::fault::FaultParseError>(())
/// ```
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct FaultEvent {
    /// Deterministic: the same unit faulted twice is one fault. See [`fault_id`].
    pub id: Uuid,
    /// When it faulted. Not part of the id: it differs between two lives of a process.
    pub timestamp: Timestamp,
    /// The key under which a sink may partition. By default the id: faults need no order, and the
    /// record's own key would bring its hot spots along.
    pub partition_key: String,
    /// The processor.
    pub processor: String,
    /// The pipeline that refused it; a resubmission goes there, and only there.
    pub pipeline: String,
    /// The name of the stage that refused it.
    pub stage: String,
    /// The resource that the stage calls.
    pub resource: Option<String>,
    /// Why.
    pub class: Class,
    /// The release of the component.
    pub release: Option<String>,
    /// The instance of the component. Empty where nobody named it.
    pub instance: String,
    /// Why the unit was here: live, in a replay, or a resubmission.
    pub delivery: Delivery,
    /// The error.
    pub err: FaultError,
    /// What was tried, oldest first.
    pub attempts: Vec<Attempt>,
    /// The unit's records, in order.
    pub records: Vec<FaultRecord>,
    /// Whether the unit is a group. A unit that is none may still have several records (`compact`).
    pub grouped: bool,
    /// The value the stage got, as JSON text, where it could be had. The first thing to be dropped
    /// when space is short: the records are what counts.
    pub derived: Option<String>,
    /// The fault that was resubmitted, where this is the failure of a resubmission.
    pub parent: Option<Uuid>,
    /// How often the unit has been resubmitted.
    pub resubmits: u32,
    /// The `traceparent` of the unit's first record.
    pub trace: Option<String>,
    /// 0 for an event's fault, 1 for a fault about a fault. See [`fault_depth`].
    pub depth: u8,
    /// Of which fault this holds only a part, where the whole was too large for the sink.
    pub part: Option<FaultPart>,
    /// Free labels. [`FaultEvent::new`] sets `functionname` and `pipeline`, which the monitors of
    /// `aws-lambda-stream` group by.
    pub tags: BTreeMap<String, String>,
    /// What faults of one kind share. See [`fingerprint`].
    pub fingerprint: String,
}

impl FaultEvent {
    /// The stream that its records came from. A fault always has records; of one that has none, its processor: so it is
    /// filed under who made it.
    pub fn stream(&self) -> &str {
        self.records.first().map_or(&self.processor, |first| first.record.stream())
    }

    /// A fault of a unit that consists of `records`, of this class, with its id computed.
    ///
    /// The delivery, parent, resubmit count and trace are read off the first record. The error, the
    /// time and the rest are to be set through the fields; [`finish`](Self::finish) comes last.
    pub fn new(
        processor: impl Into<String>,
        pipeline: impl Into<String>,
        stage: impl Into<String>,
        class: Class,
        records: Vec<FaultRecord>,
    ) -> Self {
        let (processor, pipeline, stage) = (processor.into(), pipeline.into(), stage.into());
        let first = records.first().map(|first| &first.record);
        let delivery = first.map(|record| record.delivery().clone()).unwrap_or_default();
        let (parent, resubmits) = match &delivery {
            Delivery::Resubmit { fault, attempt, .. } => (Some(*fault), *attempt),
            _ => (None, 0),
        };
        let trace = first
            .and_then(|record| record.header("traceparent"))
            .and_then(|value| std::str::from_utf8(value).ok())
            .map(str::to_owned);
        let depth = records.iter().map(|r| fault_depth(&r.record)).max().unwrap_or(0);
        let tags = BTreeMap::from([
            ("functionname".to_owned(), processor.clone()),
            ("pipeline".to_owned(), pipeline.clone()),
        ]);
        let mut event = Self {
            id: Uuid::nil(),
            timestamp: Timestamp::default(),
            partition_key: String::new(),
            processor,
            pipeline,
            stage,
            resource: None,
            class,
            release: None,
            instance: String::new(),
            delivery,
            err: FaultError::default(),
            attempts: Vec::new(),
            records,
            grouped: false,
            derived: None,
            parent,
            resubmits,
            trace,
            depth,
            part: None,
            tags,
            fingerprint: String::new(),
        };
        event.id = event.computed_id();
        event.partition_key = event.id.to_string();
        event
    }

    /// The id that follows from the other fields, also for a part of a larger fault.
    pub fn computed_id(&self) -> Uuid {
        match &self.part {
            Some(part) => part_id(part.of, part.first, self.len()),
            None => fault_id(
                &self.processor,
                &self.pipeline,
                &self.stage,
                &self.delivery,
                self.records.iter().map(|r| (&r.record, &r.part)),
            ),
        }
    }

    /// The last step of making one: the texts are scrubbed, the fingerprint is taken of what is left,
    /// and texts that are too long are cut ([`TEXT_CAP`](super::TEXT_CAP)). Records are not touched.
    #[must_use]
    pub fn finish(mut self, scrubber: &dyn Scrubber) -> Self {
        cap::precut(&mut self);
        for text in
            [&mut self.err.message, &mut self.err.stack].into_iter().chain(&mut self.derived)
        {
            if let std::borrow::Cow::Owned(scrubbed) = scrubber.scrub(text) {
                *text = scrubbed;
            }
        }
        self.fingerprint = fingerprint(self.class, &self.stage, &self.err.name, &self.err.message);
        cap::cap(&mut self);
        self
    }

    /// How many records it holds.
    fn len(&self) -> u32 {
        u32::try_from(self.records.len()).unwrap_or(u32::MAX)
    }

    /// The bytes of its records: payloads, keys and headers.
    pub fn record_bytes(&self) -> usize {
        self.records.iter().map(|r| r.record.size()).sum()
    }
}

impl fmt::Debug for FaultEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultEvent")
            .field("id", &self.id)
            .field("processor", &self.processor)
            .field("pipeline", &self.pipeline)
            .field("stage", &self.stage)
            .field("class", &self.class)
            .field("err", &self.err)
            .field("records", &self.records)
            .field("derived_bytes", &self.derived.as_ref().map(String::len))
            .field("attempts", &self.attempts.len())
            .field("parent", &self.parent)
            .field("part", &self.part)
            .field("depth", &self.depth)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// The error in a fault event: the one place where its text is kept.
///
/// `Debug` prints the name and sizes.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct FaultError {
    /// Its type.
    pub name: String,
    /// Its text, with that of its sources.
    pub message: String,
    /// Where it was made and what it came from, a line each.
    pub stack: String,
}

/// What the path of every source file of this crate begins with, as the compiler was given it.
fn own_sources() -> &'static str {
    const HERE: &str = file!();
    let tail = "fault/event.rs".len();
    &HERE[..HERE.len().saturating_sub(tail)]
}

impl From<&StepError> for FaultError {
    /// Name, message and, as the stack, the line of the `?`, where it is yours, and the chain of sources. Not
    /// scrubbed yet.
    fn from(error: &StepError) -> Self {
        let mut stack = format!("{}: {}", error.name(), error.error());
        // a line of this crate tells nobody anything, and where it was built even less
        let theirs = |at: &&Location<'_>| !at.file().starts_with(own_sources());
        if let Some(at) = error.location().filter(theirs) {
            stack.push_str(&format!("\n    at {}:{}:{}", at.file(), at.line(), at.column()));
        }
        let mut cause = error.error().source();
        while let Some(source) = cause {
            stack.push_str(&format!("\ncaused by: {source}"));
            cause = source.source();
        }
        Self { name: error.name().to_owned(), message: error.message(), stack }
    }
}

impl fmt::Debug for FaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (message, stack) = (self.message.len(), self.stack.len());
        write!(f, "FaultError({}, {message} + {stack} bytes)", self.name)
    }
}

/// One attempt at a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// When it began.
    pub at: Timestamp,
    /// How it ended.
    pub class: Class,
    /// How long it took.
    pub duration: Duration,
}

/// A record of a faulted unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultRecord {
    /// The whole record; without its payload, key and headers where `claim` says where they are.
    pub record: Record,
    /// Which part of it faulted.
    pub part: PartPath,
    /// Where the record itself is, if it was too large to be carried.
    pub claim: Option<ClaimCheck>,
}

impl FaultRecord {
    /// A record that faulted as a whole.
    pub fn whole(record: Record) -> Self {
        Self { record, part: PartPath::whole(), claim: None }
    }

    /// A record of which one part faulted.
    pub fn part(record: Record, part: PartPath) -> Self {
        Self { record, part, claim: None }
    }

    /// The same without payload, key and headers, which the store that `uri` names holds: what an
    /// [`Oversize`](super::Oversize) hook makes of a record that it has stored.
    #[must_use]
    pub fn claimed(&self, uri: impl Into<String>) -> Self {
        let record = &self.record;
        let bare =
            Record::new(record.stream(), record.shard().clone(), record.position().clone(), "")
                .with_arrival(record.arrival())
                .with_delivery(record.delivery().clone())
                .with_deliveries(record.deliveries());
        let size = u64::try_from(record.size()).unwrap_or(u64::MAX);
        Self {
            record: bare,
            part: self.part.clone(),
            claim: Some(ClaimCheck { uri: uri.into(), size }),
        }
    }
}

/// Where a record is that was too large to be carried in its fault event. (The *claim check* of
/// Hohpe and Woolf, "Enterprise Integration Patterns".)
///
/// `Debug` leaves the address out: it may grant access.
#[derive(Clone, PartialEq, Eq)]
pub struct ClaimCheck {
    /// The address, as the store knows it.
    pub uri: String,
    /// The bytes of payload, key and headers there.
    pub size: u64,
}

impl fmt::Debug for ClaimCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClaimCheck({} bytes)", self.size)
    }
}

/// Which part of a larger fault an event holds: its records are those from `first` on. The parts are
/// all there when they cover `0..total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultPart {
    /// The id of the whole.
    pub of: Uuid,
    /// The index of this part's first record in the whole.
    pub first: u32,
    /// How many records the whole has.
    pub total: u32,
}

/// How deep a fault of this record would be: 0 for an ordinary event, 1 more than its own depth where
/// the record is itself a fault event. At depth 2 a unit is returned rather than faulted.
///
/// Reads the top level of the payload only, and of an ordinary event no further than its `type`.
pub fn fault_depth(record: &Record) -> u8 {
    let [kind] = pick(record.payload(), ["type"]);
    if kind.and_then(|kind| kind.text()).as_deref() != Some("fault") {
        return 0;
    }
    let [depth, err] = pick(record.payload(), ["depth", "err"]);
    let depth = depth.and_then(|depth| depth.get().parse::<u8>().ok());
    match (depth, err) {
        (Some(depth), _) => depth.saturating_add(1),
        (None, Some(_)) => 1,
        // a business event that happens to be called `fault`
        (None, None) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ResultExt;
    use crate::fault::Scrub;
    use crate::record::Position;

    fn record(payload: &'static str) -> Record {
        Record::new("s", "0", Position::from(1), payload)
    }

    #[test]
    fn l12_debug_prints_no_text_and_no_payload() {
        let record = record("hunter2").with_key("hunter2").with_header("h", "hunter2");
        let error = Err::<(), _>("hunter2").fault().expect_err("an error");
        let records =
            vec![FaultRecord::whole(record.clone()), FaultRecord::whole(record).claimed("hunter2")];
        let mut fault = FaultEvent::new("p", "q", "r", Class::Fault, records);
        fault.err = FaultError::from(&error);
        fault.derived = Some("hunter2".into());
        fault.tags.insert("a".into(), "hunter2".into());
        let printed = format!("{fault:?} {:#?} {:?}", fault.err, fault.records);
        assert!(!printed.contains("hunter2"), "{printed}");
    }

    #[test]
    fn an_error_keeps_its_chain_and_no_line_of_ours() {
        let error = std::io::Error::other("x".parse::<u8>().expect_err("an error"));
        let error = Err::<(), _>(error).transient().expect_err("an error");
        assert!(error.location().is_some_and(|at| at.file().ends_with("event.rs")));
        let fault = FaultError::from(&error);
        assert_eq!(fault.message, "invalid digit found in string");
        // that a component's line stays is tests/fault_location.rs
        assert!(!fault.stack.contains("event.rs"), "{}", fault.stack);
    }

    #[test]
    fn a_resubmission_links_its_parent() {
        let delivery = Delivery::Resubmit {
            fault: Uuid::from_u128(9),
            attempt: 2,
            part: PartPath::whole(),
            run: None,
        };
        let records = vec![FaultRecord::whole(record("x").with_delivery(delivery))];
        let fault = FaultEvent::new("p", "q", "r", Class::Fault, records);
        assert_eq!((fault.parent, fault.resubmits), (Some(Uuid::from_u128(9)), 2));
    }

    #[test]
    fn f5_a_fault_about_a_fault_says_its_depth() {
        assert_eq!(fault_depth(&record(r#"{"type":"order"}"#)), 0);
        assert_eq!(fault_depth(&record(r#"{"type":"fault","id":"a geological event"}"#)), 0);
        assert_eq!(fault_depth(&record(r#"{"id":"1","type":"fault","err":{},"uow":{}}"#)), 1);
        let mut payload = bytes::Bytes::from_static(b"{}");
        for depth in 0..4 {
            let record = Record::new("s", "0", Position::from(1), payload);
            let fault =
                FaultEvent::new("p", "q", "r", Class::Fault, vec![FaultRecord::whole(record)]);
            assert_eq!(fault.depth, depth);
            payload = fault.finish(&Scrub).to_json().into();
        }
    }
}

//! The ids of fault events.
//!
//! An id is computed from what a fault *is*, never drawn: a crash between storing a fault and
//! committing its records leads to the same unit faulted again, and that must be the same fault (rules
//! F4 and I3). Every part is length-prefixed, so that no two different units read alike.

use uuid::Uuid;

use super::codec::SCHEMA;
use crate::record::{Delivery, PartPath, Record};

/// The namespace of all fault ids: UUID v5 of `streambreaker.fault` in the null namespace.
pub const NAMESPACE: Uuid = Uuid::from_u128(0xb112_8b3f_d633_52ac_9fd5_2665_a943_4116);

/// What is hashed: each field behind its length.
struct Name(Vec<u8>);

impl Name {
    fn new(kind: &str) -> Self {
        let mut name = Self(Vec::with_capacity(256));
        name.field(SCHEMA.as_bytes());
        name.field(kind.as_bytes());
        name
    }

    fn field(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn place(&mut self, record: &Record) {
        self.field(record.stream().as_bytes());
        self.field(record.shard().as_str().as_bytes());
        self.field(record.position().to_string().as_bytes());
    }

    fn part(&mut self, part: &PartPath) {
        let indices: Vec<u8> = part.indices().iter().flat_map(|i| i.to_be_bytes()).collect();
        self.field(&indices);
    }

    fn id(&self) -> Uuid {
        Uuid::new_v5(&NAMESPACE, &self.0)
    }
}

/// The id of the fault of a unit that consists of `records`, in this order, each with the path of the
/// part that faulted.
///
/// It is a UUID v5 over schema, processor, pipeline, stage name, delivery (live; replay and its run;
/// resubmit and the fault that was sent again, whatever the attempt), and for each record stream,
/// shard, position, arrival and part path. What a record *says* is not in it: a position names a
/// record.
///
/// ```
/// use streambreaker::fault::fault_id;
/// use streambreaker::{Delivery, PartPath, Position, Record};
///
/// let (record, whole) = (Record::new("orders", "0", Position::from(42), "{}"), PartPath::whole());
/// let id = || fault_id("totals", "main", "json", &Delivery::Live, [(&record, &whole)]);
/// assert_eq!(id(), id());
/// assert_ne!(id(), fault_id("totals", "main", "call", &Delivery::Live, [(&record, &whole)]));
/// ```
pub fn fault_id<'a>(
    processor: &str,
    pipeline: &str,
    stage: &str,
    delivery: &Delivery,
    records: impl IntoIterator<Item = (&'a Record, &'a PartPath)>,
) -> Uuid {
    let mut name = Name::new("unit");
    name.field(processor.as_bytes());
    name.field(pipeline.as_bytes());
    name.field(stage.as_bytes());
    match delivery {
        Delivery::Live => name.field(b"live"),
        Delivery::Replay { run } => {
            name.field(b"replay");
            name.field(run.as_bytes());
        }
        Delivery::Resubmit { fault, .. } => {
            name.field(b"resubmit");
            name.field(fault.as_bytes());
        }
    }
    for (record, part) in records {
        name.place(record);
        name.field(&record.arrival().as_micros().to_be_bytes());
        name.part(part);
    }
    name.id()
}

/// A name for the work on a record that is the same in every retry, redelivery, replay and resubmission.
pub(crate) fn idempotency_key(record: &Record) -> Uuid {
    let mut name = Name::new("work");
    name.place(record);
    name.id()
}

/// The id of what a stage makes of a unit: the same however often it makes it.
pub(crate) fn effect_id<'a>(
    processor: &str,
    pipeline: &str,
    stage: &str,
    what: &str,
    records: impl IntoIterator<Item = (&'a Record, &'a PartPath)>,
) -> Uuid {
    let mut name = Name::new("effect");
    for field in [processor, pipeline, stage, what] {
        name.field(field.as_bytes());
    }
    for (record, part) in records {
        name.place(record);
        name.part(part);
    }
    name.id()
}

/// The id of what a stage makes under a name of the user's: the same whatever it was made of.
pub(crate) fn named_effect_id(
    processor: &str,
    pipeline: &str,
    stage: &str,
    what: &str,
    identity: &str,
) -> Uuid {
    let mut name = Name::new("named effect");
    for field in [processor, pipeline, stage, what, identity] {
        name.field(field.as_bytes());
    }
    name.id()
}

/// A name for the work of a pipeline on an event, or on a part of one: the same for all copies of the event in a stream,
/// and in a replay one of the run.
pub(crate) fn done_id(
    processor: &str,
    pipeline: &str,
    record: &Record,
    event: Option<&str>,
    part: &PartPath,
) -> Uuid {
    let mut name = Name::new("done");
    name.field(processor.as_bytes());
    name.field(pipeline.as_bytes());
    match record.delivery().run() {
        Some(run) => name.field(run.as_bytes()),
        None => name.field(b""),
    }
    match event {
        Some(id) => {
            name.field(b"event");
            name.field(record.stream().as_bytes());
            name.field(id.as_bytes());
        }
        None => {
            name.field(b"place");
            name.place(record);
        }
    }
    name.part(part);
    name.id()
}

/// The id of a part of the fault `whole`: the `len` records from `first` on, where a fault was too
/// large for its sink.
///
/// It names the range, not a running number: were the sink's limit changed between two lives of a
/// process, parts of the same id would otherwise hold different records.
pub fn part_id(whole: Uuid, first: u32, len: u32) -> Uuid {
    let mut name = Name::new("part");
    name.field(whole.as_bytes());
    name.field(&first.to_be_bytes());
    name.field(&len.to_be_bytes());
    name.id()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Position, Timestamp};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn record(stream: &str, shard: &str, position: u64, arrival: i64) -> Record {
        Record::new(stream, shard, Position::from(position), "x")
            .with_arrival(Timestamp::from_micros(arrival))
    }

    #[test]
    fn the_namespace_is_what_its_doc_says() {
        assert_eq!(NAMESPACE, Uuid::new_v5(&Uuid::nil(), b"streambreaker.fault"));
    }

    #[test]
    fn f4_golden_ids() {
        let (a, b) = (record("orders", "0", 42, 1), record("orders", "1", 7, 2));
        let (whole, part) = (PartPath::whole(), PartPath::new(&[2, 0]));
        let run = Uuid::from_u128(1);
        let resubmit = Delivery::Resubmit {
            fault: Uuid::from_u128(2),
            attempt: 3,
            part: part.clone(),
            run: None,
        };
        let ids = [
            fault_id("p", "main", "json", &Delivery::Live, [(&a, &whole)]),
            fault_id("p", "main", "json", &Delivery::Replay { run }, [(&a, &whole)]),
            fault_id("p", "main", "json", &resubmit, [(&a, &part)]),
            fault_id("p", "main", "group_by#2", &Delivery::Live, [(&a, &whole), (&b, &whole)]),
            part_id(run, 0, 5),
        ];
        assert_eq!(
            ids.map(|id| id.to_string()),
            [
                "309935ba-1de6-5f88-bff9-a52417958759",
                "5a11622e-d951-555a-89d6-fffd1401df1a",
                "11ea8506-a03d-5f2f-9de1-16b30af2a27e",
                "65cee374-a63b-5cb1-b626-393e440529db",
                "bf645c12-812d-5a60-903d-1b6cf451da6a",
            ]
        );
    }

    #[test]
    fn golden_ids_of_work_and_effects() {
        let (a, whole, part) =
            (record("orders", "0", 42, 1), PartPath::whole(), PartPath::new(&[2]));
        let run = Delivery::Replay { run: Uuid::from_u128(1) };
        let replayed = a.clone().with_delivery(run);
        let ids = [
            done_id("p", "main", &a, Some("x"), &whole),
            done_id("p", "main", &a, Some("x"), &part),
            done_id("p", "main", &a, None, &whole),
            done_id("p", "main", &replayed, Some("x"), &whole),
            named_effect_id("p", "main", "publish", "order-completed", "x"),
        ];
        assert_eq!(
            ids.map(|id| id.to_string()),
            [
                "38a65c14-63c7-5b46-aaab-db25c135d665",
                "94b0e0e3-7f4d-5b1a-8523-1c3a42e38b2e",
                "0cc78eae-8b1c-524f-8d9a-8f803d3a5a76",
                "26029c06-b07c-597c-8f0b-de1c0ad08b05",
                "bf5e08be-675c-54ff-af4c-731b53422140",
            ]
        );
        // a copy elsewhere in the stream, delivered for another reason, is the same work
        let fault = Delivery::Resubmit {
            fault: Uuid::nil(),
            attempt: 1,
            part: PartPath::whole(),
            run: None,
        };
        let copy = record("orders", "1", 7, 2).with_delivery(fault.clone());
        assert_eq!(done_id("p", "main", &copy, Some("x"), &whole), ids[0]);
        // nor is what a replay faulted other work than the replay's
        let Delivery::Resubmit { fault, attempt, part, .. } = fault else { unreachable!() };
        let of_replay = Delivery::Resubmit { fault, attempt, part, run: replayed.delivery().run() };
        let of_replay = replayed.clone().with_delivery(of_replay);
        assert_eq!(
            done_id("p", "main", &of_replay, Some("x"), &whole),
            done_id("p", "main", &replayed, Some("x"), &whole)
        );
        for other in [
            done_id("p", "other", &a, Some("x"), &whole),
            done_id("q", "main", &a, Some("x"), &whole),
            done_id("p", "main", &record("payments", "0", 42, 1), Some("x"), &whole),
            done_id("p", "main", &record("orders", "1", 42, 1), None, &whole),
        ] {
            assert!(!ids.contains(&other));
        }
    }

    #[test]
    fn f4_every_field_matters() {
        let whole = PartPath::whole();
        let base = record("s", "0", 1, 1);
        let live = Delivery::Live;
        let mut ids = BTreeSet::new();
        let mut add = |id: Uuid| assert!(ids.insert(id), "an id came twice");
        add(fault_id("p", "q", "r", &live, [(&base, &whole)]));
        add(fault_id("P", "q", "r", &live, [(&base, &whole)]));
        add(fault_id("p", "Q", "r", &live, [(&base, &whole)]));
        add(fault_id("p", "q", "R", &live, [(&base, &whole)]));
        for n in 1..3 {
            let id = Uuid::from_u128(n);
            let part = PartPath::whole();
            add(fault_id("p", "q", "r", &Delivery::Replay { run: id }, [(&base, &whole)]));
            let resubmit = Delivery::Resubmit { fault: id, attempt: 1, part, run: None };
            add(fault_id("p", "q", "r", &resubmit, [(&base, &whole)]));
        }
        for other in [
            record("S", "0", 1, 1),
            record("s", "1", 1, 1),
            record("s", "0", 2, 1),
            record("s", "0", 1, 2),
        ] {
            add(fault_id("p", "q", "r", &live, [(&other, &whole)]));
            add(fault_id("p", "q", "r", &live, [(&base, &whole), (&other, &whole)]));
            add(fault_id("p", "q", "r", &live, [(&other, &whole), (&base, &whole)]));
        }
        for path in [&[0][..], &[1], &[0, 0]] {
            add(fault_id("p", "q", "r", &live, [(&base, &PartPath::new(path))]));
        }
        add(fault_id("p", "q", "r", &live, []));
        for (first, len) in [(0, 1), (1, 1), (0, 2)] {
            add(part_id(Uuid::nil(), first, len));
        }
    }

    #[test]
    fn f4_a_resubmit_that_fails_again_is_one_fault() {
        let (record, whole) = (record("s", "0", 1, 1), PartPath::whole());
        let id = |attempt| {
            let delivery = Delivery::Resubmit {
                fault: Uuid::nil(),
                attempt,
                part: PartPath::whole(),
                run: None,
            };
            fault_id("p", "q", "r", &delivery, [(&record, &whole)])
        };
        assert_eq!(id(1), id(2));
    }

    proptest! {
        #[test]
        fn f4_names_that_run_together_differ(text in "[ab0]{4,8}", i in 0usize..4, j in 0usize..4) {
            prop_assume!(i != j);
            let (record, whole) = (record("s", "0", 1, 1), PartPath::whole());
            let cut = |at: usize| {
                fault_id(&text[..at], &text[at..], "r", &Delivery::Live, [(&record, &whole)])
            };
            prop_assert_ne!(cut(i), cut(j));
        }
    }
}

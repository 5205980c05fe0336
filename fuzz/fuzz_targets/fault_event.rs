//! F7: a fault event is read back as it was written, whatever its bytes; and whatever claims to be one is read or
//! refused, never worse.

#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use streambreaker::fault::{Attempt, FaultEvent, FaultRecord};
use streambreaker::{Class, PartPath, Position, Record, Timestamp};

#[derive(Arbitrary, Debug)]
struct Unit<'a> {
    names: [&'a str; 3],
    class: u8,
    tags: Vec<(&'a str, &'a str)>,
    attempts: Vec<(i64, u8, u32)>,
    records: Vec<Bytes<'a>>,
    derived: Option<&'a str>,
}

#[derive(Arbitrary, Debug)]
struct Bytes<'a> {
    shard: &'a str,
    position: u64,
    key: Option<&'a [u8]>,
    headers: Vec<(&'a str, &'a [u8])>,
    arrival: i64,
    deliveries: u32,
    payload: &'a [u8],
    part: Vec<u32>,
}

fn class(n: u8) -> Class {
    const ALL: [Class; 6] = [
        Class::Fault,
        Class::Transient,
        Class::Throttled,
        Class::Panic,
        Class::CircuitOpen,
        Class::Dropped,
    ];
    ALL[usize::from(n) % ALL.len()]
}

fn event(unit: &Unit<'_>) -> FaultEvent {
    let records = unit.records.iter().take(8).map(|bytes| {
        let position = Position::from(bytes.position);
        let mut record = Record::new("s", bytes.shard, position, bytes.payload.to_vec())
            .with_arrival(Timestamp::from_micros(bytes.arrival))
            .with_deliveries(bytes.deliveries);
        if let Some(key) = bytes.key {
            record = record.with_key(key.to_vec());
        }
        for (name, value) in bytes.headers.iter().take(8) {
            record = record.with_header(*name, value.to_vec());
        }
        FaultRecord::part(record, PartPath::new(&bytes.part))
    });
    let [processor, pipeline, stage] = unit.names;
    let mut event =
        FaultEvent::new(processor, pipeline, stage, class(unit.class), records.collect());
    let tags = unit.tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    event.tags.extend(tags);
    event.attempts = unit
        .attempts
        .iter()
        .take(8)
        .map(|(at, n, micros)| Attempt {
            at: Timestamp::from_micros(*at),
            class: class(*n),
            duration: Duration::from_micros(u64::from(*micros)),
        })
        .collect();
    event.derived = unit.derived.map(str::to_owned);
    event
}

fuzz_target!(|data: &[u8]| {
    // bytes that claim to be a fault event
    if let Ok(read) = FaultEvent::from_json(data) {
        let again = FaultEvent::from_json(&read.to_json());
        assert_eq!(again.as_ref().ok(), Some(&read), "{again:?}");
    }
    // a fault event of any bytes
    let mut data = arbitrary::Unstructured::new(data);
    if let Ok(unit) = Unit::arbitrary(&mut data) {
        let event = event(&unit);
        let json = event.to_json();
        // a fault of no records is none, and is refused
        if !event.records.is_empty() {
            let read = FaultEvent::from_json(&json);
            assert_eq!(read.as_ref().ok(), Some(&event), "{read:?}");
            assert_eq!(read.expect("it was read").to_json(), json);
        }
    }
});

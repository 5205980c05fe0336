//! Faults to write: ordinary ones, groups, and all that is hard to carry.

use std::time::Duration;

use bytes::Bytes;
use streambreaker::Delivery;
use streambreaker::error::Class;
use streambreaker::fault::{Attempt, FaultEvent, FaultRecord, Scrub};
use streambreaker::record::{PartPath, Position, Record, Timestamp};
use uuid::Uuid;

/// An ordinary fault, another one for each number.
pub fn fault(n: usize) -> FaultEvent {
    let payload = format!(r#"{{"id":"{n}","type":"order","total":-1}}"#);
    let record = record(n, payload).with_key(format!("customer-{n}"));
    let mut fault = of(vec![FaultRecord::whole(record)]);
    fault.err.name = "Unfit".to_owned();
    fault.err.message = "the total is not above zero".to_owned();
    fault.finish(&Scrub)
}

/// A fault of a group: so many records, of so many bytes each.
pub fn group(records: usize, bytes: usize) -> FaultEvent {
    let records = (0..records).map(|n| FaultRecord::whole(record(n, vec![b'x'; bytes]))).collect();
    let mut fault = of(records);
    fault.grouped = true;
    fault.finish(&Scrub)
}

fn record(n: usize, payload: impl Into<Bytes>) -> Record {
    Record::new("orders", "0", Position::from(n as u64), payload)
        .with_arrival(Timestamp::from_millis(1_700_000_000_000 + n as i64))
}

fn of(records: Vec<FaultRecord>) -> FaultEvent {
    let mut fault = FaultEvent::new("suite", "orders", "validate", Class::Fault, records);
    fault.timestamp = Timestamp::from_millis(1_700_000_100_000);
    fault
}

/// Faults that something on the way might change: payloads, keys and headers of any bytes; every field set.
pub fn hostile() -> Vec<FaultEvent> {
    let all: Vec<u8> = (0..=255).collect();
    let payloads: Vec<Bytes> = vec![
        Bytes::new(),
        Bytes::from(all.clone()),
        Bytes::from_static(b"\xff\xfe not UTF-8"),
        Bytes::from_static(b"\xef\xbb\xbfbehind a byte order mark"),
        Bytes::from_static(b"two\nlines\r\n"),
        Bytes::from_static(br#"{"n":18446744073709551617,"n":1,"f":1.10,"lone":"\ud800"}"#),
        Bytes::from_static("\u{2028}\u{0}\u{1f600}".as_bytes()),
        Bytes::from("[".repeat(100_000)),
    ];
    let mut faults: Vec<FaultEvent> = (1_000..)
        .zip(payloads)
        .map(|(n, payload)| of(vec![FaultRecord::whole(record(n, payload))]))
        .collect();
    let headers = record(2_000, "headers")
        .with_key(all.clone())
        .with_header("twice", "1")
        .with_header("Twice", all)
        .with_header("twice", "")
        .with_header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    faults.push(of(vec![FaultRecord::whole(headers)]));
    faults.push(of(vec![FaultRecord::whole(record(2_001, "").with_key(""))]));
    faults.push(of(vec![FaultRecord::whole(record(2_002, "large").with_key("k".repeat(1 << 20)))]));
    let part = FaultRecord::part(record(2_003, "part"), PartPath::new(&[3, 0, u32::MAX]));
    faults.push(of(vec![part]));
    let odd = Record::new("s/../\u{0}", "", Position::pair(u64::MAX, 0), "odd names")
        .with_arrival(Timestamp::from_micros(i64::MIN))
        .with_deliveries(u32::MAX);
    faults.push(of(vec![FaultRecord::whole(odd)]));
    faults
        .push(of(vec![FaultRecord::whole(record(2_004, "claimed")).claimed("lake:it/is?there=1")]));
    let again = record(2_005, "again").with_delivery(Delivery::Resubmit {
        fault: Uuid::from_u128(7),
        attempt: 3,
        part: PartPath::new(&[1]),
        run: None,
    });
    faults.push(of(vec![FaultRecord::whole(again)]));
    let replayed =
        record(2_006, "replayed").with_delivery(Delivery::Replay { run: Uuid::from_u128(9) });
    faults.push(of(vec![FaultRecord::whole(replayed)]));
    faults.push(group(3, 10));
    let mut full = of(vec![FaultRecord::whole(record(2_007, "full"))]);
    full.resource = Some("orders-table".to_owned());
    full.release = Some("1.2.3".to_owned());
    full.instance = "pod-7\n".to_owned();
    full.err.name = "Database::Error".to_owned();
    full.err.message = "line one\nline \"two\" \u{0} \\".to_owned();
    full.err.stack = "at here\n\tat there".to_owned();
    full.derived = Some(r#"{"a": [1, 2.50, null]}"#.to_owned());
    full.attempts = (0..3)
        .map(|n| Attempt {
            at: Timestamp::from_millis(1_700_000_000_000 + n),
            class: Class::Transient,
            duration: Duration::from_millis(250),
        })
        .collect();
    full.tags.insert("region\n".to_owned(), "\"eu\"".to_owned());
    full.depth = 1;
    faults.push(full);
    faults.into_iter().map(|fault| fault.finish(&Scrub)).collect()
}

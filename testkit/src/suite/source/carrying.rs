//! What a record carries: byte for byte what was published.

use bytes::Bytes;

use super::harness::{Cannot, Message, SourceHarness, cannot, must, state};
use super::held::{Held, message, publish};
use streambreaker::source::{Acknowledge, Source};

/// Prints all that the source and its harness declare they cannot do; what it declares must not change.
pub async fn states_what_it_cannot_do<H: SourceHarness>(harness: &H) {
    for what in harness.cannot() {
        state(what);
    }
    let source = must("make a consumer", harness.consumer().await);
    let caps = source.caps();
    if caps.acknowledge == Acknowledge::Prefix {
        state("cannot acknowledge one by one");
    } else {
        state("cannot acknowledge by position");
    }
    if caps.deadline.is_none() {
        state("has no deadline");
    }
    if caps.deadline.is_some() && !caps.extends {
        state("cannot extend its deadline");
    }
    if !caps.counts_deliveries {
        state("cannot count deliveries");
    }
    assert!(
        caps.deadline.is_some() || !caps.extends,
        "it extends a deadline that it does not have"
    );
    assert!(!caps.stream.is_empty() && !caps.system.is_empty(), "its stream and system have names");
    assert_eq!(source.caps(), caps, "what a source can do must not change");
    if harness.cannot().contains(&Cannot::Follow) {
        publish(harness, 0..1).await;
    }
    let held = Held::<H>::open(harness).await;
    assert_eq!(held.source.caps(), caps, "what a source can do is the same in every consumer");
}

/// Publishes, and compares what comes.
async fn come_as_they_were<H: SourceHarness>(harness: &H, messages: &[Message]) {
    for message in messages {
        must("publish", harness.publish(0, message).await);
    }
    let cannot = harness.cannot();
    let mut held = Held::open(harness).await;
    let records = held.collect(messages.len()).await;
    for (n, (record, message)) in records.iter().zip(messages).enumerate() {
        let mut sent = message.clone();
        let mut got = Message {
            key: record.key().cloned(),
            headers: record.headers().iter().map(|(k, v)| (k.to_owned(), v.clone())).collect(),
            payload: record.payload().clone(),
        };
        if cannot.contains(&Cannot::OrderHeaders) {
            // the values of one name are in order all the same
            sent.headers.sort_by(|a, b| a.0.cmp(&b.0));
            got.headers.sort_by(|a, b| a.0.cmp(&b.0));
        }
        // who carries no keys may have a key of its own to say where a record is from
        let keys = !cannot.contains(&Cannot::Keys);
        let differs = [
            ("payload", got.payload != sent.payload),
            ("key", keys && got.key != sent.key),
            ("headers", got.headers != sent.headers),
        ];
        if let Some((what, _)) = differs.iter().find(|(_, differs)| *differs) {
            panic!(
                "the {what} of message {n} came changed: published {}, came {}",
                show(message),
                show(&got)
            );
        }
    }
}

/// A message, cut to what a person reads.
fn show(message: &Message) -> String {
    let bytes = |bytes: &Bytes| match bytes.len() {
        0..=80 => format!("{bytes:?}"),
        len => format!("{:?}… ({len} bytes)", bytes.slice(..40)),
    };
    let headers: Vec<_> =
        message.headers.iter().map(|(k, v)| format!("{k}: {}", bytes(v))).collect();
    let key = message.key.as_ref().map_or("none".to_owned(), bytes);
    format!("[key {key}, headers {headers:?}, payload {}]", bytes(&message.payload))
}

/// Payloads that something on the way might change, without line ends.
fn hostile_payloads() -> Vec<Bytes> {
    let all: Vec<u8> = (0..=255).filter(|b| !matches!(b, b'\n' | b'\r')).collect();
    vec![
        Bytes::from(all),
        Bytes::from_static(b"\0"),
        Bytes::from_static(b" "),
        Bytes::from_static(b" surrounded by blanks\t"),
        Bytes::from_static(b"\xef\xbb\xbfbehind a byte order mark"),
        Bytes::from_static(b"\xff\xfe not UTF-8 \xc3\x28"),
        Bytes::from_static(
            br#"{"lone":"\ud800","twice":1,"twice":2,"large":18446744073709551617}"#,
        ),
        Bytes::from("x".repeat(256 << 10)),
    ]
}

/// Payloads are bytes: nothing on the way reads, trims, decodes or cuts them.
pub async fn i5_payloads_come_byte_for_byte<H: SourceHarness>(harness: &H) {
    let mut payloads = hostile_payloads();
    if !cannot(harness, Cannot::EmptyPayloads) {
        payloads.push(Bytes::new());
    }
    if !cannot(harness, Cannot::LineEnds) {
        payloads.extend([Bytes::from_static(b"\n"), Bytes::from_static(b"a\r\nb\n\nc\r")]);
    }
    payloads.push(Bytes::from_static(b"the last"));
    let messages: Vec<_> = payloads.into_iter().map(Message::new).collect();
    come_as_they_were(harness, &messages).await;
}

/// Keys are bytes too, and no key is another thing than any key.
pub async fn i5_keys_come_byte_for_byte<H: SourceHarness>(harness: &H) {
    if cannot(harness, Cannot::Keys) {
        let keyed = message(0).with_key("key");
        if harness.publish(0, &keyed).await.is_ok() {
            let records = Held::open(harness).await.collect(1).await;
            assert_ne!(
                records[0].key(),
                keyed.key.as_ref(),
                "it declares that it cannot carry keys, and does"
            );
        }
        return;
    }
    let mut messages = vec![
        message(0),
        message(1).with_key("customer-7"),
        message(2).with_key(&b"\0\xff\xc3\x28\n"[..]),
        message(3).with_key("x".repeat(200)),
    ];
    if cannot(harness, Cannot::LargeKeys) {
        return come_as_they_were(harness, &messages).await;
    }
    messages.push(message(4).with_key("k".repeat(1 << 20)));
    come_as_they_were(harness, &messages).await;
}

/// Headers keep their order, their bytes and their duplicates.
pub async fn i5_headers_come_in_order_with_duplicates<H: SourceHarness>(harness: &H) {
    if cannot(harness, Cannot::Headers) {
        let with = message(0).with_header("name", "value");
        if harness.publish(0, &with).await.is_ok() {
            let records = Held::open(harness).await.collect(1).await;
            assert_eq!(
                records[0].header("name"),
                None,
                "it declares that it cannot carry headers, and does"
            );
        }
        return;
    }
    if cannot(harness, Cannot::OrderHeaders) {
        let (plain, n) = (message(9), 9);
        let with = (0..n).fold(plain, |all, k| all.with_header(format!("h{}", n - k), "value"));
        must("publish", harness.publish(0, &with).await);
        let mut held = Held::open(harness).await;
        let records = held.collect(1).await;
        let came: Vec<_> = records[0].headers().iter().map(|(name, _)| name.to_owned()).collect();
        let sent: Vec<_> = with.headers.iter().map(|(name, _)| name.clone()).collect();
        assert_ne!(came, sent, "it declares that it cannot keep the order of headers, and does");
        held.settle(&records).await;
    }
    let messages = [
        message(0),
        message(1)
            .with_header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        message(2).with_header("z", "1").with_header("a", "2").with_header("z", "3"),
        message(3).with_header("empty", "").with_header("long", "x".repeat(5_000)),
        (0..50).fold(message(4), |all, n| all.with_header(format!("h{n}"), n.to_string())),
    ];
    come_as_they_were(harness, &messages).await;
}

/// What it cannot carry it must refuse: taken and then lost or changed would be a silent loss.
pub async fn i5_what_cannot_be_carried_is_refused<H: SourceHarness>(harness: &H) {
    let hostile = [
        (Cannot::EmptyPayloads, Message::new("")),
        (Cannot::LineEnds, Message::new("one\ntwo")),
        (Cannot::LargeKeys, message(0).with_key("k".repeat(1 << 20))),
        (Cannot::Headers, message(0).with_header("name", "value")),
        (Cannot::Keys, message(0).with_key("key")),
    ];
    let mut declared = 0;
    for (what, message) in hostile {
        if cannot(harness, what) {
            declared += 1;
            let taken = harness.publish(0, &message).await.is_ok();
            // where it carries no keys or headers at all, it may leave them out
            let left_out = match what {
                Cannot::LargeKeys => harness.cannot().contains(&Cannot::Keys),
                what => matches!(what, Cannot::Keys | Cannot::Headers),
            };
            assert!(!taken || left_out, "it {what}, and takes one");
        }
    }
    publish(harness, 1..2).await;
    let mut held = Held::open(harness).await;
    // whatever was refused has left nothing behind that disturbs the reader
    let mut seen = 0;
    loop {
        let (records, _) = held.read(super::held::ROOM).await;
        seen += records.len();
        if records.iter().any(|record| record.payload() == &message(1).payload) {
            break;
        }
        assert!(seen <= declared + 1, "{seen} records came of {declared} that were published");
    }
}

/// A record says where it is from: the stream of the caps, the shard that was assigned.
pub async fn i5_records_name_their_stream_and_shard<H: SourceHarness>(harness: &H) {
    publish(harness, 0..3).await;
    let mut held = Held::open(harness).await;
    let stream = held.source.caps().stream;
    let ends = harness.cannot().contains(&Cannot::Follow);
    for record in held.collect(3).await {
        assert_eq!(record.stream(), stream, "the stream of a record is not that of the caps");
        assert_eq!(record.shard(), &held.shard, "the shard of a record is not the one assigned");
        // what yields only what is there already may be a replay, and is to say so
        let replay = ends && record.delivery().is_replay();
        assert!(record.delivery().is_live() || replay, "a record of a stream is live");
        assert!(record.deliveries() >= 1);
    }
}

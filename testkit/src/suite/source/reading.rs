//! Reading: every record once, in order, within the room there is.

use std::collections::BTreeSet;
use std::task::Poll;
use std::time::Duration;

use futures::poll;
use streambreaker::record::Position;
use streambreaker::source::{Read, Reader, Room, Source, SourceError};
use tokio::time::{Instant, sleep};

use super::harness::{Cannot, Message, SourceHarness, cannot, must};
use super::held::{Held, ROOM, message, payloads, payloads_of, positions, publish, shards, take};

/// What is published comes, once and in order, and then nothing.
pub async fn s1_every_record_comes_once_in_order<H: SourceHarness>(harness: &H) {
    publish(harness, 0..100).await;
    let mut held = Held::open(harness).await;
    let records = held.collect(100).await;
    assert_eq!(payloads_of(&records), payloads(0..100), "in another order than published");
    held.settle(&records).await;
    held.quiet().await;
}

/// Positions order as the records do; text and value are one.
pub async fn s1_positions_go_up_and_what_they_print_parses_back<H: SourceHarness>(harness: &H) {
    publish(harness, 0..120).await;
    let mut held = Held::open(harness).await;
    let records = held.collect(120).await;
    for pair in records.windows(2) {
        assert!(
            pair[0].position() < pair[1].position(),
            "position {} is not above {}",
            pair[1].position(),
            pair[0].position()
        );
    }
    for record in &records {
        let text = record.position().to_string();
        let back: Position = text.parse().unwrap_or_else(|e| panic!("position {text:?}: {e}"));
        assert_eq!(
            &back,
            record.position(),
            "position {text:?} is another one when it is read back"
        );
    }
}

/// Fault ids are made of stream, shard, position and arrival: a redelivery must not change them.
pub async fn s1_a_record_looks_the_same_in_every_delivery<H: SourceHarness>(harness: &H) {
    publish(harness, 0..20).await;
    let mut first = Held::open(harness).await;
    let before = first.collect(20).await;
    drop(first);
    let mut second = Held::open(harness).await;
    let mut after = second.collect(20).await;
    after.sort_by(|a, b| a.position().cmp(b.position()));
    for (a, b) in before.iter().zip(&after) {
        assert_eq!(a.position(), b.position(), "a position changed in the second delivery");
        assert_eq!(a.arrival(), b.arrival(), "the arrival of {} changed", a.position());
        assert_eq!(a.payload(), b.payload(), "the payload of {} changed", a.position());
        assert_eq!(a.key(), b.key(), "the key of {} changed", a.position());
        assert_eq!(a.headers(), b.headers(), "the headers of {} changed", a.position());
        assert_eq!((a.stream(), a.shard()), (b.stream(), b.shard()), "it came from elsewhere");
    }
}

/// A reader at the end waits, and goes on.
pub async fn s1_what_is_published_later_comes_too<H: SourceHarness>(harness: &H) {
    publish(harness, 0..3).await;
    let mut held = Held::open(harness).await;
    let mut records = held.collect(3).await;
    if cannot(harness, Cannot::Follow) {
        publish(harness, 3..6).await;
        let later = held.read_within(ROOM, harness.time().patience()).await;
        assert!(
            matches!(later, Some(Ok(Read::End))),
            "it declares that it ends behind what was there, and says {later:?}"
        );
        held.settle(&records).await;
        drop(held);
        let later = Held::open(harness).await.collect(3).await;
        assert_eq!(payloads_of(&later), payloads(3..6), "the next one yields what came later");
        return;
    }
    for round in 1..4 {
        let at_the_end = held.read_within(ROOM, Duration::from_millis(300)).await;
        let ended = matches!(at_the_end, Some(Ok(Read::End)));
        assert!(!ended, "it ends although nobody closed it");
        publish(harness, 3 * round..3 * round + 3).await;
        records.extend(held.collect(3).await);
    }
    assert_eq!(payloads_of(&records), payloads(0..12));
}

/// Each shard has its own reader, which stands still for no other.
pub async fn s1_shards_are_read_apart<H: SourceHarness>(harness: &H) {
    if cannot(harness, Cannot::Shards) {
        let taken = harness.publish(1, &message(0)).await.is_ok();
        assert!(
            !taken,
            "it declares that it cannot have a second shard, and takes a message for it"
        );
        return;
    }
    for n in 0..40 {
        must("publish", harness.publish(n % 2, &message(n)).await);
    }
    let mut source = must("make a consumer", harness.consumer().await);
    let shards = take::<H>(harness.time(), &mut source, 2).await;
    let names: BTreeSet<_> = shards.iter().map(|(shard, ..)| shard.clone()).collect();
    assert_eq!(names.len(), 2, "two shards have one name");
    let mut seen = Vec::new();
    // one after the other: the first is not read while the second is
    for (shard, mut reader, _acker) in shards {
        let mut own = Vec::new();
        let began = Instant::now();
        while own.len() < 20 {
            assert!(
                began.elapsed() < harness.time().patience(),
                "{shard} yields {} of 20",
                own.len()
            );
            let read = tokio::time::timeout(harness.time().patience(), reader.read(ROOM)).await;
            match read {
                Ok(Ok(Read::Records { records, .. })) => own.extend(records),
                Ok(Err(SourceError::Transient(_))) => sleep(Duration::from_millis(100)).await,
                other => panic!("shard {shard} yields {} of 20 records, then {other:?}", own.len()),
            }
        }
        assert!(own.iter().all(|r| r.shard() == &shard), "a record of another shard");
        seen.push(payloads_of(&own));
    }
    seen.sort();
    let mut expected = vec![payloads((0..40).step_by(2)), payloads((1..40).step_by(2))];
    expected.sort();
    assert_eq!(seen, expected, "a shard's records are not those published to it, in order");
}

/// A read with nothing to yield waits: a reader that answers "nothing" at once, again and again, burns a core.
pub async fn s1_empty_polls_do_not_spin<H: SourceHarness>(harness: &H) {
    publish(harness, 0..1).await;
    let mut held = Held::open(harness).await;
    let records = held.collect(1).await;
    held.settle(&records).await;
    let quiet = harness.time().quiet();
    let (began, mut answers) = (Instant::now(), 0u32);
    while began.elapsed() < quiet {
        match held.read_within(ROOM, quiet.saturating_sub(began.elapsed())).await {
            None | Some(Ok(Read::End)) => break,
            Some(_) => answers += 1,
        }
        // two to tell where it stands, and ten a second are more than anybody needs
        let most = 20.0 + 10.0 * began.elapsed().as_secs_f64();
        assert!(
            f64::from(answers) < most,
            "{answers} empty answers within {:?}: a read has to wait",
            began.elapsed()
        );
    }
}

/// A read that fails is tried again, and then goes on where it was.
pub async fn s1_read_errors_pass<H: SourceHarness>(harness: &H) {
    if cannot(harness, Cannot::FailReads) {
        assert!(
            harness.fail_reads(1).await.is_err(),
            "it declares that no read can be made to fail"
        );
        return;
    }
    publish(harness, 0..20).await;
    let mut held = Held::open(harness).await;
    let (mut records, _) = held.read(Room { records: 5, ..ROOM }).await;
    must("fail reads", harness.fail_reads(3).await);
    let (mut failed, began) = (0, Instant::now());
    while records.len() < 20 {
        assert!(began.elapsed() < harness.time().patience(), "it does not recover");
        match held.read_within(ROOM, harness.time().patience()).await {
            Some(Ok(Read::Records { records: more, .. })) => records.extend(more),
            Some(Err(SourceError::Transient(_))) => {
                failed += 1;
                sleep(Duration::from_millis(100)).await;
            }
            other => panic!("a read that fails for a while is transient, not {other:?}"),
        }
    }
    assert!(failed > 0, "no read failed");
    assert_eq!(payloads_of(&records), payloads(0..20), "records are lost or came twice");
}

/// The end comes behind the last record, and for good.
pub async fn s1_the_end_is_said_and_stays<H: SourceHarness>(harness: &H) {
    publish(harness, 0..10).await;
    if cannot(harness, Cannot::End) {
        assert!(
            harness.close().await.is_err(),
            "it declares that it cannot end, and can be closed"
        );
        let mut held = Held::open(harness).await;
        let records = held.collect(10).await;
        held.settle(&records).await;
        let until = Instant::now() + harness.time().quiet();
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|d| !d.is_zero())
        {
            match held.read_within(ROOM, left).await {
                Some(Ok(Read::End)) => panic!("it declares that it cannot end, and does"),
                None => break,
                Some(_) => sleep(Duration::from_millis(10)).await,
            }
        }
        return;
    }
    must("close the stream", harness.close().await);
    let mut held = Held::open(harness).await;
    let records = held.collect(10).await;
    held.settle(&records).await;
    let began = Instant::now();
    for _ in 0..3 {
        loop {
            match held.read_within(ROOM, harness.time().patience()).await {
                Some(Ok(Read::End)) => break,
                Some(Ok(Read::Records { records, .. })) if records.is_empty() => {}
                None => panic!("the end is not said"),
                Some(other) => panic!("behind the last record is the end, not {other:?}"),
            }
            assert!(began.elapsed() < harness.time().patience(), "the end is not said");
            sleep(Duration::from_millis(1)).await;
        }
    }
    let next = held.change().await;
    assert!(next.is_none(), "no change of ownership is left to come, but there is {next:?}");
}

/// A read may be dropped where it waits, and where it works: the next one yields what it would have.
pub async fn s1_a_dropped_read_loses_nothing<H: SourceHarness>(harness: &H) {
    if cannot(harness, Cannot::CancelReads) {
        return;
    }
    publish(harness, 0..60).await;
    let mut held = Held::open(harness).await;
    let mut records = Vec::new();
    let room = Room { records: 3, ..ROOM };
    // dropped after ever more polls, some of which yield
    for turn in 0..40 {
        let mut read = held.reader.read(room);
        for _ in 0..turn % 6 {
            if let Poll::Ready(Ok(Read::Records { records: more, .. })) = poll!(&mut read) {
                records.extend(more);
                break;
            }
            sleep(Duration::from_millis(turn % 4)).await;
        }
    }
    while records.len() < 60 {
        records.extend(held.read(ROOM).await.0);
    }
    assert_eq!(payloads_of(&records), payloads(0..60), "a dropped read has lost records");
    if cannot(harness, Cannot::Follow) {
        return;
    }
    // and one that waits at the end
    drop(tokio::time::timeout(Duration::from_millis(50), held.reader.read(ROOM)).await);
    publish(harness, 60..61).await;
    assert_eq!(payloads_of(&held.collect(1).await), payloads(60..61));
}

/// No change of ownership is lost when `next` is dropped.
pub async fn s1_a_dropped_next_loses_nothing<H: SourceHarness>(harness: &H) {
    publish(harness, 0..3).await;
    let n = shards(harness);
    let mut source = must("make a consumer", harness.consumer().await);
    let mut early = Vec::new();
    for turn in 0..12u64 {
        let mut next = source.next();
        for _ in 0..turn % 4 {
            match poll!(&mut next) {
                Poll::Ready(Ok(Some(change))) => {
                    early.push(format!("{change:?}"));
                    break;
                }
                Poll::Ready(_) => break,
                Poll::Pending => sleep(Duration::from_millis(turn)).await,
            }
        }
        if early.len() == n {
            break;
        }
    }
    let left = n - early.len().min(n);
    let rest = take::<H>(harness.time(), &mut source, left).await;
    let all = early.len() + rest.len();
    assert_eq!(all, n, "{all} of {n} shards are assigned: a dropped `next` has lost one");
}

/// Records that are gone before they were read are said to be gone.
pub async fn s2_a_gap_is_reported<H: SourceHarness>(harness: &H) {
    publish(harness, 0..20).await;
    if cannot(harness, Cannot::Gap) {
        assert!(harness.forget(10).await.is_err(), "it declares that it cannot forget, and does");
        return;
    }
    let mut held = Held::open(harness).await;
    let (read, _) = held.read(Room { records: 5, ..ROOM }).await;
    held.settle(&read).await;
    drop(held);
    must("forget records", harness.forget(10).await);
    let mut held = Held::open(harness).await;
    let began = Instant::now();
    let (from, to) = loop {
        match held.read_within(ROOM, harness.time().patience()).await {
            Some(Ok(Read::Gap { from, to })) => break (from, to),
            Some(Ok(Read::Records { records, .. })) if records.is_empty() => {}
            Some(Err(SourceError::Transient(_))) => sleep(Duration::from_millis(100)).await,
            other => panic!("S2: records are gone, and it jumps over them in silence: {other:?}"),
        }
        assert!(began.elapsed() < harness.time().patience(), "the gap is not reported");
    };
    let left = held.collect(10).await;
    assert_eq!(payloads_of(&left), payloads(10..20), "behind the gap it goes on");
    let (last, next) = (read[read.len() - 1].position(), left[0].position());
    assert!(
        *last < from && from < to && to <= *next,
        "the gap is {from} to {to}, and what is missing lies between {last} and {next}"
    );
}

/// A source that says `Some(0)` stands at the end: iterator age is nought there.
pub async fn s9_behind_is_zero_only_at_the_end<H: SourceHarness>(harness: &H) {
    publish(harness, 0..30).await;
    let mut held = Held::open(harness).await;
    let mut seen = 0u64;
    while seen < 30 {
        let (records, behind) = held.read(Room { records: 7, ..ROOM }).await;
        seen += records.len() as u64;
        if let Some(left) = behind.records {
            assert_eq!(left == 0, seen == 30, "{left} records are left, it says, of {}", 30 - seen);
        }
    }
}

/// The room in records is a limit, and not only a hint.
pub async fn o7_room_in_records_is_kept<H: SourceHarness>(harness: &H) {
    publish(harness, 0..50).await;
    let mut held = Held::open(harness).await;
    let (mut all, mut turn) = (Vec::new(), 0);
    while all.len() < 50 {
        turn += 1;
        let room = Room { records: 1 + turn % 7, ..ROOM };
        let (records, _) = held.read(room).await;
        let (n, most) = (records.len(), room.records);
        assert!(n <= most, "O7: {n} records, and there was room for {most}");
        all.extend(records);
    }
    assert_eq!(payloads_of(&all), payloads(0..50), "{:?}", positions(&all));
}

/// So is the room in bytes, but for a record that is larger by itself: it comes alone, so that it comes at all.
pub async fn o7_room_in_bytes_is_kept_and_a_larger_record_comes_alone<H: SourceHarness>(
    harness: &H,
) {
    let sizes = [100, 100, 100, 5_000, 100, 900, 200, 100, 1_000, 1_001, 50, 50];
    let sent: Vec<Message> = sizes.iter().map(|size| Message::new("x".repeat(*size))).collect();
    for message in &sent {
        must("publish", harness.publish(0, message).await);
    }
    let mut held = Held::open(harness).await;
    let mut all = Vec::new();
    while all.len() < sent.len() {
        let room = Room { records: 100, bytes: 1_000 };
        let (records, _) = held.read(room).await;
        let bytes: usize = records.iter().map(streambreaker::Record::size).sum();
        let (n, most) = (records.len(), room.bytes);
        assert!(bytes <= most || n == 1, "O7: {n} records of {bytes} bytes, room for {most}");
        all.extend(records);
    }
    let expected: Vec<_> = sent.into_iter().map(|message| message.payload).collect();
    assert_eq!(payloads_of(&all), expected);
}

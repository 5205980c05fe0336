//! Sources that acknowledge one by one, have a deadline, or count deliveries.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use streambreaker::record::{Position, Record};
use streambreaker::source::{Ack, Acker, Acknowledge, Caps, Settled, Source};
use tokio::time::{Instant, sleep};

use super::harness::{SourceHarness, must, state};
use super::held::{Held, ROOM, payloads, payloads_of, publish};

async fn caps<H: SourceHarness>(harness: &H) -> Caps {
    must("make a consumer", harness.consumer().await).caps()
}

/// Whether it acknowledges one by one; stated where it does not.
async fn one_by_one<H: SourceHarness>(harness: &H) -> bool {
    let each = caps(harness).await.acknowledge == Acknowledge::Each;
    if !each {
        state("cannot acknowledge one by one");
    }
    each
}

async fn acknowledge<H: SourceHarness>(held: &mut Held<H>, acks: &[(Position, Ack)]) {
    if let Err(error) = held.acker.settle(Settled::Each(acks)).await {
        panic!("an acknowledgement fails: {error}");
    }
}

fn of(records: &[Record], ack: Ack) -> Vec<(Position, Ack)> {
    records.iter().map(|record| (record.position().clone(), ack)).collect()
}

/// What is given back comes again, to the same consumer, and not sooner than it was asked to.
pub async fn s1_given_back_comes_again_not_before_its_delay<H: SourceHarness>(harness: &H) {
    if !one_by_one(harness).await {
        return;
    }
    publish(harness, 0..6).await;
    let mut held = Held::open(harness).await;
    let records = held.collect(6).await;
    let delay = Duration::from_secs(2);
    let began = Instant::now();
    acknowledge(&mut held, &of(&records[..1], Ack::Again { after: delay })).await;
    acknowledge(&mut held, &of(&records[1..2], Ack::Again { after: Duration::ZERO })).await;
    acknowledge(&mut held, &of(&records[2..], Ack::Done)).await;
    let mut again = BTreeMap::new();
    while again.len() < 2 {
        let (records, _) = held.read(ROOM).await;
        for record in records {
            again.insert(record.payload().clone(), began.elapsed());
        }
    }
    assert_eq!(again.keys().cloned().collect::<Vec<_>>(), payloads(0..2), "others came again");
    let took = again[&payloads(0..1)[0]];
    assert!(took >= delay, "given back for {delay:?}, it came after {took:?}");
}

/// Acknowledgements need no order, and one does not stand for another.
pub async fn s1_acknowledged_one_by_one_in_any_order<H: SourceHarness>(harness: &H) {
    if !one_by_one(harness).await {
        return;
    }
    publish(harness, 0..10).await;
    let mut held = Held::open(harness).await;
    let records = held.collect(10).await;
    let mut odd: Vec<_> = records.iter().skip(1).step_by(2).rev().cloned().collect();
    let last = odd.split_off(3);
    acknowledge(&mut held, &of(&odd, Ack::Done)).await;
    acknowledge(&mut held, &of(&last, Ack::Faulted)).await;
    drop(held);
    let mut next = Held::open(harness).await;
    let mut seen = payloads_of(&next.collect(5).await);
    seen.sort();
    assert_eq!(seen, payloads((0..10).step_by(2)), "what is not acknowledged comes again");
    next.quiet_of(&payloads((1..10).step_by(2))).await;
}

/// The count goes up with each delivery where it is declared, and is 1 where it is not.
pub async fn i10_deliveries_are_counted<H: SourceHarness>(harness: &H) {
    let counts = caps(harness).await.counts_deliveries;
    if !counts {
        state("cannot count deliveries");
    }
    publish(harness, 0..3).await;
    for life in 1..=4u32 {
        let mut held = Held::open(harness).await;
        let mut records = held.collect(3).await;
        records.sort_by(|a, b| a.position().cmp(b.position()));
        for record in &records {
            let (n, said) = (if counts { life } else { 1 }, record.deliveries());
            // a broker may count a delivery that nobody has seen, not forget one
            assert!(
                if counts { said >= n && said <= 3 * n } else { said == 1 },
                "in delivery {life} it says {said}"
            );
        }
    }
}

/// A consumer that is alive but does not settle loses a record to the deadline, and only to it.
pub async fn t5_what_is_not_settled_by_its_deadline_comes_again<H: SourceHarness>(harness: &H) {
    let caps = caps(harness).await;
    publish(harness, 0..4).await;
    let mut held = Held::open(harness).await;
    let records = held.collect(4).await;
    let Some(deadline) = caps.deadline else {
        state("has no deadline");
        return held.quiet().await;
    };
    if caps.acknowledge == Acknowledge::Prefix {
        return state("its deadline is the shard's");
    }
    let began = Instant::now();
    acknowledge(&mut held, &of(&records[..2], Ack::Done)).await;
    let mut seen = held.collect_within(2).await;
    seen.sort();
    assert_eq!(seen, payloads(2..4), "what was settled came again");
    let took = began.elapsed();
    assert!(
        took + deadline / 4 >= deadline,
        "a deadline of {deadline:?} has passed after {took:?}"
    );
}

/// `extend` keeps what is named past the deadline. Without `extends` it does nothing.
pub async fn t5_extend_keeps_a_record_past_its_deadline<H: SourceHarness>(harness: &H) {
    let caps = caps(harness).await;
    let Some(deadline) = caps.deadline else {
        return state("has no deadline");
    };
    if caps.acknowledge == Acknowledge::Prefix {
        return state("its deadline is the shard's");
    }
    publish(harness, 0..4).await;
    let mut held = Held::open(harness).await;
    let records = held.collect(4).await;
    let kept: Vec<Position> = records[..2].iter().map(|r| r.position().clone()).collect();
    let mut seen: Vec<Bytes> = Vec::new();
    // three deadlines and a bit
    for _ in 0..10 {
        if held.acker.extend(&kept).await.is_err() {
            panic!("the owner cannot extend");
        }
        let until = Instant::now() + deadline / 3;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|d| !d.is_zero())
        {
            match held.read_within(ROOM, left).await {
                Some(Ok(streambreaker::source::Read::Records { records, .. })) => {
                    seen.extend(payloads_of(&records));
                    sleep(Duration::from_millis(1)).await;
                }
                Some(other) => panic!("records are held, and a read yields {other:?}"),
                None => break,
            }
        }
    }
    let came = |n: usize| seen.contains(&payloads(n..n + 1)[0]);
    assert!(came(2) && came(3), "what was not extended did not come again");
    if caps.extends {
        assert!(!came(0) && !came(1), "what was extended came again");
    } else {
        state("cannot extend its deadline");
        assert!(came(0) && came(1), "it declares that it does not extend, and does");
    }
}

//! What a sink says of each item, and whether it is true.

use std::future::Future;
use std::task::Poll;
use std::time::Duration;

use futures::poll;
use streambreaker::Sink;
use streambreaker::error::Class;
use streambreaker::sink::OutcomeLog;

use super::harness::{Cannot, SinkHarness, cannot, must, state, write, write_all};

pub(super) fn items<H: SinkHarness>(harness: &H, numbers: std::ops::Range<usize>) -> Vec<H::Item> {
    numbers.map(|n| harness.item(n)).collect()
}

pub(super) async fn open<H: SinkHarness>(harness: &H) -> H::Sink {
    must("open the sink", harness.sink().await)
}

/// Holds it against it that these items are stored, and says which are not.
pub(super) async fn stored<H: SinkHarness>(harness: &H, items: &[H::Item]) {
    if cannot(harness, Cannot::ReadBack) {
        return;
    }
    let all = must("read back", harness.stored().await);
    let missing: Vec<usize> =
        (0..items.len()).filter(|index| !all.contains(&items[*index])).collect();
    assert!(
        missing.is_empty(),
        "of {} items that were confirmed, those at {missing:?} are not stored ({} are)",
        items.len(),
        all.len()
    );
}

/// How often an item is stored.
pub(super) async fn times<H: SinkHarness>(harness: &H, item: &H::Item) -> usize {
    must("read back", harness.stored().await).iter().filter(|stored| *stored == item).count()
}

/// Prints all that the sink and its harness declare they cannot do.
pub async fn states_what_it_cannot_do<H: SinkHarness>(harness: &H) {
    for what in harness.cannot() {
        state(what);
    }
    let sink = open(harness).await;
    if sink.limits().bytes == usize::MAX {
        state("has no limit in bytes");
    }
    match sink.stream() {
        Some(stream) => assert!(!stream.is_empty(), "a stream has a name"),
        None => state("writes to nothing that a source could read"),
    }
    assert!(harness.item(0) != harness.item(1), "the harness makes one item twice");
    if harness.cannot().contains(&Cannot::ReadBack) {
        assert!(harness.stored().await.is_err(), "it declares that it cannot show what is stored");
    }
}

/// A request that goes well confirms each item, and nothing else.
pub async fn k1_every_item_has_its_outcome<H: SinkHarness>(harness: &H) {
    let sink = open(harness).await;
    for n in [1, 2, 50] {
        let items = items(harness, 100 * n..100 * n + n.min(sink.limits().items));
        let (log, error) = write(&sink, &items).await;
        if let Some(error) = error {
            panic!("a request of {n} ordinary items fails: {}", error.message());
        }
        for index in 0..items.len() {
            assert!(log.is_done(index), "K1: item {index} of {} is not confirmed", items.len());
        }
    }
}

/// No confirmation before the item is there for good.
pub async fn k1_what_is_confirmed_is_stored<H: SinkHarness>(harness: &H) {
    let sink = open(harness).await;
    let mut all = Vec::new();
    for round in 0..5 {
        let items = items(harness, 20 * round..20 * round + 20);
        write_all(&sink, &items).await;
        all.extend(items);
        stored(harness, &all).await;
    }
}

/// An item that will never be taken fails by itself, for good, and is said to.
pub async fn k1_a_rejected_item_leaves_its_neighbours_alone<H: SinkHarness>(harness: &H) {
    let Some(bad) = harness.rejected() else {
        assert!(
            cannot(harness, Cannot::Reject),
            "implement `rejected`, or declare `Cannot::Reject`"
        );
        return;
    };
    assert!(
        !harness.cannot().contains(&Cannot::Reject),
        "it declares that it cannot refuse an item"
    );
    let sink = open(harness).await;
    let items = [harness.item(0), bad, harness.item(1)];
    // one item a request is a request too
    let step = sink.limits().items.min(3);
    for (n, part) in items.chunks(step).enumerate() {
        let (log, error) = write(&sink, part).await;
        for index in 0..part.len() {
            let bad = n * step + index == 1;
            let class = log.error(index).or(error.as_ref()).map(|error| error.class());
            assert_eq!(log.is_done(index), !bad, "K1: item {index} beside a bad one: {class:?}");
            assert!(!bad || class == Some(Class::Fault), "a bad item is {class:?}, and no fault");
        }
    }
    stored(harness, &[items[0].clone(), items[2].clone()]).await;
}

/// Whatever an item holds: stored as it is, or rejected by itself.
pub async fn k1_hostile_items_are_stored_as_they_are_or_rejected_alone<H: SinkHarness>(
    harness: &H,
) {
    let hostile = harness.hostile();
    if hostile.is_empty() {
        state("knows no hostile items");
    }
    let sink = open(harness).await;
    let limits = sink.limits();
    let mut kept = Vec::new();
    for (n, item) in hostile.into_iter().enumerate() {
        if sink.size(&item) > limits.bytes {
            continue;
        }
        let alone = [item];
        let (log, error) = write(&sink, &alone).await;
        let class = log.error(0).or(error.as_ref()).map(|error| error.class());
        assert!(
            log.is_done(0) || class == Some(Class::Fault),
            "hostile item {n} is neither confirmed nor refused for good: {class:?}"
        );
        if log.is_done(0) {
            kept.extend(alone);
        }
        let good = [harness.item(n)];
        write_all(&sink, &good).await;
        kept.extend(good);
    }
    stored(harness, &kept).await;
}

/// While the destination is away nothing is confirmed, and it says that trying again may help.
pub async fn k1_while_it_is_down_nothing_is_confirmed<H: SinkHarness>(harness: &H) {
    if cannot(harness, Cannot::GoDown) {
        assert!(harness.down().await.is_err(), "it declares that it cannot be made to fail");
        return;
    }
    let sink = open(harness).await;
    write_all(&sink, &items(harness, 0..3)).await;
    must("take it down", harness.down().await);
    let down = items(harness, 3..5);
    for _ in 0..3 {
        let request = write(&sink, &down);
        // one that hangs is dropped, as at a timeout
        let Ok((log, error)) = tokio::time::timeout(harness.time().quiet(), request).await else {
            continue;
        };
        for index in 0..down.len() {
            assert!(!log.is_done(index), "K1: it is down, and item {index} is confirmed");
            let class = log.error(index).or(error.as_ref()).map(|error| error.class());
            assert!(
                matches!(class, None | Some(Class::Transient | Class::Throttled)),
                "it is down, and item {index} is {class:?}: that would set the item aside for good"
            );
        }
    }
    must("let it up", harness.up().await);
    write_all(&sink, &down).await;
    stored(harness, &items(harness, 0..5)).await;
}

/// Dropped at any await: what it had noted is stored, and the sink works on.
pub async fn k1_a_dropped_write_has_stored_what_it_noted<H: SinkHarness>(harness: &H) {
    let sink = open(harness).await;
    let mut confirmed = Vec::new();
    for polls in 0..8 {
        let items = items(harness, 10 * polls..10 * polls + 5.min(sink.limits().items));
        let mut log = OutcomeLog::new(items.len());
        {
            let mut outcomes = log.outcomes();
            let mut request = sink.write(&items, &mut outcomes);
            for _ in 0..polls {
                if poll_once(&mut request).await {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let noted = items.iter().enumerate().filter(|(index, _)| log.is_done(*index));
        confirmed.extend(noted.map(|(_, item)| item.clone()));
        stored(harness, &confirmed).await;
        // and the same again, as the engine would
        write_all(&sink, &items).await;
        confirmed.extend(items);
    }
    stored(harness, &confirmed).await;
}

async fn poll_once<T>(future: &mut (impl Future<Output = T> + Unpin)) -> bool {
    matches!(poll!(future), Poll::Ready(_))
}

/// A lost reply means that an item is written again: confirmed again, and kept once where it is declared.
pub async fn k1_what_is_written_again_is_confirmed_again<H: SinkHarness>(harness: &H) {
    let sink = open(harness).await;
    let items = items(harness, 0..5);
    for _ in 0..3 {
        write_all(&sink, &items).await;
    }
    stored(harness, &items).await;
    if harness.cannot().contains(&Cannot::ReadBack) {
        return;
    }
    let once = !cannot(harness, Cannot::Deduplicate);
    for (index, item) in items.iter().enumerate() {
        let times = times(harness, item).await;
        if once {
            assert_eq!(
                times, 1,
                "item {index} was written three times, and is there {times} times"
            );
        } else {
            assert!(
                times > 1,
                "it declares that it keeps what is written twice, and keeps it once"
            );
        }
    }
}

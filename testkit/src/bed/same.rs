//! The proof that a component is idempotent and order-agnostic.

use std::fmt::Debug;
use std::ops::AsyncFn;
use std::time::Duration;

use streambreaker::Timestamp;

use super::differ::difference;
use super::feed::TestBed;
use crate::suite::source::Message;

/// How many shuffles are tried, and as many of what was fed twice.
const SHUFFLES: u64 = 8;

/// Feeds the same events once, twice, and shuffled by sixteen seeds, and holds it against the component that it ends
/// the same each time.
///
/// `component` is called for each: it makes its tables anew, adds its pipelines to the bed, runs it, and returns
/// what is in the tables.
///
/// ```
/// use std::collections::BTreeMap;
/// use std::sync::{Arc, Mutex};
/// use std::time::Duration;
///
/// use streambreaker::prelude::*;
/// use streambreaker_testkit::bed::{TestBed, same_however_fed};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # tokio::time::pause();
/// let prices = (1..=20u64).map(|version| format!(r#"{{"product":{},"version":{version}}}"#, version % 3));
///
/// same_however_fed(prices, async |bed: TestBed| {
///     #[derive(serde::Deserialize)]
///     struct Price { product: u64, version: u64 }
///
///     let view: Arc<Mutex<BTreeMap<u64, u64>>> = Arc::default();
///     let (rows, db) = (view.clone(), Resource::builder("db").timeout(Duration::from_secs(1)).build().unwrap());
///     bed.pipeline("prices", move |flow| {
///         let rows = rows.clone();
///         flow.json::<Price>().parallel(4, &db, async move |price: &Event<Price>| {
///             let mut rows = rows.lock().unwrap();
///             let row = rows.entry(price.product).or_default();
///             *row = price.version.max(*row); // stale input is not an error
///             Ok(())
///         })
///     })
///     .run()
///     .await
///     .assert_no_faults();
///     view.lock().unwrap().clone()
/// })
/// .await;
/// # }
/// ```
///
/// # Panics
/// When it ends otherwise, with how it was fed (a seed, to feed it so again) and what differs.
pub async fn same_however_fed<M, T>(
    events: impl IntoIterator<Item = M>,
    component: impl AsyncFn(TestBed) -> T,
) where
    M: Into<Message>,
    T: PartialEq + Debug,
{
    let twice = way(".twice()".to_owned(), TestBed::twice);
    let shuffled = (1..=SHUFFLES).flat_map(|seed| {
        [
            way(format!(".shuffled({seed})"), move |bed| bed.shuffled(seed)),
            way(format!(".twice().shuffled({seed})"), move |bed| bed.twice().shuffled(seed)),
        ]
    });
    same_in_all(events, std::iter::once(twice).chain(shuffled), component).await;
}

/// As [`same_however_fed`], for a component that stands disorder up to a limit only: fed once, and late by up to `most`
/// ([`TestBed::late`]), once and twice, by sixteen seeds.
///
/// ```
/// use std::collections::BTreeMap;
/// use std::sync::{Arc, Mutex};
/// use std::time::Duration;
///
/// use streambreaker::Timestamp;
/// use streambreaker::prelude::*;
/// use streambreaker_testkit::bed::{Message, TestBed, same_however_late};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # tokio::time::pause();
/// // one a second; what is a minute behind is refused, and half a minute late is not that late
/// let ticks = (0..100u64).map(|second| second.to_string());
/// let happened = |tick: &Message| {
///     let second: i64 = String::from_utf8_lossy(&tick.payload).parse().unwrap();
///     Timestamp::from_millis(1_000 * second)
/// };
///
/// same_however_late(ticks, Duration::from_secs(30), happened, async |bed: TestBed| {
///     let latest = Arc::new(Mutex::new(0));
///     let db = Resource::builder("db").timeout(Duration::from_secs(1)).build().unwrap();
///     let seen = latest.clone();
///     bed.pipeline("ticks", move |flow| {
///         let seen = seen.clone();
///         flow.json::<u64>().call(&db, async move |second: &Event<u64>| {
///             let mut latest = seen.lock().unwrap();
///             *latest = second.max(*latest);
///             if **second + 60 < *latest { Err("a minute behind").fault() } else { Ok(()) }
///         })
///     })
///     .run()
///     .await
///     .faults()
///     .len()
/// })
/// .await;
/// # }
/// ```
///
/// # Panics
/// As [`same_however_fed`].
pub async fn same_however_late<M, T>(
    events: impl IntoIterator<Item = M>,
    most: Duration,
    happened: impl Fn(&Message) -> Timestamp + Clone + 'static,
    component: impl AsyncFn(TestBed) -> T,
) where
    M: Into<Message>,
    T: PartialEq + Debug,
{
    let ways = (1..=SHUFFLES).flat_map(|seed| {
        let (once, twice) = (happened.clone(), happened.clone());
        [
            way(format!(".late({seed}, …)"), move |bed| bed.late(seed, most, once)),
            way(format!(".twice().late({seed}, …)"), move |bed| {
                bed.twice().late(seed, most, twice)
            }),
        ]
    });
    same_in_all(events, ways, component).await;
}

/// How to feed, in words and in deed.
type Way = (String, Box<dyn FnOnce(TestBed) -> TestBed>);

fn way(words: String, feed: impl FnOnce(TestBed) -> TestBed + 'static) -> Way {
    (words, Box::new(feed))
}

async fn same_in_all<M, T>(
    events: impl IntoIterator<Item = M>,
    ways: impl Iterator<Item = Way>,
    component: impl AsyncFn(TestBed) -> T,
) where
    M: Into<Message>,
    T: PartialEq + Debug,
{
    let events: Vec<Message> = events.into_iter().map(Into::into).collect();
    let bed = || TestBed::new().feed(events.clone());
    let expected = component(bed()).await;
    for (how, feed) in ways {
        let found = component(feed(bed())).await;
        if found != expected {
            let difference = difference(&expected, &found);
            panic!(
                "fed by `{how}`, it ends otherwise than fed once and in order (-):\n{difference}"
            );
        }
    }
}

//! The proof that a component is idempotent and order-agnostic.

use std::fmt::Debug;
use std::ops::AsyncFn;

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
    let events: Vec<Message> = events.into_iter().map(Into::into).collect();
    let bed = || TestBed::new().feed(events.clone());
    let expected = component(bed()).await;
    let same = |how: String, found: T| {
        if found != expected {
            let difference = difference(&expected, &found);
            panic!("fed {how}, it ends otherwise than fed once and in order (-):\n{difference}");
        }
    };
    same("twice, by `.twice()`".to_owned(), component(bed().twice()).await);
    for seed in 1..=SHUFFLES {
        let shuffled = component(bed().shuffled(seed)).await;
        same(format!("in another order, by `.shuffled({seed})`"), shuffled);
        let both = component(bed().twice().shuffled(seed)).await;
        same(format!("twice in another order, by `.twice().shuffled({seed})`"), both);
    }
}

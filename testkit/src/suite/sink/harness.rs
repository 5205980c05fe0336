//! What a destination tells the suite, and does for it.

use std::fmt;
use std::future::Future;

use streambreaker::error::Class;
use streambreaker::sink::OutcomeLog;
use streambreaker::{BoxError, Sink, StepError};

use crate::suite::check::{Harness, declared};
pub(crate) use crate::suite::check::{must, state};

/// What a sink, or its harness, cannot do. Stated by the tests, and checked where that can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cannot {
    /// Show what is stored.
    ReadBack,
    /// Keep the order of items.
    KeepOrder,
    /// Find an item too large.
    Overflow,
    /// Refuse an item for good.
    Reject,
    /// Be made to fail, and to work again.
    GoDown,
    /// Keep an item once that is written twice.
    Deduplicate,
}

impl fmt::Display for Cannot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cannot::ReadBack => "cannot show what is stored",
            Cannot::KeepOrder => "cannot keep the order of items",
            Cannot::Overflow => "cannot find an item too large",
            Cannot::Reject => "cannot refuse an item for good",
            Cannot::GoDown => "cannot be made to fail",
            Cannot::Deduplicate => "cannot keep once what is written twice",
        })
    }
}

fn unable<T>(method: &str, what: Cannot) -> Result<T, BoxError> {
    Err(format!("implement `{method}` in the harness, or declare `Cannot::{what:?}`").into())
}

/// A destination for one test.
///
/// Methods that stand for something in [`Cannot`] need not be implemented where that is declared.
pub trait SinkHarness: Harness {
    /// What is written.
    type Item: Clone + PartialEq + Send + Sync + 'static;
    /// The sink under test.
    type Sink: Sink<Self::Item> + 'static;

    /// What it cannot do. Who says nothing is held to everything.
    fn cannot(&self) -> Vec<Cannot> {
        Vec::new()
    }

    /// An ordinary item, another one for each number, small enough for a hundred in a request.
    fn item(&self, n: usize) -> Self::Item;

    /// Items that something on the way might change, or refuse: stored as they are, or each rejected by itself.
    fn hostile(&self) -> Vec<Self::Item> {
        Vec::new()
    }

    /// Opens the sink; again, after it was dropped, on the same destination.
    fn sink(&self) -> impl Future<Output = Result<Self::Sink, BoxError>>;

    /// What is durable, in order, and twice what is there twice. [`Cannot::ReadBack`] otherwise.
    fn stored(&self) -> impl Future<Output = Result<Vec<Self::Item>, BoxError>> {
        async { unable("stored", Cannot::ReadBack) }
    }

    /// An item above the limit in bytes. [`Cannot::Overflow`] otherwise.
    fn too_large(&self) -> Option<Self::Item> {
        None
    }

    /// An item that the destination refuses for good. [`Cannot::Reject`] otherwise.
    fn rejected(&self) -> Option<Self::Item> {
        None
    }

    /// Makes every write fail. [`Cannot::GoDown`] otherwise.
    fn down(&self) -> impl Future<Output = Result<(), BoxError>> {
        async { unable("down", Cannot::GoDown) }
    }

    /// Lets writes go through again.
    fn up(&self) -> impl Future<Output = Result<(), BoxError>> {
        async { unable("up", Cannot::GoDown) }
    }
}

/// Whether it declares that it cannot do this, which is then stated.
pub(crate) fn cannot<H: SinkHarness>(harness: &H, what: Cannot) -> bool {
    declared(&harness.cannot(), what)
}

/// One request, and what the sink says of it.
pub(crate) async fn write<T>(sink: &impl Sink<T>, items: &[T]) -> (OutcomeLog, Option<StepError>) {
    let mut log = OutcomeLog::new(items.len());
    let result = sink.write(items, &mut log.outcomes()).await;
    assert_eq!(
        log.strays(),
        0,
        "K1: it notes outcomes of items that are not there, or contradicts itself"
    );
    (log, result.err())
}

/// Writes items as the bulk engine does: within the limits, again what is not confirmed, in order.
pub(crate) async fn write_all<T: Clone>(sink: &impl Sink<T>, items: &[T]) {
    let mut left = items.to_vec();
    for turn in 0..50 {
        let limits = sink.limits();
        let mut bytes = 0usize;
        let fits = left.iter().take(limits.items).take_while(|item| {
            bytes = bytes.saturating_add(sink.size(item));
            bytes <= limits.bytes
        });
        let n = fits.count();
        if n == 0 {
            assert!(left.is_empty(), "an ordinary item is above the limits: {limits:?}");
            return;
        }
        let (log, error) = write(sink, &left[..n]).await;
        for index in 0..n {
            let fails = log.error(index).or(error.as_ref());
            let class = fails.filter(|_| !log.is_done(index)).map(StepError::class);
            assert!(
                class.is_none_or(|class| matches!(class, Class::Transient | Class::Throttled)),
                "an ordinary item fails with {class:?}: {}",
                fails.map_or_else(String::new, |error| error.message())
            );
        }
        let mut index = 0;
        left.retain(|_| {
            index += 1;
            !log.is_done(index - 1)
        });
        if left.is_empty() {
            return;
        }
        if error.is_some() || !log.is_done(0) {
            tokio::time::sleep(std::time::Duration::from_millis(20 * turn)).await;
        }
    }
    panic!("{} of {} items are not confirmed, again and again", left.len(), items.len());
}

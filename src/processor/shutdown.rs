//! When to stop: a first signal drains, a second one ends the drain.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;

type Signal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Tells a processor when to stop.
///
/// The first signal begins the drain: nothing new is read, what is in flight goes on to its end, faults are
/// stored, positions committed. The second ends it at once: what is unfinished is not committed.
#[must_use = "pass it to `Processor::run`"]
pub struct Shutdown {
    first: Option<Signal>,
    second: Option<Signal>,
}

/// SIGTERM or SIGINT (Ctrl-C) begins the drain, a second one ends it. Where there are no Unix signals, Ctrl-C
/// alone.
///
/// To be made inside a tokio runtime with its I/O driver enabled.
///
/// # Panics
/// When polled, if the process cannot install a signal handler.
pub fn shutdown() -> Shutdown {
    // the second begins to listen only when the drain has begun
    Shutdown { first: Some(Box::pin(signal())), second: Some(Box::pin(signal())) }
}

#[cfg(unix)]
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let why = "a process may install handlers for SIGTERM and SIGINT";
    let mut term = signal(SignalKind::terminate()).expect(why);
    let mut int = signal(SignalKind::interrupt()).expect(why);
    tokio::select! {
        biased;
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

#[cfg(not(unix))]
async fn signal() {
    tokio::signal::ctrl_c().await.expect("a process may listen to Ctrl-C");
}

impl Shutdown {
    /// Drains when `first` is ready; nothing ends the drain but its limit.
    pub fn on(first: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { first: Some(Box::pin(first)), second: None }
    }

    /// The same, with a signal that ends the drain.
    pub fn and_then(mut self, second: impl Future<Output = ()> + Send + 'static) -> Self {
        self.second = Some(Box::pin(second));
        self
    }

    /// Runs until the source ends.
    pub const fn never() -> Self {
        Self { first: None, second: None }
    }

    /// By hand: the trigger drains at its first call, and ends the drain at its second.
    ///
    /// ```
    /// use streambreaker::Shutdown;
    ///
    /// let (trigger, shutdown) = Shutdown::by_hand();
    /// trigger.pull();
    /// # drop(shutdown);
    /// ```
    pub fn by_hand() -> (Trigger, Self) {
        let (trigger, pulls) = watch::channel(0);
        let pulled = |times: u32| {
            let mut pulls = pulls.clone();
            async move {
                if pulls.wait_for(|pulls| *pulls >= times).await.is_err() {
                    // nobody is left who could pull
                    std::future::pending().await
                }
            }
        };
        (Trigger(Arc::new(trigger)), Self::on(pulled(1)).and_then(pulled(2)))
    }

    /// Waits for the first signal; for ever, where there is none: for work of another kind that ends in peace by the same
    /// signal.
    ///
    /// ```
    /// use streambreaker::Shutdown;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let (trigger, shutdown) = Shutdown::by_hand();
    /// trigger.pull();
    /// shutdown.signalled().await;
    /// # }
    /// ```
    pub async fn signalled(self) {
        match self.first {
            Some(signal) => signal.await,
            None => std::future::pending().await,
        }
    }

    /// The next signal: the first, then the second; pending for ever after them.
    ///
    /// Cancel-safe.
    pub(crate) async fn next(&mut self) {
        let slot = if self.first.is_some() { &mut self.first } else { &mut self.second };
        match slot {
            None => std::future::pending().await,
            Some(signal) => {
                signal.await;
                *slot = None;
            }
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::never()
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown").finish_non_exhaustive()
    }
}

/// Stops a processor by hand. See [`Shutdown::by_hand`].
#[derive(Clone)]
pub struct Trigger(Arc<watch::Sender<u32>>);

impl Trigger {
    /// The first pull drains, the second ends the drain.
    pub fn pull(&self) {
        self.0.send_modify(|pulls| *pulls = pulls.saturating_add(1));
    }
}

impl fmt::Debug for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trigger")
    }
}

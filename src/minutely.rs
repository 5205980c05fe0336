//! Keeps a log line from flooding: one line a minute, with how often it happened.
//!
//! A dependency that is down for a thousand shards, or a unit that is returned every 100 ms, is one thing to
//! know, not a thousand lines. What is kept back is counted, and the count stands in the next line.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

/// How often one line is said.
pub(crate) const EVERY: Duration = Duration::from_secs(60);

/// One line that is said at most once a minute.
#[derive(Debug, Default)]
pub(crate) struct Minutely(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    said: Option<Instant>,
    kept: u64,
}

impl Minutely {
    /// It has happened: whether to say so now, and if so how often it happened since it was last said, this
    /// time included.
    pub(crate) fn due(&self) -> Option<u64> {
        let mut state = self.lock();
        state.kept = state.kept.saturating_add(1);
        state.say(false)
    }

    /// Like [`due`](Self::due), of what happened before and was kept back: for a line that nothing follows.
    /// `last` does not wait for the minute to be over.
    pub(crate) fn left(&self, last: bool) -> Option<u64> {
        self.lock().say(last)
    }

    /// Whether it has never been said.
    pub(crate) fn is_new(&self) -> bool {
        self.lock().said.is_none()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    fn say(&mut self, now_in_any_case: bool) -> Option<u64> {
        let now = Instant::now();
        let due = self.said.is_none_or(|said| now.duration_since(said) >= EVERY);
        if self.kept == 0 || !(due || now_in_any_case) {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_said_at_once_and_then_once_a_minute_with_a_count() {
        let line = Minutely::default();
        assert_eq!((line.left(true), line.is_new()), (None, true));
        let mut said = Vec::new();
        for _ in 0..150 {
            said.extend(line.due());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(said, [1, 60, 60]);
        assert_eq!((line.left(false), line.left(true), line.left(true)), (None, Some(29), None));
        assert!(!line.is_new());
    }

    #[tokio::test(start_paused = true)]
    async fn what_nothing_follows_is_said_a_minute_later() {
        let line = Minutely::default();
        assert_eq!((line.due(), line.due()), (Some(1), None));
        tokio::time::advance(EVERY).await;
        assert_eq!((line.left(false), line.left(false)), (Some(1), None));
    }
}

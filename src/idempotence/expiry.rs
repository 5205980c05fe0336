//! When what is kept in memory is forgotten: oldest first, a few at a time.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How many expired things are forgotten at one call. More than one, so that a sweep that runs at each put
/// keeps up; few, so that no put pays for a quiet night.
const SWEEP: usize = 8;

/// All have the same time to live, so the queue is in the order in which they expire.
pub(super) struct Expiry<T> {
    ttl: Duration,
    queue: VecDeque<(Instant, T)>,
}

impl<T> Expiry<T> {
    pub(super) fn new(ttl: Duration) -> Self {
        Self { ttl, queue: VecDeque::new() }
    }

    /// Begins the life of something, and says when it ends.
    pub(super) fn begin(&mut self, now: Instant, what: T) -> Instant {
        const NEVER: Duration = Duration::from_secs(30 * 365 * 86_400);
        let end = now.checked_add(self.ttl.min(NEVER)).unwrap_or(now);
        self.queue.push_back((end, what));
        end
    }

    /// Hands out some of what has expired, each with the end it was given.
    pub(super) fn sweep(&mut self, now: Instant) -> impl Iterator<Item = (Instant, T)> {
        let ended = |n: &usize| self.queue.get(*n).is_some_and(|(end, _)| *end <= now);
        let expired = (0..SWEEP).take_while(ended).count();
        self.queue.drain(..expired)
    }

    /// Takes the one that would expire next.
    pub(super) fn pop(&mut self) -> Option<(Instant, T)> {
        self.queue.pop_front()
    }

    #[cfg(test)]
    pub(super) fn queue_len(&self) -> usize {
        self.queue.len()
    }
}

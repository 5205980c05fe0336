//! What retention took before it was read.
//!
//! A consumer of NATS skips what is gone without a word. It is found by looking twice: at how far the consumer has
//! come, and at where the stream begins now. A hole in the numbers by itself says nothing: other subjects, messages that
//! were deleted by hand, or what another process was given lie between.

use std::time::Duration;

use tokio::time::Instant;

use crate::record::Delivered;

/// How often the stream is asked where it begins, at most.
const EVERY: Duration = Duration::from_secs(1);
/// Holes that are remembered until the stream is asked; with more it is asked at once.
const HOLES: usize = 256;

/// What is known of the consumer's way through its stream.
#[derive(Debug)]
pub(crate) struct Gaps {
    /// Whether the consumer passes over subjects.
    filtered: bool,
    /// Behind the highest sequence that was delivered.
    next: u64,
    /// The number of the last delivery, and what was pending behind it.
    last: Option<(u64, u64)>,
    holes: Vec<(u64, u64)>,
    asked: Option<Instant>,
}

impl Gaps {
    /// For a consumer that was last given `delivered`.
    pub(crate) fn new(filtered: bool, delivered: u64) -> Self {
        Self {
            filtered,
            next: delivered.saturating_add(1),
            last: None,
            holes: Vec::new(),
            asked: None,
        }
    }

    /// Notes a delivery.
    pub(crate) fn see(&mut self, delivered: &Delivered) {
        let &Delivered { sequence, consumer_sequence, deliveries, pending, .. } = delivered;
        // nobody else was given anything in between, and there was something to come
        let own = self.last.is_some_and(|(number, pending)| {
            number + 1 == consumer_sequence && !(self.filtered && pending == 0)
        });
        if deliveries == 1 && sequence > self.next && own && self.holes.len() < HOLES {
            self.holes.push((self.next, sequence));
        }
        if deliveries == 1 {
            self.next = self.next.max(sequence.saturating_add(1));
        }
        self.last = Some((consumer_sequence, pending));
    }

    /// Whether the stream is to be asked where it begins.
    pub(crate) fn is_due(&self) -> bool {
        !self.holes.is_empty()
            && (self.holes.len() == HOLES || self.asked.is_none_or(|at| at.elapsed() >= EVERY))
    }

    /// The stream begins at `first`: what of the holes retention has taken, `from` inclusive, `to` exclusive.
    pub(crate) fn begins_at(&mut self, first: u64) -> Vec<(u64, u64)> {
        self.asked = Some(Instant::now());
        let holes = std::mem::take(&mut self.holes);
        holes
            .into_iter()
            .map(|(from, to)| (from, to.min(first)))
            .filter(|(from, to)| from < to)
            .collect()
    }

    /// The stream began at `first`, and then the consumer had been given everything up to `delivered`, and this process
    /// or another all that it was given: what lies between is gone.
    pub(crate) fn stands_at(&mut self, first: u64, delivered: u64) -> Option<(u64, u64)> {
        // what another process was given is not this one's to report
        self.next = self.next.max(delivered.saturating_add(1));
        let gap = (first > self.next).then_some((self.next, first));
        self.next = self.next.max(first);
        self.last = None;
        gap
    }

    /// The same when a process begins: what is open above `settled` was given to a process that may have died, so it
    /// counts as not given to anybody.
    pub(crate) fn begins(
        &mut self,
        first: u64,
        delivered: u64,
        settled: u64,
    ) -> Option<(u64, u64)> {
        let gap = self.stands_at(first, delivered);
        let from = settled.saturating_add(1);
        if first > from { Some((from, first)) } else { gap }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivered(sequence: u64, consumer_sequence: u64, pending: u64) -> Delivered {
        Delivered {
            sequence,
            consumer_sequence,
            deliveries: 1,
            pending,
            arrival: streambreaker::Timestamp::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn s2_a_hole_is_a_gap_only_where_the_stream_begins_behind_it() {
        let mut gaps = Gaps::new(false, 0);
        gaps.see(&delivered(1, 1, 9));
        gaps.see(&delivered(10, 2, 0));
        assert!(gaps.is_due());
        assert_eq!(gaps.begins_at(1), [], "they were deleted, not taken by retention");
        gaps.see(&delivered(20, 3, 0));
        assert!(!gaps.is_due(), "asked a moment ago");
        tokio::time::advance(EVERY).await;
        assert!(gaps.is_due());
        assert_eq!(gaps.begins_at(15), [(11, 15)]);
    }

    #[tokio::test(start_paused = true)]
    async fn s2_what_others_were_given_is_no_hole() {
        let mut gaps = Gaps::new(false, 0);
        gaps.see(&delivered(1, 1, 9));
        gaps.see(&delivered(5, 4, 0));
        assert!(!gaps.is_due());
    }

    #[tokio::test(start_paused = true)]
    async fn s2_other_subjects_are_no_hole() {
        let mut gaps = Gaps::new(true, 0);
        gaps.see(&delivered(1, 1, 0));
        gaps.see(&delivered(500, 2, 3));
        assert!(!gaps.is_due(), "nothing of the filter's was pending");
        gaps.see(&delivered(900, 3, 0));
        assert_eq!(gaps.begins_at(800), [(501, 800)]);
    }

    #[tokio::test(start_paused = true)]
    async fn s2_a_consumer_that_stands_before_the_stream_has_lost_what_lies_between() {
        let mut gaps = Gaps::new(false, 10);
        assert_eq!(gaps.stands_at(5, 10), None);
        assert_eq!(gaps.stands_at(21, 12), Some((13, 21)));
        assert_eq!(gaps.stands_at(21, 12), None, "once");
    }

    #[tokio::test(start_paused = true)]
    async fn s2_what_nobody_settled_may_be_gone_with_the_process_that_had_it() {
        assert_eq!(Gaps::new(false, 20).begins(31, 20, 10), Some((11, 31)));
        assert_eq!(Gaps::new(false, 20).begins(16, 20, 10), Some((11, 16)));
        assert_eq!(Gaps::new(false, 20).begins(11, 20, 10), None);
    }
}

//! When the turns of a set of slots ended, for as long as something runs that began in them.
//!
//! What begins in a turn has its deadline counted from the end of that turn. So it notes the number of the turn,
//! which is one store, and nothing else has to be done for it unless a deadline comes near.

/// So many turns are kept before it is asked which of them are still needed.
const LOOK_FROM: usize = 64;

pub(super) struct Turns {
    present: u64,
    /// Number and end, in order.
    ended: Vec<(u64, u64)>,
    look_at: usize,
}

impl Turns {
    pub(super) const fn new() -> Self {
        // zero is what began in no turn
        Self { present: 1, ended: Vec::new(), look_at: LOOK_FROM }
    }

    /// The number of the present turn.
    #[inline]
    pub(super) fn present(&self) -> u64 {
        self.present
    }

    /// Ends the present turn. `needed` are the turns in which something began that still runs: asked for only when
    /// the turns that are kept have doubled.
    pub(super) fn end<I: Iterator<Item = u64>>(&mut self, now: u64, needed: impl FnOnce() -> I) {
        self.ended.push((self.present, now));
        self.present += 1;
        if self.ended.len() >= self.look_at {
            let mut needed: Vec<u64> = needed().collect();
            needed.sort_unstable();
            self.ended.retain(|(turn, _)| needed.binary_search(turn).is_ok());
            self.look_at = (2 * self.ended.len()).max(LOOK_FROM);
        }
    }

    /// When a turn ended; `None` if it has not.
    pub(super) fn end_of(&self, turn: u64) -> Option<u64> {
        let found = self.ended.binary_search_by_key(&turn, |(turn, _)| *turn);
        found.ok().map(|place| self.ended[place].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_kept_as_long_as_it_is_needed() {
        let mut turns = Turns::new();
        let old = turns.present();
        for now in 0..100_000 {
            // one that hangs, beside others that are done in the next turn
            let last = turns.present();
            turns.end(10 * now, || [old, last].into_iter());
            assert_eq!(turns.end_of(old), Some(0));
            assert_eq!(turns.end_of(last), Some(10 * now));
            assert_eq!(turns.end_of(turns.present()), None);
            assert!(turns.ended.len() <= LOOK_FROM, "{}", turns.ended.len());
        }
    }

    #[test]
    fn many_that_run_cost_no_look_at_each_in_every_turn() {
        let mut turns = Turns::new();
        let mut looks = 0;
        for now in 0..10_000 {
            let present = turns.present();
            turns.end(now, || {
                looks += 1;
                1..=present
            });
        }
        assert_eq!((turns.ended.len(), turns.end_of(5_000)), (10_000, Some(4_999)));
        assert!(looks < 10, "{looks}");
    }
}

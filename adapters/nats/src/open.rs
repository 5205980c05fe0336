//! Where what is delivered and not settled is to be acknowledged.
//!
//! Most often sequences come in order, and are settled about in order. So they lie in a row: the next that is asked for is
//! mostly the one behind the last, and what is settled leaves at the front. One that is out of the row is searched for.

use std::collections::VecDeque;

use async_nats::Subject;

/// Settled ones that are not looked for: fewer cost less than to close the row.
const FEW: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Open {
    /// By sequence; without a reply where it is settled.
    row: VecDeque<(u64, Option<Subject>)>,
    settled: usize,
}

impl Open {
    pub(crate) fn len(&self) -> usize {
        self.row.len() - self.settled
    }

    /// Notes where a sequence is to be acknowledged, in place of what was noted before.
    pub(crate) fn insert(&mut self, sequence: u64, reply: Subject) {
        if self.row.back().is_none_or(|(last, _)| *last < sequence) {
            self.row.push_back((sequence, Some(reply)));
            return;
        }
        match self.search(sequence) {
            Ok(at) => {
                if self.row[at].1.replace(reply).is_none() {
                    self.settled -= 1;
                }
            }
            Err(at) => self.row.insert(at, (sequence, Some(reply))),
        }
    }

    /// `next` is where it may be: behind the one that was asked for before.
    pub(crate) fn get(&self, sequence: u64, next: &mut usize) -> Option<&Subject> {
        let at = self.place(sequence, next)?;
        self.row[at].1.as_ref()
    }

    /// These are settled.
    pub(crate) fn close(&mut self, sequences: impl Iterator<Item = u64>) {
        let mut next = 0;
        for sequence in sequences {
            if let Some(at) = self.place(sequence, &mut next)
                && self.row[at].1.take().is_some()
            {
                self.settled += 1;
            }
        }
        while self.row.front().is_some_and(|(_, reply)| reply.is_none()) {
            self.row.pop_front();
            self.settled -= 1;
        }
        // one that is stuck must not keep all behind it
        if self.settled > FEW.max(self.row.len() / 2) {
            self.row.retain(|(_, reply)| reply.is_some());
            self.settled = 0;
        }
    }

    /// All that are not settled, in order.
    pub(crate) fn into_replies(self) -> Vec<Subject> {
        self.row.into_iter().filter_map(|(_, reply)| reply).collect()
    }

    fn place(&self, sequence: u64, next: &mut usize) -> Option<usize> {
        let at = match self.row.get(*next) {
            Some((there, _)) if *there == sequence => *next,
            _ => self.search(sequence).ok()?,
        };
        *next = at + 1;
        Some(at)
    }

    fn search(&self, sequence: u64) -> Result<usize, usize> {
        self.row.binary_search_by_key(&sequence, |(sequence, _)| *sequence)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn reply(n: u64) -> Subject {
        Subject::from(n.to_string())
    }

    #[test]
    fn it_is_the_map_that_it_stands_for() {
        let (mut open, mut map) = (Open::default(), BTreeMap::new());
        let mut random = 7u64;
        let mut below = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % n
        };
        for round in 0..5_000u64 {
            // mostly ahead, sometimes one that was there before
            let sequence = if below(5) == 0 { below(round + 1) } else { round };
            open.insert(sequence, reply(round));
            map.insert(sequence, reply(round));
            if below(3) == 0 {
                let from = below(round + 1);
                let few = (from..from + below(9)).chain([below(round + 1)]);
                for sequence in few.clone() {
                    map.remove(&sequence);
                }
                open.close(few);
            }
            let mut next = 0;
            let asked = below(round + 1);
            for sequence in asked..asked + 3 {
                assert_eq!(open.get(sequence, &mut next), map.get(&sequence));
            }
            assert_eq!(open.len(), map.len());
            assert!(open.row.len() <= 2 * map.len().max(FEW));
        }
        assert!(map.len() > 100, "it was not empty all the while");
        assert_eq!(open.into_replies(), map.into_values().collect::<Vec<_>>());
    }
}

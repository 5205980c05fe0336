//! A set of positions of one shard.
//!
//! Most often they are integers close together, and come and go in order. So 64 of them share one word, and the word that
//! was changed last is at hand: a position costs a bit, and hardly ever a look into a tree.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::Position;

#[derive(Clone, Debug, Default)]
pub(super) struct Positions {
    /// Which word is at hand, and which of its 64 integers are in the set.
    at: u64,
    bits: u64,
    /// The other words, by all but the low six bits of their integers. None is zero.
    words: BTreeMap<u64, u64>,
    /// What is no integer.
    others: BTreeSet<Position>,
    len: usize,
}

/// The word of an integer, and its bit there.
fn place(n: u64) -> (u64, u64) {
    (n >> 6, 1 << (n & 63))
}

impl Positions {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn contains(&self, position: &Position) -> bool {
        match position.as_u64().map(place) {
            Some((word, bit)) if word == self.at => self.bits & bit != 0,
            Some((word, bit)) => self.words.get(&word).is_some_and(|bits| bits & bit != 0),
            None => self.others.contains(position),
        }
    }

    /// Whether it was not there before.
    pub(super) fn insert(&mut self, position: &Position) -> bool {
        let new = match position.as_u64().map(place) {
            Some((word, bit)) => {
                let bits = self.take_up(word);
                let new = *bits & bit == 0;
                *bits |= bit;
                new
            }
            None => self.others.insert(position.clone()),
        };
        self.len += usize::from(new);
        new
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, position: &Position) -> bool {
        let there = match position.as_u64().map(place) {
            Some((word, bit)) => {
                let bits = self.take_up(word);
                let there = *bits & bit != 0;
                *bits &= !bit;
                there
            }
            None => self.others.remove(position),
        };
        self.len -= usize::from(there);
        there
    }

    /// Forgets the lowest.
    pub(super) fn pop_first(&mut self) {
        let first = self.words.keys().next().copied();
        if let Some(first) = first.filter(|first| self.bits == 0 || *first < self.at) {
            self.take_up(first);
        }
        let gone = self.bits != 0 || self.others.pop_first().is_some();
        self.bits &= self.bits.wrapping_sub(1);
        self.len -= usize::from(gone);
    }

    /// Takes a word up, and puts the other one down.
    #[inline]
    fn take_up(&mut self, word: u64) -> &mut u64 {
        if word != self.at {
            let bits = self.words.remove(&word).unwrap_or_default();
            let before = std::mem::replace(&mut self.bits, bits);
            if before != 0 {
                self.words.insert(self.at, before);
            }
            self.at = word;
        }
        &mut self.bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn position() -> impl Strategy<Value = Position> {
        prop_oneof![
            8 => (0..200u64).prop_map(Position::from),
            1 => (u64::MAX - 70..=u64::MAX).prop_map(Position::from),
            2 => (0..4u64, 0..4u64).prop_map(|(ms, n)| Position::pair(ms, n)),
        ]
    }

    #[derive(Clone, Debug)]
    enum Act {
        Insert(Position),
        Remove(Position),
        PopFirst,
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => position().prop_map(Act::Insert),
            3 => position().prop_map(Act::Remove),
            1 => Just(Act::PopFirst),
        ]
    }

    proptest! {
        #[test]
        fn it_is_the_set_that_it_stands_for(acts in prop::collection::vec(act(), 0..300)) {
            let (mut real, mut model) = (Positions::default(), BTreeSet::new());
            for act in acts {
                match act {
                    Act::Insert(at) => prop_assert_eq!(real.insert(&at), model.insert(at)),
                    Act::Remove(at) => prop_assert_eq!(real.remove(&at), model.remove(&at)),
                    // integers are before all others, here as there
                    Act::PopFirst => {
                        real.pop_first();
                        model.pop_first();
                    }
                }
                prop_assert_eq!((real.len(), real.is_empty()), (model.len(), model.is_empty()));
                prop_assert!(real.words.values().all(|bits| *bits != 0));
            }
            prop_assert!(model.iter().all(|at| real.contains(at)));
            prop_assert!((0..200).map(Position::from).all(|at| real.contains(&at) == model.contains(&at)));
        }
    }
}

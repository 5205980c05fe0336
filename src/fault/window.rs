//! The window of the flood guard: which of the last units were faults, without a bit for each.
//!
//! Good units are known by their number alone, so between two faults one count is enough, and a window
//! of any size costs what its faults cost.

use std::collections::VecDeque;

/// The last decided units: for each fault how many good ones came before it, and those since.
#[derive(Default)]
pub(super) struct Window {
    before: VecDeque<u64>,
    since: u64,
    total: u64,
}

impl Window {
    pub(super) fn good(&mut self, count: u64, size: u32) {
        self.since = self.since.saturating_add(count);
        self.total = self.total.saturating_add(count);
        self.trim(size);
    }

    pub(super) fn fault(&mut self, size: u32) {
        self.before.push_back(std::mem::take(&mut self.since));
        self.total = self.total.saturating_add(1);
        self.trim(size);
    }

    /// Forgets the oldest units above `size`.
    pub(super) fn trim(&mut self, size: u32) {
        let mut excess = self.total.saturating_sub(u64::from(size));
        self.total -= excess;
        while excess > 0 {
            match self.before.front_mut() {
                Some(good) if *good >= excess => {
                    *good -= excess;
                    return;
                }
                Some(good) => {
                    excess -= *good + 1;
                    self.before.pop_front();
                }
                None => {
                    self.since -= excess;
                    return;
                }
            }
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many faults it holds.
    pub(super) fn faults(&self) -> usize {
        self.before.len()
    }

    /// How many units it holds.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The share of faults if one more came, which at a full window pushes the oldest unit out.
    pub(super) fn ratio_with_one_more(&self, size: u32) -> f64 {
        let full = self.total >= u64::from(size);
        let leaves = full && self.before.front() == Some(&0);
        let faults = self.before.len() + 1 - usize::from(leaves);
        let total = if full { self.total } else { self.total + 1 };
        faults as f64 / total.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The window against the plain list of decided units that it stands for.
        #[test]
        fn the_window_is_exact(
            steps in proptest::collection::vec(proptest::option::of(0u64..20), 0..100), size in 1u32..30,
        ) {
            let (mut window, mut list) = (Window::default(), VecDeque::new());
            for step in steps {
                let mut next: Vec<bool> = list.iter().copied().chain([true]).collect();
                next.drain(..next.len().saturating_sub(size as usize));
                let share = next.iter().filter(|fault| **fault).count() as f64 / next.len() as f64;
                prop_assert_eq!(window.ratio_with_one_more(size), share);
                match step {
                    Some(good) => {
                        window.good(good, size);
                        list.extend(std::iter::repeat_n(false, good as usize));
                    }
                    None => {
                        window.fault(size);
                        list.push_back(true);
                    }
                }
                while list.len() > size as usize {
                    list.pop_front();
                }
                prop_assert_eq!(window.total as usize, list.len());
                prop_assert_eq!(window.before.len(), list.iter().filter(|fault| **fault).count());
                prop_assert_eq!(window.before.iter().sum::<u64>() + window.since + window.before.len() as u64, window.total);
            }
        }
    }
}

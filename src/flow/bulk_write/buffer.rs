//! What waits for a request of `bulk_write`: which items go into the next one, and when it is due.
//!
//! With an order of keys, an item stays behind the one of its key that is in a request, and others overtake it.
//! Nothing in here waits, so the stage above it is left with polling.

use std::collections::{HashSet, VecDeque};

use tokio::time::Instant;

use super::request::Origin;
use crate::flow::Window;
use crate::unit::Lineage;

pub(super) struct Item<T> {
    pub(super) value: T,
    pub(super) lineage: Lineage,
    pub(super) size: usize,
    /// Of its key, where keys are kept in order.
    pub(super) key: u64,
    pub(super) since: Instant,
}

pub(super) struct Buffer<T> {
    items: VecDeque<Item<T>>,
    /// Their bytes; wide enough for any sizes that a sink may report.
    bytes: u128,
    /// Whether items of one key are kept in order.
    pub(super) ordered: bool,
    /// Keys of which an item is in a request.
    busy: HashSet<u64>,
    /// Keys of which an item was returned: nothing behind it is written any more.
    stopped: HashSet<u64>,
}

impl<T> Buffer<T> {
    pub(super) fn new() -> Self {
        Self {
            items: VecDeque::new(),
            bytes: 0,
            ordered: false,
            busy: HashSet::new(),
            stopped: HashSet::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn has_room(&self, window: Window) -> bool {
        if self.ordered {
            // an item may wait behind its key without keeping others from filling the request
            self.items.len() < window.items.saturating_mul(4)
        } else {
            self.items.len() < window.items && self.bytes < window.bytes as u128
        }
    }

    /// Takes an item in; or hands back its lineage, when it comes behind a returned one of its key.
    pub(super) fn push(&mut self, item: Item<T>) -> Result<(), Lineage> {
        if self.stopped.contains(&item.key) {
            return Err(item.lineage);
        }
        self.bytes += item.size as u128;
        self.items.push_back(item);
        Ok(())
    }

    /// All that waits; it will not be written.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Lineage> {
        self.bytes = 0;
        self.items.drain(..).map(|item| item.lineage)
    }

    /// An item of a request was decided. One that was returned where order is kept stops its key.
    pub(super) fn decided(&mut self, key: u64, stops: bool) {
        if self.busy.remove(&key) && stops {
            self.stopped.insert(key);
        }
    }

    /// Takes out what waits behind a returned item of its key.
    pub(super) fn take_stopped(&mut self) -> Vec<Lineage> {
        let mut taken = Vec::new();
        if self.stopped.is_empty() {
            return taken;
        }
        for item in std::mem::take(&mut self.items) {
            if self.stopped.contains(&item.key) {
                self.bytes -= item.size as u128;
                taken.push(item.lineage);
            } else {
                self.items.push_back(item);
            }
        }
        taken
    }

    /// Which items would go into the next request, as indices, and whether the request is full.
    fn eligible(&self, window: Window) -> (Vec<usize>, bool) {
        let mut picked = Vec::new();
        let (mut bytes, most) = (0, window.bytes as u128);
        let mut keys = HashSet::new();
        for (index, item) in self.items.iter().enumerate() {
            if self.ordered && (self.busy.contains(&item.key) || !keys.insert(item.key)) {
                continue;
            }
            let size = item.size as u128;
            if bytes + size > most {
                return (picked, true);
            }
            bytes += size;
            picked.push(index);
            if picked.len() == window.items {
                return (picked, true);
            }
        }
        (picked, bytes >= most)
    }

    /// Takes the items of the next request out, if it is due.
    pub(super) fn take_request(
        &mut self,
        window: Window,
        hurry: bool,
    ) -> Option<(Vec<T>, Vec<Origin>)> {
        let (picked, full) = self.eligible(window);
        let first = *picked.first()?;
        let due = || self.items[first].since + window.linger <= Instant::now();
        if !full && !hurry && !due() {
            return None;
        }
        let taken = if picked.last() == Some(&(picked.len() - 1)) {
            self.items.drain(..picked.len()).collect()
        } else {
            self.extract(&picked)
        };
        let (mut values, mut origins) =
            (Vec::with_capacity(taken.len()), Vec::with_capacity(taken.len()));
        for item in taken {
            self.bytes -= item.size as u128;
            if self.ordered {
                self.busy.insert(item.key);
            }
            values.push(item.value);
            origins.push((item.lineage, item.key));
        }
        Some((values, origins))
    }

    /// Takes out the items at these indices, which ascend.
    fn extract(&mut self, picked: &[usize]) -> Vec<Item<T>> {
        let mut rest = VecDeque::with_capacity(self.items.len() - picked.len());
        let mut taken = Vec::with_capacity(picked.len());
        let mut picked = picked.iter().peekable();
        for (index, item) in self.items.drain(..).enumerate() {
            if picked.next_if_eq(&&index).is_some() {
                taken.push(item);
            } else {
                rest.push_back(item);
            }
        }
        self.items = rest;
        taken
    }

    /// When the oldest item that could be written has lingered enough.
    pub(super) fn due(&self, window: Window) -> Option<Instant> {
        self.items
            .iter()
            .find(|item| !self.ordered || !self.busy.contains(&item.key))
            .map(|item| item.since + window.linger)
    }
}

//! A queue of units that are ready to go on.
//!
//! Two stacks, of which one is turned over into the other when that has run out: for a unit that is pushed and
//! popped this costs half of what a ring costs.

pub(crate) struct Queue<T> {
    /// The oldest last.
    out: Vec<T>,
    /// The oldest first; all of them newer than those in `out`.
    new: Vec<T>,
}

impl<T> Queue<T> {
    pub(crate) const fn new() -> Self {
        Self { out: Vec::new(), new: Vec::new() }
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, item: T) {
        self.new.push(item);
    }

    /// The oldest.
    #[inline(always)]
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.out.is_empty() {
            if self.new.is_empty() {
                return None;
            }
            self.turn_over();
        }
        self.out.pop()
    }

    #[inline(never)]
    fn turn_over(&mut self) {
        std::mem::swap(&mut self.out, &mut self.new);
        self.out.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_first_goes_first() {
        let mut queue = Queue::new();
        let mut popped = Vec::new();
        for n in 0..100 {
            queue.push(2 * n);
            queue.push(2 * n + 1);
            popped.extend(queue.pop());
        }
        popped.extend(std::iter::from_fn(|| queue.pop()));
        assert_eq!(popped, (0..200).collect::<Vec<_>>());
        assert_eq!(queue.pop(), None);
    }
}

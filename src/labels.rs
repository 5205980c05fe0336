//! Keeps labels of metrics bounded: what comes after the first two hundred values of a label is `other`.
//!
//! Bounded are the labels whose values come from outside, and may grow for as long as a process lives: streams and
//! shards (a Kinesis stream that is split again and again), and stages. What the code of a component names
//! itself (processors, pipelines, resources) is as many as it names.
//!
//! First come, first named, for ever: a value that changed from its own name to `other` and back would break
//! every counter.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use metrics::SharedString;

/// Values of one label that keep their names.
pub(crate) const MOST: usize = 200;

/// What the rest is called.
pub(crate) const OTHER: &str = "other";

/// The labels of one processor.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    pub(crate) stream: Label,
    pub(crate) shard: Label,
    pub(crate) stage: Label,
}

/// One label, and the values of it that have been seen.
#[derive(Debug, Default)]
pub(crate) struct Label(Mutex<BTreeSet<Arc<str>>>);

impl Label {
    /// The value itself, or `other` if it came too late.
    pub(crate) fn of(&self, value: &str) -> SharedString {
        let mut seen = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = seen.get(value) {
            return SharedString::from(known.clone());
        }
        if seen.len() >= MOST {
            return SharedString::const_str(OTHER);
        }
        let value: Arc<str> = value.into();
        seen.insert(value.clone());
        SharedString::from(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_two_hundred_values_keep_their_names_and_the_rest_is_other() {
        let label = Label::default();
        for n in 0..1_000 {
            let value = n.to_string();
            let expected = if n < MOST { value.as_str() } else { OTHER };
            assert_eq!(&*label.of(&value), expected);
        }
        assert_eq!(&*label.of("7"), "7");
        assert_eq!(&*label.of("999"), OTHER);
        assert_eq!(label.0.lock().expect("not poisoned").len(), MOST);
    }
}

//! The gauges of one tick, put together before they are told.
//!
//! Put together, because several shards share the labels of what is called `other`, and the last one must not
//! paint over the one that is stuck. And remembered: a shard that was given up says zero once, or its last
//! age would be alerted on for as long as the process lives.

use std::collections::{BTreeMap, BTreeSet};

use metrics::Label;

type Series = (&'static str, Vec<Label>);

/// What is to be told.
#[derive(Default)]
pub(crate) struct Gauges(BTreeMap<Series, f64>);

impl Gauges {
    /// The sum of all that is said of these labels in this tick.
    pub(crate) fn sum(&mut self, name: &'static str, labels: Vec<Label>, value: f64) {
        *self.0.entry((name, labels)).or_insert(0.0) += value;
    }

    /// The highest of it.
    pub(crate) fn most(&mut self, name: &'static str, labels: Vec<Label>, value: f64) {
        let most = self.0.entry((name, labels)).or_insert(value);
        *most = most.max(value);
    }
}

/// What was told the last time.
#[derive(Default)]
pub(crate) struct Told(BTreeSet<Series>);

impl Told {
    /// Tells these, and zero for what was told before and is not among them.
    pub(crate) fn tell(&mut self, gauges: Gauges) {
        for (name, labels) in &self.0 {
            if !gauges.0.contains_key(&(name, labels.clone())) {
                metrics::gauge!(*name, labels.iter()).set(0.0);
            }
        }
        for ((name, labels), value) in &gauges.0 {
            metrics::gauge!(*name, labels.iter()).set(*value);
        }
        self.0 = gauges.0.into_keys().collect();
    }
}

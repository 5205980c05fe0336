//! What the tests of the rules share: streams of numbers, resources without surprises, ledgers.

#![allow(dead_code)] // each test binary uses its own part of it

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streambreaker::memory::{Commit, CommitOutcome, Stream, What};
use streambreaker::prelude::*;
use streambreaker::{Position, ShardId};

/// How often the dependency has seen each number.
#[derive(Clone, Default)]
pub(crate) struct Effects(Arc<Mutex<BTreeMap<u64, u32>>>);

impl Effects {
    /// Notes one, and says how often it has been seen by now.
    pub(crate) fn note(&self, n: u64) -> u32 {
        let mut seen = self.0.lock().unwrap();
        let count = seen.entry(n).or_default();
        *count += 1;
        *count
    }

    pub(crate) fn of(&self, n: u64) -> u32 {
        self.0.lock().unwrap().get(&n).copied().unwrap_or(0)
    }

    pub(crate) fn all(&self) -> BTreeMap<u64, u32> {
        self.0.lock().unwrap().clone()
    }
}

/// A resource with a timeout of a second and the default retries.
pub(crate) fn resource(name: &str) -> Resource {
    Resource::builder(name).timeout(Duration::from_secs(1)).seed(1).build().expect("valid")
}

/// A resource that tries once.
pub(crate) fn once(name: &str) -> Resource {
    Resource::builder(name)
        .timeout(Duration::from_secs(1))
        .retry(Retry::none())
        .seed(1)
        .build()
        .expect("valid")
}

/// The numbers below `n` as payloads, spread over the shards by themselves as keys.
pub(crate) fn numbers(n: u64, shards: usize) -> Stream {
    let stream = Stream::new("numbers", shards);
    for i in 0..n {
        stream.push_keyed(i.to_string(), i.to_string());
    }
    stream
}

/// Fails the test when a commit goes back within an ownership (rule I2).
pub(crate) fn watch_commits(stream: &Stream) {
    let high: Mutex<BTreeMap<(ShardId, u64), Position>> = Mutex::default();
    stream.on_commit(move |commit: &Commit| {
        let What::Through(at) = &commit.what else { return };
        if !matches!(commit.outcome, CommitOutcome::Applied | CommitOutcome::ReplyLost) {
            return;
        }
        let mut high = high.lock().unwrap();
        let key = (commit.shard.clone(), commit.ownership);
        if let Some(before) = high.insert(key, at.clone()) {
            assert!(before <= *at, "I2: a commit of {at} after one of {before}");
        }
    });
}

pub(crate) async fn secs(n: u64) {
    tokio::time::sleep(Duration::from_secs(n)).await;
}

pub(crate) async fn millis(n: u64) {
    tokio::time::sleep(Duration::from_millis(n)).await;
}

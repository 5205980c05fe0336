//! A search index that misbehaves as real ones do: it throttles, hangs, loses replies and rejects single items.
//!
//! What it rejects depends on the document alone, so it is the same in every run; the rest is drawn by a seed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use streambreaker::sink::{Limits, Outcomes, Sink};
use streambreaker::{ResultExt, StepError};

use super::event::Cancelled;

#[derive(Clone)]
pub(crate) struct SearchIndex(Arc<Inner>);

struct Inner {
    seed: u64,
    requests: AtomicU64,
    documents: Mutex<BTreeMap<String, String>>,
}

impl SearchIndex {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Inner { seed, requests: AtomicU64::new(0), documents: Mutex::default() }))
    }

    /// Writes a document, or says why not. By its id: writing it again changes nothing.
    fn put(&self, document: &Cancelled, index: usize, outcomes: &mut Outcomes<'_>) {
        let number = document.id.bytes().fold(0, |number, byte| mixed(number ^ u64::from(byte)));
        if number % 100 == 1 {
            return outcomes.reject(index, "the document does not fit the mapping of the index");
        }
        let mut documents = self.0.documents.lock().unwrap();
        documents.insert(document.id.clone(), document.text.clone());
        outcomes.done(index);
    }
}

/// Scatters a number (the finaliser of SplitMix64).
fn mixed(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const NEVER: Duration = Duration::from_secs(3_600);

#[async_trait]
impl Sink<Cancelled> for SearchIndex {
    fn limits(&self) -> Limits {
        Limits::items(500).with_bytes(1 << 20)
    }

    fn size(&self, document: &Cancelled) -> usize {
        document.id.len() + document.text.len()
    }

    async fn write(
        &self,
        items: &[Cancelled],
        outcomes: &mut Outcomes<'_>,
    ) -> Result<(), StepError> {
        let drawn = mixed(self.0.seed ^ self.0.requests.fetch_add(1, Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(1 + drawn % 8)).await;
        match drawn % 100 {
            // accepted, and never heard of again
            0 | 1 => tokio::time::sleep(NEVER).await,
            // written, but the reply is lost on its way
            2 => {
                let mut lost = streambreaker::sink::OutcomeLog::new(items.len());
                for (index, document) in items.iter().enumerate() {
                    self.put(document, index, &mut lost.outcomes());
                }
                tokio::time::sleep(NEVER).await;
            }
            3..=7 => return Err("429 too many requests").throttled(Duration::from_millis(50)),
            8 | 9 => return Err("503 no shard is available").transient(),
            _ => {}
        }
        for (index, document) in items.iter().enumerate() {
            match mixed(drawn ^ index as u64) % 50 {
                0 => outcomes.throttled(index, Duration::from_millis(20), "429 the queue is full"),
                1 => outcomes.retry(index, "the version has changed meanwhile"),
                _ => self.put(document, index, outcomes),
            }
        }
        Ok(())
    }
}

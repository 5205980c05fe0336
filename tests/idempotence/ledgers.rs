//! Ledgers with the habits that a test needs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use streambreaker::idempotence::{Ledger, MemoryLedger};
use streambreaker::prelude::*;
use uuid::Uuid;

use crate::DAY;

/// A ledger whose records can be made to fail, or to hang.
#[derive(Clone)]
pub(crate) struct Frail {
    pub(crate) ledger: MemoryLedger,
    pub(crate) hangs: Arc<AtomicBool>,
    /// So many records fail although they were made.
    pub(crate) replies_lost: Arc<AtomicU32>,
    /// It was asked for none, or for one twice. A panic would be caught as any handler's.
    asked_badly: Arc<AtomicBool>,
}

impl Frail {
    pub(crate) fn new() -> Self {
        let ledger = MemoryLedger::new(DAY, 1_000);
        Self {
            ledger,
            hangs: Arc::default(),
            replies_lost: Arc::default(),
            asked_badly: Arc::default(),
        }
    }

    fn check(&self, ids: &[Uuid]) {
        if ids.is_empty() || !ids.is_sorted_by(|a, b| a < b) {
            self.asked_badly.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn was_asked_well(&self) -> bool {
        !self.asked_badly.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Ledger for Frail {
    async fn are_done(&self, ids: &[Uuid]) -> Result<bool, StepError> {
        self.check(ids);
        self.ledger.are_done(ids).await
    }

    async fn record_done(&self, ids: &[Uuid]) -> Result<(), StepError> {
        self.check(ids);
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.ledger.record_done(ids).await?;
        let lost = self.replies_lost.load(Ordering::Relaxed);
        if lost > 0 {
            self.replies_lost.store(lost - 1, Ordering::Relaxed);
            return Err("no answer").transient();
        }
        Ok(())
    }
}

/// Answers the later the earlier it is asked.
#[derive(Clone, Default)]
pub(crate) struct Slow(Arc<AtomicU32>);

#[async_trait]
impl Ledger for Slow {
    async fn are_done(&self, _: &[Uuid]) -> Result<bool, StepError> {
        let asked = self.0.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(u64::from(50 - asked % 50))).await;
        Ok(false)
    }

    async fn record_done(&self, _: &[Uuid]) -> Result<(), StepError> {
        Ok(())
    }
}

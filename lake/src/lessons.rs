//! What there is to learn from faults, and from what became of them when they were sent again.

use std::collections::BTreeMap;
use std::fmt;

use futures::{StreamExt, stream};
use serde::Serialize;
use streambreaker::{Class, FaultEvent};
use uuid::Uuid;

use crate::error::LakeError;
use crate::faults::FaultSelection;
use crate::lake::{AT_ONCE, Lake, patiently};
use crate::ledger::{FaultState, Ledger};

/// What is known of faults of one kind, and of what became of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Lesson {
    /// What they share.
    pub fingerprint: String,
    /// Their class.
    pub class: Class,
    /// The pipeline that refused them.
    pub pipeline: String,
    /// The stage.
    pub stage: String,
    /// The type of their error.
    pub error: String,
    /// How many there are.
    pub faults: u64,
    /// Which releases made them, and how many each.
    pub releases: BTreeMap<String, u64>,
    /// Those that nobody has done anything about yet, or whose sending was not noted to its end.
    pub open: u64,
    /// Those that were processed when they were sent again.
    pub succeeded: u64,
    /// Of these, those that were processed by the very release that had refused them.
    pub unchanged: u64,
    /// Those that failed again.
    pub failed_again: u64,
    /// Those that were dismissed.
    pub dismissed: u64,
}

impl Lesson {
    /// Whether nothing but time mended them: all that were processed were so by the very release that had refused them. Some
    /// may have been sent too early and failed again, if nothing is left of them.
    pub fn time_alone_mended(&self) -> bool {
        let none_is_left = self.failed_again == 0 || (self.open == 0 && self.dismissed == 0);
        self.unchanged > 0 && self.unchanged == self.succeeded && none_is_left
    }

    /// Whether such an error should say `.transient()`, so that it is retried and never becomes a fault: nothing but time
    /// mended it, and it was not retried. (Of an open circuit and of retries that ran out it was known that time would mend
    /// them.)
    pub fn deserves_a_retry(&self) -> bool {
        self.time_alone_mended() && self.class == Class::Fault
    }
}

impl fmt::Display for Lesson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>6} x {}  {} in {}/{} ({}): {} open, {} succeeded, {} failed again, {} dismissed",
            self.faults,
            self.fingerprint.escape_debug(),
            self.class,
            self.pipeline.escape_debug(),
            self.stage.escape_debug(),
            self.error.escape_debug(),
            self.open,
            self.succeeded,
            self.failed_again,
            self.dismissed
        )?;
        if self.deserves_a_retry() {
            f.write_str("\n         time alone mended them: let this error say `.transient()`")?;
        }
        Ok(())
    }
}

impl Lake {
    /// What there is to learn from these faults, by kind, the most frequent first: which releases made them, and which
    /// succeed unchanged when they are sent again.
    ///
    /// # Errors
    /// [`LakeError::Store`], [`LakeError::Name`].
    pub async fn lessons(&self, selection: &FaultSelection) -> Result<Vec<Lesson>, LakeError> {
        let ledger = Ledger::open(self, selection.stream())?;
        let (mut scan, mut lessons) = (self.scan_faults(selection).await?, Lessons::default());
        loop {
            let mut faults = Vec::with_capacity(AHEAD);
            while faults.len() < AHEAD {
                let Some(fault) = scan.next().await? else { break };
                faults.push(fault);
            }
            if faults.is_empty() {
                return Ok(lessons.by_frequency());
            }
            lessons.add(&ledger, &faults).await?;
        }
    }

    /// The same of these faults of a stream, wherever they come from: what became of them is in this lake's ledger. Of each
    /// only its head is looked at, so its records may be left out.
    ///
    /// # Errors
    /// [`LakeError::Store`], [`LakeError::Name`].
    pub async fn lessons_of(
        &self,
        stream: &str,
        faults: &[FaultEvent],
    ) -> Result<Vec<Lesson>, LakeError> {
        let (ledger, mut lessons) = (Ledger::open(self, stream)?, Lessons::default());
        lessons.add(&ledger, faults).await?;
        Ok(lessons.by_frequency())
    }
}

/// How many faults are held at once.
const AHEAD: usize = 500;

async fn state(ledger: &Ledger, fault: Uuid) -> Result<FaultState, LakeError> {
    match ledger.row(fault).await {
        Ok(row) => Ok(row.state()),
        // what became of it is not known, so nothing has settled it
        Err(LakeError::Document { .. }) => Ok(FaultState::Pending),
        Err(error) => Err(error),
    }
}

/// Lessons by fingerprint and pipeline: two pipelines may have a stage of the same name.
#[derive(Default)]
struct Lessons(BTreeMap<(String, String), Lesson>);

impl Lessons {
    /// Adds these, whose states are looked up side by side.
    async fn add(&mut self, ledger: &Ledger, faults: &[FaultEvent]) -> Result<(), LakeError> {
        let states = stream::iter(faults.iter().map(|fault| {
            let id = fault.part.map_or(fault.id, |part| part.of);
            async move { patiently(|| state(ledger, id)).await }
        }));
        let mut states = states.buffered(AT_ONCE).zip(stream::iter(faults));
        while let Some((state, fault)) = states.next().await {
            self.add_one(fault, state?);
        }
        Ok(())
    }

    fn add_one(&mut self, fault: &FaultEvent, state: FaultState) {
        let kind = (fault.fingerprint.clone(), fault.pipeline.clone());
        let lesson = self.0.entry(kind).or_insert_with(|| Lesson {
            fingerprint: fault.fingerprint.clone(),
            class: fault.class,
            pipeline: fault.pipeline.clone(),
            stage: fault.stage.clone(),
            error: fault.err.name.clone(),
            faults: 0,
            releases: BTreeMap::new(),
            open: 0,
            succeeded: 0,
            unchanged: 0,
            failed_again: 0,
            dismissed: 0,
        });
        lesson.faults += 1;
        let release = fault.release.clone().unwrap_or_default();
        *lesson.releases.entry(release).or_default() += 1;
        match state {
            FaultState::Succeeded { release } => {
                lesson.succeeded += 1;
                lesson.unchanged += u64::from(release.is_some() && release == fault.release);
            }
            FaultState::FailedAgain { .. } => lesson.failed_again += 1,
            FaultState::Dismissed => lesson.dismissed += 1,
            FaultState::Pending | FaultState::Resubmitted { .. } => lesson.open += 1,
        }
    }

    fn by_frequency(self) -> Vec<Lesson> {
        let mut lessons: Vec<Lesson> = self.0.into_values().collect();
        lessons.sort_by(|a, b| {
            b.faults.cmp(&a.faults).then_with(|| a.fingerprint.cmp(&b.fingerprint))
        });
        lessons
    }
}

//! The ledger: what became of each fault, so that the same fault sent twice has one effect (rule L8).
//!
//! One decision shaped this module: an entry is an object that is created where there is none, and never changed. Each fault
//! has a row of them, numbered; whoever creates number *n* has won it, on every store, without locks. A claim on a record
//! works alike: of two faults that hold the same record (a group that formed differently after a crash), one sends it.

use std::fmt;

use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use streambreaker::Timestamp;
use uuid::Uuid;

use crate::error::LakeError;
use crate::lake::Lake;

/// What became of a fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
#[non_exhaustive]
pub enum FaultState {
    /// Nobody has done anything about it, or what was done was given back.
    Pending,
    /// It was sent, and nobody has noted how that ended: it runs, or whoever sent it died.
    Resubmitted {
        /// Which attempt that was.
        attempt: u32,
    },
    /// It was processed.
    Succeeded {
        /// The release that processed it.
        release: Option<String>,
    },
    /// It failed again: its records are in these faults now.
    FailedAgain {
        /// The new faults.
        faults: Vec<Uuid>,
    },
    /// Somebody decided that it needs no processing.
    Dismissed,
}

impl FaultState {
    /// Whether nothing more is to be done about it.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            FaultState::Succeeded { .. } | FaultState::FailedAgain { .. } | FaultState::Dismissed
        )
    }
}

impl fmt::Display for FaultState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FaultState::Pending => f.write_str("pending"),
            FaultState::Resubmitted { attempt } => write!(f, "resubmitted (attempt {attempt})"),
            FaultState::Succeeded { .. } => f.write_str("succeeded"),
            FaultState::FailedAgain { faults } => match faults.len() {
                1 => f.write_str("failed again (1 fault)"),
                count => write!(f, "failed again ({count} faults)"),
            },
            FaultState::Dismissed => f.write_str("dismissed"),
        }
    }
}

/// An entry of the ledger: what was done about a fault, by whom, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// What became of the fault by it.
    #[serde(flatten)]
    pub state: FaultState,
    /// When.
    pub at: Timestamp,
    /// In which run of a command: two that do the same at once are told apart by it.
    pub run: Uuid,
    /// Who did it.
    pub who: String,
    /// Why.
    pub why: String,
}

/// More entries of one fault would mean that something goes round in circles.
const ENTRIES: u32 = 1_000;

/// How often a document is created that is neither made nor there.
const CONFLICTS: u32 = 10;

/// The ledger of a stream.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    lake: Lake,
    folder: Path,
}

/// A fault's row, as far as it goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) entries: Vec<LedgerEntry>,
}

impl Row {
    pub(crate) fn state(&self) -> FaultState {
        self.entries.last().map_or(FaultState::Pending, |entry| entry.state.clone())
    }

    /// How often it was sent.
    pub(crate) fn attempts(&self) -> u32 {
        let sent = self.entries.iter().filter_map(|entry| match entry.state {
            FaultState::Resubmitted { attempt } => Some(attempt),
            _ => None,
        });
        sent.max().unwrap_or(0)
    }
}

/// Who has claimed a record.
#[derive(Serialize, Deserialize)]
struct Claim {
    fault: Uuid,
}

impl Ledger {
    pub(crate) fn open(lake: &Lake, stream: &str) -> Result<Self, LakeError> {
        Ok(Self { lake: lake.clone(), folder: lake.folder(stream)?.join("_ledger") })
    }

    /// Creates a document where there is none; what is there, if there is one.
    async fn create(&self, path: &Path, bytes: Bytes) -> Result<Option<Bytes>, LakeError> {
        for _ in 0..CONFLICTS {
            if self.lake.create(path, bytes.clone()).await? {
                return Ok(None);
            }
            if let Some(there) = self.lake.document(path).await? {
                return Ok(Some(there));
            }
            // a claim that was given up in between; or a conflict (S3's 409), which leaves nothing behind
        }
        let source = "it cannot be created, and is not there".into();
        let error = object_store::Error::Generic { store: "ledger", source };
        Err(LakeError::store("create a document")(error))
    }

    fn entry_path(&self, fault: Uuid, number: usize) -> Path {
        self.folder.clone().join(fault.to_string()).join(format!("{number:04}.json"))
    }

    fn claim_path(&self, work: Uuid) -> Path {
        self.folder.clone().join("records").join(format!("{work}.json"))
    }

    /// What was done about a fault, oldest first. By name, not by a list, which may lag.
    pub(crate) async fn row(&self, fault: Uuid) -> Result<Row, LakeError> {
        let mut row = Row::default();
        while row.entries.len() < ENTRIES as usize {
            let path = self.entry_path(fault, row.entries.len());
            let Some(bytes) = self.lake.document(&path).await? else { break };
            let entry = serde_json::from_slice(&bytes)
                .map_err(|source| LakeError::Document { path: path.to_string(), source })?;
            row.entries.push(entry);
        }
        Ok(row)
    }

    /// Adds an entry behind those of `row`; `false` when somebody else was faster.
    pub(crate) async fn append(
        &self,
        fault: Uuid,
        row: &mut Row,
        entry: LedgerEntry,
    ) -> Result<bool, LakeError> {
        let path = self.entry_path(fault, row.entries.len());
        let bytes = serde_json::to_vec(&entry)
            .map_err(|source| LakeError::Document { path: path.to_string(), source })?;
        let there = self.create(&path, bytes.clone().into()).await?;
        // it may be ours: the reply of an attempt before was lost
        let won = there.is_none_or(|there| there == bytes);
        if won {
            row.entries.push(entry);
        }
        Ok(won)
    }

    /// Claims a record's work for a fault; who has it already, if not this one.
    pub(crate) async fn claim(&self, work: Uuid, fault: Uuid) -> Result<Option<Uuid>, LakeError> {
        let path = self.claim_path(work);
        let document = |source| LakeError::Document { path: path.to_string(), source };
        let bytes = serde_json::to_vec(&Claim { fault }).map_err(document)?;
        let Some(bytes) = self.create(&path, bytes.into()).await? else { return Ok(None) };
        let Claim { fault: owner } = serde_json::from_slice(&bytes).map_err(document)?;
        Ok((owner != fault).then_some(owner))
    }

    /// Takes a claim over from a fault that has not made use of it.
    pub(crate) async fn take_over(&self, work: Uuid, fault: Uuid) -> Result<(), LakeError> {
        let path = self.claim_path(work);
        let bytes = serde_json::to_vec(&Claim { fault })
            .map_err(|source| LakeError::Document { path: path.to_string(), source })?;
        self.lake.replace(&path, bytes.into()).await
    }

    /// Gives a claim up.
    pub(crate) async fn give_up(&self, work: Uuid) -> Result<(), LakeError> {
        match self.lake.store.delete(&self.claim_path(work)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(LakeError::store("give up a claim")(error)),
        }
    }
}

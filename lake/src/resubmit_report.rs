//! What became of a resubmission, and why a fault was not sent.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use uuid::Uuid;

/// Why a fault was not sent. It stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "refused")]
#[non_exhaustive]
pub enum Refused {
    /// Its id does not follow from what it says: it has been changed, or comes from elsewhere.
    #[error("its id is not that of its records: it was changed")]
    OtherId,
    /// It was made by another processor.
    #[error("it is of the processor {processor:?}")]
    OtherProcessor {
        /// Which.
        processor: String,
    },
    /// The processor has no pipeline of this name, nor one that had it.
    #[error("there is no pipeline {pipeline:?}, nor one that was called so: see `formerly`")]
    NoPipeline {
        /// Which.
        pipeline: String,
    },
    /// The lake holds another record at the position of one of its records.
    #[error("record {} is not the one that the lake holds", .position.escape_debug())]
    OtherRecord {
        /// Where.
        position: String,
    },
    /// A record was left out of the fault because it was too large, and the lake does not hold it.
    #[error("record {} is not in the fault, and not in the lake either", .position.escape_debug())]
    NoRecord {
        /// Where.
        position: String,
    },
    /// It is a part of a larger fault, whose other parts are not there.
    #[error("it is a part of {whole}, whose other parts are not there")]
    Partial {
        /// The whole.
        whole: Uuid,
    },
    /// It was sent before, and how that ended is not known.
    #[error(
        "it was sent before, and how that ended is not known: look, then say `unfinished` to send it again"
    )]
    Unfinished,
    /// It has been sent as often as is allowed.
    #[error("it has been sent {attempts} {}", if *attempts == 1 { "time" } else { "times" })]
    TooOften {
        /// How often.
        attempts: u32,
    },
    /// Of what the ledger knows of it something cannot be read.
    #[error(
        "the ledger's {path:?} cannot be read, so whether it was sent is not known: look, then delete that to send it"
    )]
    Ledger {
        /// Where that lies in the lake's store.
        path: String,
    },
    /// Somebody else is sending it, or one that holds the same records.
    #[error("somebody else is sending it, or a fault that holds the same records")]
    Concurrent,
}

/// What became of a resubmission. Prints as a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ResubmitReport {
    /// Faults that were looked at.
    pub considered: u64,
    /// Those that were sent; in a dry run: would have been.
    pub sent: u64,
    /// Their records.
    pub records: u64,
    /// Those that were processed.
    pub succeeded: u64,
    /// Those that failed again, with their new faults.
    pub failed_again: BTreeMap<Uuid, Vec<Uuid>>,
    /// Those that were given back undecided: they are pending, as before.
    pub returned: Vec<Uuid>,
    /// Those whose state was final already.
    pub settled_before: u64,
    /// Those that were not sent.
    pub refused: BTreeMap<Uuid, Refused>,
    /// Objects of faults that could not be read in full.
    pub damaged: u64,
    /// Whether it stopped because too many failed again.
    pub stopped: bool,
    /// Whether it was told to end before the end.
    pub interrupted: bool,
    /// Whether there are more faults that are not settled than were sent.
    pub more: bool,
}

impl fmt::Display for ResubmitReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} fault{}: {} sent ({} record{}), {} succeeded, {} failed again, {} given back, {} settled before, {} refused",
            self.considered,
            if self.considered == 1 { "" } else { "s" },
            self.sent,
            self.records,
            if self.records == 1 { "" } else { "s" },
            self.succeeded,
            self.failed_again.len(),
            self.returned.len(),
            self.settled_before,
            self.refused.len(),
        )?;
        for (id, why) in &self.refused {
            // names in it are escaped
            write!(f, "\n  {id}: {why}")?;
        }
        if self.stopped {
            f.write_str(
                "\nstopped: too many failed again; look at the new faults before you send more",
            )?;
        }
        if self.interrupted {
            f.write_str("\nended before the end, as it was told")?;
        }
        if self.damaged > 0 {
            write!(f, "\n{} objects of faults could not be read in full", self.damaged)?;
        }
        match self.more {
            true if self.stopped => f.write_str("\nthere are more")?,
            true => f.write_str("\nthere are more: run it again")?,
            false => {}
        }
        Ok(())
    }
}

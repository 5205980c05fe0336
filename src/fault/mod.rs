//! The fault event: a unit of work that could not be processed, with all that is needed to send it again.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use crate::error::Class;
use crate::record::{PartPath, Record, Timestamp};

/// A unit of work that could not be processed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FaultEvent {
    /// Deterministic: the same unit faulted twice is one fault.
    pub id: Uuid,
    /// When it faulted.
    pub timestamp: Timestamp,
    /// The processor.
    pub processor: String,
    /// The pipeline that refused it.
    pub pipeline: String,
    /// The stage that refused it.
    pub stage: String,
    /// The resource that the stage calls.
    pub resource: Option<String>,
    /// Why.
    pub class: Class,
    /// The release of the component.
    pub release: Option<String>,
    /// The instance of the component.
    pub instance: String,
    /// The error.
    pub err: FaultError,
    /// What was tried.
    pub attempts: Vec<Attempt>,
    /// The unit's records, in order.
    pub records: Vec<FaultRecord>,
    /// Whether the unit is a group.
    pub grouped: bool,
    /// The value the stage got, as JSON, where it could be had.
    pub derived: Option<String>,
    /// The fault that was resubmitted, where this is a failure of a resubmission.
    pub parent: Option<Uuid>,
    /// How often the unit has been resubmitted.
    pub resubmits: u32,
    /// The `traceparent` of the unit's first record.
    pub trace: Option<String>,
    /// 0 for an event's fault, 1 for a fault about a fault.
    pub depth: u8,
    /// Free labels.
    pub tags: BTreeMap<String, String>,
    /// What faults of one kind share.
    pub fingerprint: String,
}

/// The error in a fault event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultError {
    /// Its type.
    pub name: String,
    /// Its text.
    pub message: String,
    /// Its sources and where it was made.
    pub stack: String,
}

/// One attempt at a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// When it began.
    pub at: Timestamp,
    /// How it ended.
    pub class: Class,
    /// How long it took.
    pub duration: Duration,
}

/// A record of a faulted unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultRecord {
    /// The whole record.
    pub record: Record,
    /// Which part of it faulted.
    pub part: PartPath,
}

// TEMPORARY SHIM, to be replaced on merge by the codec of `fault/event.rs`: records are left out.

/// A fault event that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("not a fault event")]
pub struct FaultParseError(#[from] serde_json::Error);

impl FaultEvent {
    /// The event as JSON, on one line.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::json!({"id": self.id, "type": "fault", "processor": self.processor})
            .to_string()
            .into_bytes()
    }

    /// Reads what `to_json` wrote.
    ///
    /// # Errors
    /// Whatever is not a fault event.
    pub fn from_json(bytes: &[u8]) -> Result<Self, FaultParseError> {
        #[derive(serde::Deserialize)]
        struct Shim {
            id: Uuid,
            processor: String,
        }
        let Shim { id, processor } = serde_json::from_slice(bytes)?;
        Ok(Self {
            id,
            timestamp: Timestamp::default(),
            processor,
            pipeline: String::new(),
            stage: String::new(),
            resource: None,
            class: Class::Fault,
            release: None,
            instance: String::new(),
            err: FaultError { name: String::new(), message: String::new(), stack: String::new() },
            attempts: Vec::new(),
            records: Vec::new(),
            grouped: false,
            derived: None,
            parent: None,
            resubmits: 0,
            trace: None,
            depth: 0,
            tags: BTreeMap::new(),
            fingerprint: String::new(),
        })
    }
}

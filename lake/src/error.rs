//! What can go wrong in a lake.

use std::fmt;

use streambreaker::{Class, StepError};

use crate::name::NameError;
use crate::seal::KeyError;

/// Why something in the lake could not be done.
///
/// `Display` says nothing of what records hold; the store's own error, which may name hosts and buckets, is the
/// [`source`](std::error::Error::source).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LakeError {
    /// The object store did not do what it was asked. It may do so the next time.
    #[error("the object store failed to {what}")]
    Store {
        /// What it was asked for.
        what: &'static str,
        /// What it said.
        source: Box<object_store::Error>,
    },
    /// Something lies in the lake's folder under a name that no object can have (on a disk: one that is not UTF-8, or has a
    /// line break in it), and the store lists nothing because of it. The source says where. Nothing is lost: writers wait.
    #[error(
        "something lies in the lake's folder under a name that no object can have, so nothing can be listed: move it away"
    )]
    ForeignName(#[source] Box<object_store::Error>),
    /// A stream, shard or position cannot be made into a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The lake's folder cannot be used.
    #[error("the folder cannot be used as a lake: name a directory that can be written to")]
    Folder(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There is no such folder.
    #[error("there is no lake in {0:?}: check the path, or store something first")]
    Absent(String),
    /// An object cannot be taken as what its name says.
    #[error("the object {} is not readable: {damage}", .path.escape_debug())]
    Damaged {
        /// Its path in the lake's store.
        path: String,
        /// What is wrong with it.
        damage: Damage,
    },
    /// Records could not be made into an object.
    #[error("the records could not be encoded")]
    Encode(#[source] parquet::errors::ParquetError),
    /// There are as many objects of one name as are tried, and none of them holds the records.
    #[error(
        "there are {0} objects of one name that hold something else: see what `verify` says of them"
    )]
    NameTaken(u32),
    /// There is no key to seal with.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// There is no key to open an object with. Its records are not skipped: fewer of them would look like success.
    #[error("the object {} is sealed, and cannot be opened", .path.escape_debug())]
    Sealed {
        /// Its path in the lake's store.
        path: String,
        /// What is wrong with the key.
        source: KeyError,
    },
    /// A replay goes on that was begun with another selection, or for another target.
    #[error(
        "the replay {0} was begun with another selection, or for other pipelines: resume it with the same ones, or begin another run"
    )]
    OtherSelection(uuid::Uuid),
    /// A document of the lake (manifest, ledger) cannot be read.
    #[error("the document {} is not readable: move it away, it is made anew", .path.escape_debug())]
    Document {
        /// Its path in the lake's store.
        path: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl LakeError {
    pub(crate) fn store(what: &'static str) -> impl FnOnce(object_store::Error) -> Self {
        move |source| match source {
            object_store::Error::InvalidPath { .. } => Self::ForeignName(Box::new(source)),
            _ => Self::Store { what, source: Box::new(source) },
        }
    }

    /// The same of what lies in this object: a key that is missing is missing for it.
    pub(crate) fn in_object(self, path: &str) -> Self {
        match self {
            LakeError::Key(source) => LakeError::Sealed { path: path.to_owned(), source },
            other => other,
        }
    }

    /// Whether it may go better the next time.
    pub fn is_transient(&self) -> bool {
        match self {
            LakeError::Store { .. } => true,
            LakeError::Key(key) | LakeError::Sealed { source: key, .. } => {
                matches!(key, KeyError::Unavailable(_))
            }
            _ => false,
        }
    }

    /// As an error of a step: what the store fails at is retried, all else is of the records.
    pub(crate) fn into_step(self) -> StepError {
        // a key that is missing says nothing about the records, nor does a file of others: they are left to the stream
        let others = matches!(
            self,
            LakeError::Key(_) | LakeError::Sealed { .. } | LakeError::ForeignName(_)
        );
        let retried = self.is_transient() || others;
        let class = if retried { Class::Transient } else { Class::Fault };
        StepError::new(class, self).with_name("LakeError")
    }
}

/// What is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// It is cut off, or its bytes are no Parquet.
    Torn(String),
    /// It is Parquet of somebody else: it lacks this crate's footer, or a column.
    Foreign(&'static str),
    /// It was written by another version of the schema.
    Version(String),
    /// It is larger than the lake's [`Bounds`](crate::Bounds) allow.
    TooLarge {
        /// Of what there is too much.
        what: &'static str,
        /// How much.
        found: u64,
        /// The most that is taken.
        max: u64,
    },
    /// What it holds is not what it says it holds.
    Contents(&'static str),
    /// It was sealed by this key, which was given up for good.
    Forgotten(String),
    /// It is not there any more.
    Gone,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Torn(why) => write!(f, "torn or corrupt ({why})"),
            Damage::Foreign(what) => write!(f, "foreign (it has no {what})"),
            Damage::Version(version) => write!(f, "of the unknown schema version {version:?}"),
            Damage::TooLarge { what, found, max } => {
                write!(f, "too large ({found} {what}, over the limit of {max})")
            }
            Damage::Contents(what) => write!(f, "not what it says ({what})"),
            Damage::Forgotten(id) => write!(f, "sealed by the key {id:?}, which is forgotten"),
            Damage::Gone => f.write_str("gone"),
        }
    }
}

impl From<parquet::errors::ParquetError> for Damage {
    fn from(error: parquet::errors::ParquetError) -> Self {
        Damage::Torn(error.to_string().chars().filter(|c| !c.is_control()).take(200).collect())
    }
}

//! The data lake of [`streambreaker`]: every event stored with its whole wrapper, organised by stream, to be verified,
//! searched with anybody's tools, and replayed.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod decode;
mod encode;
mod error;
mod index;
mod lake;
mod manifest;
mod name;
mod schema;
mod sortable;
mod verify;
mod writer;

pub use object_store;

pub use self::decode::Bounds;
pub use self::error::{Damage, LakeError};
pub use self::lake::Lake;
pub use self::manifest::{Break, CoveredRange, Manifest, ManifestEntry};
pub use self::name::NameError;
pub use self::schema::{Footer, SCHEMA, SCHEMA_VERSION};
pub use self::verify::{Finding, Verification};
pub use self::writer::LakeWriter;

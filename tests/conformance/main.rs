//! The transports of the core, held to the suites that every transport is held to.

#![allow(clippy::unwrap_used)] // a test may

mod file;
mod memory;

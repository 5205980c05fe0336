//! The atomics and locks of what is shared between threads.
//!
//! They are those of the standard library. In the tests of `threads`, which are built with `--cfg shuttle`, they are
//! those of a scheduler that tries interleavings: so that what is tried is the code itself, and not a copy of it. In
//! those of `settle::handover`, built with `--cfg loom`, they are those of a model of memory in which a load may be
//! older than what another thread has stored, wherever the orderings that are asked for allow it.

#[cfg(not(all(test, any(loom, shuttle))))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};

#[cfg(all(test, shuttle))]
pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic};

#[cfg(all(test, loom))]
pub(crate) use loom::sync::{Mutex, MutexGuard, atomic};

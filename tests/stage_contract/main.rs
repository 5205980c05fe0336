//! The six points of the contract of `Stage`, over all stages of ours: the testkit's `stage_suite!`, as for anybody's
//! stage, and what is the lane's.

#![allow(clippy::unwrap_used)] // a test may

mod lanes;
mod stages;

//! The guide: how to build a component, and how to run it.
//!
//! | chapter | what it answers |
//! |---|---|
//! | [`first_steps`] | How do I get from an empty folder to a running component? |
//! | [`units_of_work`] | What flows through a pipeline, and when is an event done with? |
//! | [`errors`] | What do I write for each kind of error, and what happens then? |
//! | [`resources`] | How do I choose timeout, attempts, rate and concurrency? |
//! | [`configuration`] | What may a file change, and what is the default of each field? |
//! | [`grouping`] | When do I group, and when do I write in bulk? |
//! | [`ordering`] | Events come twice and out of order: what do I do? |
//! | [`operating`] | What do I look at, and what do I do at three in the morning? |
//! | [`testing`] | How do I prove my handlers without a broker and without waiting? |
//! | [`own_stages`] | How do I write a combinator of my own? |
//! | [`writing_a_transport`] | How do I connect a broker of my own, and prove that it is right? |
//! | [`migrating`] | I have a loop around rdkafka, or functions on aws-lambda-stream. What changes? |
//! | [`metrics`] | Which metrics and log targets are there? |
//!
//! Each chapter is read in five minutes. Every block of Rust in them is compiled and run as a test of the crate.
//!
//! The chapters are files under `docs/`; here they exist for the documentation and its tests only.

// its second half needs the feature, for its tests; it is to be read without
#[cfg_attr(any(feature = "admin", not(doctest)), doc = include_str!("../docs/first-steps.md"))]
pub mod first_steps {}

#[doc = include_str!("../docs/units-of-work.md")]
pub mod units_of_work {}

#[doc = include_str!("../docs/errors.md")]
pub mod errors {}

#[doc = include_str!("../docs/resources.md")]
pub mod resources {}

#[doc = include_str!("../docs/configuration.md")]
pub mod configuration {}

#[doc = include_str!("../docs/grouping.md")]
pub mod grouping {}

#[doc = include_str!("../docs/ordering.md")]
pub mod ordering {}

#[doc = include_str!("../docs/operating.md")]
pub mod operating {}

#[doc = include_str!("../docs/testing.md")]
pub mod testing {}

#[doc = include_str!("../docs/own-stages.md")]
pub mod own_stages {}

#[doc = include_str!("../docs/writing-a-transport.md")]
pub mod writing_a_transport {}

#[doc = include_str!("../docs/migrating.md")]
pub mod migrating {}

#[doc = include_str!("../docs/metrics.md")]
pub mod metrics {}

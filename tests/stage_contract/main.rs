//! The six points of the contract of `Stage`, over all stages of ours.
//!
//! A stage is taken out of a pipeline and driven by hand: above it stands a scripted stage that hands on as many
//! units as it is let and counts how it is asked, below it nothing. Everything is done through the public API.

mod points;
mod rig;
mod stages;

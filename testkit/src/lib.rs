#![doc = include_str!("../README.md")]

pub mod bed;
pub mod net;
pub mod sim;
pub mod suite;

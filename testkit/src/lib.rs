#![doc = include_str!("../README.md")]

pub mod sim;
pub mod suite;

#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub use async_nats;

pub use self::acker::NatsAcker;
pub use self::error::OpenError;
pub use self::lane::LaneBy;
pub use self::reader::NatsReader;
pub use self::sink::{NatsFaults, NatsSink, Publication};
pub use self::source::{NatsSource, NatsSourceBuilder};

mod acker;
mod error;
mod gap;
mod lane;
mod open;
mod pull;
mod reader;
mod record;
mod sink;
mod source;

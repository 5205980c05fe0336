//! What a handler needs to stand events that come at least once and out of order.
//!
//! A stream gives no more than that: records come again after a crash, a rebalance, a resubmission; producers
//! send twice; an event that was set aside comes back hours behind its successors. Nothing between the stream
//! and the handler can take that away, so the effects have to be such that it does not matter. Three ways, each
//! a small trait that a few lines on any database implement, each with a reference in memory:
//!
//! | where | what it takes | which events |
//! |---|---|---|
//! | [`VersionedStore`] | "ignore it if what is stored is as new or newer", the *inverse optimistic lock* | those that carry a whole state |
//! | [`EventStore`] | put by id, read back in event-time order: collect, correlate, evaluate | those that mean something only together |
//! | [`Ledger`] | what has been done: [`Flow::dedupe`](crate::Flow::dedupe) and [`Flow::record_done`](crate::Flow::record_done) | those whose effect cannot be made idempotent itself |
//!
//! The first two need no memory of what has been done, so they are right for ever; a ledger is right for as long
//! as it remembers. Take the first that fits.

use crate::unit::Received;

pub use self::events::{Collected, EventStore, MemoryEvents};
pub use self::ledger::{Ledger, MemoryLedger};
pub use self::version::Version;
pub use self::versioned::{MemoryVersions, Put, Versioned, VersionedStore};

mod events;
mod expiry;
mod ledger;
mod version;
mod versioned;

/// What identifies the event in all its copies: the id that it has, or else a name of its place.
fn identity(event: &Received) -> String {
    match event.id() {
        Some(id) => id.into_owned(),
        None => event.idempotency_key().to_string(),
    }
}

/// When it happened; an event that does not say happened when the stream took it.
fn moment(event: &Received) -> crate::record::Timestamp {
    event.time().unwrap_or_else(|| event.arrival())
}

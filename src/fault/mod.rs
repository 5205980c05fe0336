//! The fault event: a unit of work that could not be processed, with all that is needed to send it
//! again. (The *stream circuit breaker* pattern: set the bad event aside, let the good ones pass.)
//!
//! One decision shaped this module: a fault event is a plain value with one exact JSON form, and
//! everything about it is a pure function. Its id, its fingerprint and what becomes of it when it is
//! too large depend on nothing but the unit, so that the same unit faulted twice, in two lives of a
//! process, is one fault. Only the publisher, which stores faults, does anything.
//!
//! What is built when a unit is refused: [`FaultEvent::new`], its public fields,
//! [`FaultEvent::finish`] (scrub, fingerprint, cap), in this order. The [flood guard](FloodGuard) judges before a
//! unit is faulted; the publisher makes an event fit its sink before it is sent, with the help of [`Oversize`].

mod cap;
mod codec;
mod event;
mod fingerprint;
mod flood;
mod id;
mod ladder;
mod list;
mod publisher;
mod scrub;
mod window;
mod wire;

pub use self::cap::TEXT_CAP;
pub use self::codec::{FaultParseError, SCHEMA};
pub use self::event::{
    Attempt, ClaimCheck, FaultError, FaultEvent, FaultPart, FaultRecord, fault_depth,
};
pub use self::fingerprint::fingerprint;
pub use self::flood::FloodGuard;
pub(crate) use self::flood::{FloodState, Floodgate};
pub use self::id::{NAMESPACE, fault_id, part_id};
pub(crate) use self::id::{done_id, effect_id, idempotency_key, named_effect_id};
pub use self::ladder::{Hold, Oversize, OversizeAction};
pub(crate) use self::list::{FaultList, Refusal, dropped_in_panic, dropped_twice, hand_over};
pub(crate) use self::publisher::{FaultDesk, publish};
pub use self::scrub::{NoScrub, Scrub, Scrubber};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_can_be() {
        fn shared<T: Send + Sync + 'static>() {}
        shared::<FaultEvent>();
        shared::<Floodgate>();
        shared::<Box<dyn Scrubber>>();
        shared::<Box<dyn Oversize>>();
    }
}

//! Units of work: what flows through a pipeline.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use crate::record::{PartPath, Record, Timestamp};
use crate::settle::{Batch, Fate, FaultedPart, Flag, LaneState, Ticket};

/// A value of type `T` and its *lineage*: the records it came from.
///
/// A unit is settled by a decision, never by a drop. What is dropped undecided goes back to the stream:
/// its checkpoint does not pass.
#[must_use = "a unit that is dropped undecided is returned to the stream"]
pub struct Uow<T> {
    pub(crate) value: T,
    pub(crate) lineage: Lineage,
}

impl<T> Uow<T> {
    #[inline]
    pub(crate) fn new(value: T, lineage: Lineage) -> Self {
        Self { value, lineage }
    }

    /// The value.
    #[inline]
    pub fn value(&self) -> &T {
        &self.value
    }

    /// The value and the records it came from, apart.
    #[inline]
    pub fn into_parts(self) -> (T, Lineage) {
        (self.value, self.lineage)
    }

    /// Another value made of this one, with the same records.
    #[inline]
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Uow<U> {
        Uow { value: f(self.value), lineage: self.lineage }
    }

    /// The records it came from.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.lineage.records()
    }
}

impl<T> fmt::Debug for Uow<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uow({:?})", self.lineage)
    }
}

/// The records that a unit of work came from.
///
/// Dropping it undecided returns them.
#[must_use = "a lineage that is dropped undecided returns its records to the stream"]
pub struct Lineage(Members);

// The enum inside, the `Drop` outside: an enum that implements `Drop` cannot be taken apart. Boxed, so that
// all of it is no larger than a ticket.
enum Members {
    One(Ticket),
    #[allow(clippy::box_collection)]
    Rest(Option<Box<Vec<Member>>>),
}

impl Members {
    const NONE: Self = Self::Rest(None);

    fn many(members: Vec<Member>) -> Self {
        Self::Rest(if members.is_empty() { None } else { Some(Box::new(members)) })
    }

    #[inline]
    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::NONE)
    }

    fn parts(&self) -> (Option<&Ticket>, &[Member]) {
        match self {
            Self::One(ticket) => (Some(ticket), &[]),
            Self::Rest(members) => (None, members.as_ref().map_or(&[], |members| members)),
        }
    }
}

/// A record, or a part of one.
pub(crate) struct Member {
    pub(crate) ticket: Ticket,
    pub(crate) part: PartPath,
    /// Whether a group was split to make it: then it is a part of all the group's records together.
    shared: bool,
}

impl Member {
    fn whole(ticket: Ticket) -> Self {
        Self { ticket, part: PartPath::whole(), shared: false }
    }
}

impl Lineage {
    #[inline]
    pub(crate) fn one(ticket: Ticket) -> Self {
        Self(Members::One(ticket))
    }

    /// Joins lineages into one, in their order, for as long as they live. A unit of none has no records: where it fails
    /// there is nothing to set aside, and nothing to come again.
    pub fn join(lineages: impl IntoIterator<Item = Lineage>) -> Lineage {
        let mut all = Vec::new();
        for mut lineage in lineages {
            lineage.take_into(&mut all);
        }
        Self(Members::many(all))
    }

    /// Pairs a value with this lineage.
    #[inline]
    pub fn with<T>(self, value: T) -> Uow<T> {
        Uow::new(value, self)
    }

    /// The records, in order.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        let (one, many) = self.0.parts();
        let many = many.iter().map(|member| member.ticket.record());
        one.map(Ticket::record).into_iter().chain(many)
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        let (one, many) = self.0.parts();
        usize::from(one.is_some()) + many.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = (&Ticket, &PartPath)> {
        const WHOLE: &PartPath = &PartPath::whole();
        let (one, many) = self.0.parts();
        let one = one.map(|ticket| (ticket, WHOLE));
        one.into_iter().chain(many.iter().map(|member| (&member.ticket, &member.part)))
    }

    pub(crate) fn first(&self) -> Option<&Ticket> {
        let (one, many) = self.0.parts();
        one.or_else(|| many.first().map(|member| &member.ticket))
    }

    /// Names its first record among all that its lane works on.
    pub(crate) fn place(&self) -> Option<crate::settle::Place> {
        self.first().map(|ticket| ticket.place())
    }

    /// How often the most returned of its records has been returned.
    pub(crate) fn returns(&self) -> u32 {
        self.members().map(|(ticket, _)| ticket.returns()).max().unwrap_or(0)
    }

    /// The earliest deadline of its records, where the source has one that it does not extend.
    #[inline]
    pub(crate) fn deadline(&self) -> Option<tokio::time::Instant> {
        match &self.0 {
            Members::One(ticket) => ticket.batch.deadline(),
            Members::Rest(_) => {
                let (_, many) = self.0.parts();
                many.iter().filter_map(|member| member.ticket.batch.deadline()).min()
            }
        }
    }

    /// Whether it was sent again from a fault.
    pub(crate) fn is_resubmitted(&self) -> bool {
        let first = self.records().next();
        first.is_some_and(|record| matches!(record.delivery(), crate::Delivery::Resubmit { .. }))
    }

    /// Whether all of its records are a replay's.
    pub(crate) fn is_replay(&self) -> bool {
        !self.is_empty() && self.records().all(|record| record.delivery().is_replay())
    }

    fn take_into(&mut self, all: &mut Vec<Member>) {
        match self.0.take() {
            Members::One(ticket) => all.push(Member::whole(ticket)),
            Members::Rest(members) => all.extend(members.into_iter().flat_map(|many| *many)),
        }
    }

    /// Adds the records of another at the end.
    pub(crate) fn append(&mut self, mut other: Lineage) {
        let mut all = match self.0.take() {
            Members::Rest(members) => members.unwrap_or_default(),
            Members::One(ticket) => {
                let mut all = Box::new(Vec::with_capacity(4));
                all.push(Member::whole(ticket));
                all
            }
        };
        other.take_into(&mut all);
        self.0 = Members::Rest(if all.is_empty() { None } else { Some(all) });
    }

    /// Decides all records.
    #[inline]
    pub(crate) fn decide(mut self, fate: Fate) {
        self.decide_in_place(fate);
    }

    /// All records are done. Leaves it to the caller to tell the shard, once for many units: whether it has to.
    #[inline(always)]
    pub(crate) fn done_quietly(mut self) -> bool {
        let members = self.0.take();
        // nothing is left in it that a drop could return: spares each unit a look
        std::mem::forget(self);
        match members {
            Members::One(ticket) => ticket.done_quietly(),
            Members::Rest(members) => {
                Lineage(Members::Rest(members)).decide(Fate::Done);
                false
            }
        }
    }

    fn decide_in_place(&mut self, fate: Fate) {
        match self.0.take() {
            Members::One(ticket) => ticket.settle(fate),
            Members::Rest(members) => {
                for member in members.into_iter().flat_map(|many| *many) {
                    member.ticket.settle(fate);
                }
            }
        }
    }

    /// Gives all records back for a reason that is not theirs: that does not count as a return.
    pub(crate) fn put_back(mut self) {
        self.put_back_in_place();
    }

    fn put_back_in_place(&mut self) {
        let mut members = Vec::new();
        self.take_into(&mut members);
        for member in &members {
            member.ticket.put_back();
        }
    }

    /// Whether all of it belongs to another flow by now: nothing that becomes of it changes anything.
    pub(crate) fn is_late(&self) -> bool {
        !self.is_empty() && self.members().all(|(ticket, _)| ticket.is_late())
    }

    /// The same records as `n` lineages: each record is decided when all of them are. `None`, and the
    /// lineage back, if a record would have more parts than can be counted.
    pub(crate) fn split(mut self, n: u32) -> Result<Vec<Lineage>, Lineage> {
        debug_assert!(n > 0, "an empty split is a filter");
        let mut own = Vec::new();
        self.take_into(&mut own);
        for (done, member) in own.iter().enumerate() {
            if !member.ticket.split(n) {
                // what has been split already has n parts, of which only one lives on
                for earlier in &own[..done] {
                    for _ in 1..n {
                        earlier.ticket.settle(Fate::Filtered);
                    }
                }
                return Err(Lineage(Members::many(own)));
            }
        }
        let shared = own.len() > 1;
        Ok((0..n)
            .map(|index| {
                let part = |member: &Member| Member {
                    ticket: member.ticket.again(),
                    part: member.part.part(index),
                    shared: member.shared || shared,
                };
                Lineage(Members::many(own.iter().map(part).collect()))
            })
            .collect())
    }

    /// Which of the parts that a split makes of this have had their fault in this life already: where it is one record,
    /// whatever its part was grouped with then; where it is a group, in one fault of just these records.
    pub(crate) fn faulted_parts(&self) -> Vec<u32> {
        let of = self.len();
        let mut parts: Option<BTreeSet<(u32, Uuid)>> = None;
        for (ticket, whole) in self.members() {
            let mut own = ticket.faulted_parts(whole, of);
            if let Some(parts) = &parts {
                own.retain(|part| parts.contains(part));
            }
            if own.is_empty() {
                return Vec::new();
            }
            parts = Some(own);
        }
        parts.into_iter().flatten().map(|(part, _)| part).collect()
    }

    /// Hands the records over to the fault list, which decides them when the fault is stored.
    pub(crate) fn hold(mut self) -> Held {
        let mut members = Vec::with_capacity(self.len());
        self.take_into(&mut members);
        for member in &members {
            member.ticket.hold();
            if planted!("fault-not-awaited") {
                member.ticket.unhold(Fate::Faulted);
            }
        }
        Held(members)
    }

    #[cold]
    fn dropped(&mut self) {
        let lane = match self.first() {
            Some(ticket) => ticket.batch.lane.clone(),
            None => return,
        };
        if lane.has(Flag::CLOSING | Flag::LOST | Flag::FATAL) || self.is_late() {
            self.put_back_in_place();
            return;
        }
        if std::thread::panicking() {
            // user code went down with the unit in its hands: that is known, not a mystery to be tried again
            let lineage = Lineage(self.0.take());
            return crate::fault::dropped_in_panic(&lane, lineage);
        }
        let mut again = false;
        for (ticket, _) in self.members() {
            again |= ticket.mark_dropped();
        }
        let lineage = Lineage(self.0.take());
        if again {
            crate::fault::dropped_twice(&lane, lineage);
        } else {
            if let Some(count) = lane.pipeline.lines.dropped.due() {
                tracing::warn!(
                    target: "streambreaker::lane",
                    pipeline = %lane.pipeline.name,
                    messaging.destination.name = %lane.stream,
                    messaging.destination.partition.id = %lane.shard,
                    count,
                    "a unit of work was dropped undecided; its records are returned",
                );
            }
            lineage.decide(Fate::Returned);
        }
    }
}

impl Drop for Lineage {
    #[inline]
    fn drop(&mut self) {
        if !matches!(self.0, Members::Rest(None)) {
            self.dropped();
        }
    }
}

impl fmt::Debug for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.records()).finish()
    }
}

/// Records whose fault event is not yet stored.
pub(crate) struct Held(Vec<Member>);

impl Held {
    pub(crate) fn members(&self) -> &[Member] {
        &self.0
    }

    /// The fault of this id is stored.
    pub(crate) fn confirm(mut self, fault: Uuid) {
        let all = self.0.len();
        for member in std::mem::take(&mut self.0) {
            if !member.part.is_whole() {
                let of = if member.shared { all } else { 1 };
                member.ticket.note_faulted(member.part, FaultedPart { fault, of });
            }
            member.ticket.unhold(Fate::Faulted);
        }
    }

    pub(crate) fn lane(&self) -> Option<&Arc<LaneState>> {
        self.0.first().map(|member| &member.ticket.batch.lane)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for member in &self.0 {
            member.ticket.unhold(Fate::Returned);
        }
    }
}

/// A record as it enters a pipeline: derefs to [`Record`], and asks the envelope what the event is.
#[derive(Clone)]
pub struct Received {
    batch: Arc<Batch>,
    /// As wide as a pointer: then it has no padding, and is moved in registers.
    index: usize,
}

impl Received {
    #[inline]
    pub(crate) fn new(batch: Arc<Batch>, index: u32) -> Self {
        Self { batch, index: index as usize }
    }

    /// The record.
    #[inline]
    pub fn record(&self) -> &Record {
        &self.batch.records[self.index]
    }

    /// What identifies the event over all its deliveries, as its envelope says.
    pub fn id(&self) -> Option<Cow<'_, str>> {
        self.batch.envelope.id(self.record())
    }

    /// The event's type, as its envelope says.
    pub fn kind(&self) -> Option<Cow<'_, str>> {
        self.batch.envelope.kind(self.record())
    }

    /// When the event happened, as its producer says.
    pub fn time(&self) -> Option<Timestamp> {
        self.batch.envelope.time(self.record())
    }

    /// What events that belong together share, as the envelope says; the transport's own key is
    /// [`Record::key`].
    pub fn key(&self) -> Option<Cow<'_, str>> {
        self.batch.envelope.key(self.record())
    }

    /// The bytes of the event proper, without its envelope.
    pub fn data(&self) -> Cow<'_, [u8]> {
        self.batch.envelope.data(self.record())
    }

    /// A name for the work on this record that is the same in every retry and redelivery: a UUID v5 over
    /// stream, shard and position.
    pub fn idempotency_key(&self) -> Uuid {
        crate::fault::idempotency_key(self.record())
    }
}

impl Deref for Received {
    type Target = Record;

    #[inline]
    fn deref(&self) -> &Record {
        self.record()
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.record(), f)
    }
}

/// A decoded event: derefs to `E`, and knows the record it came from.
#[derive(Clone)]
pub struct Event<E> {
    value: E,
    received: Received,
}

impl<E> Event<E> {
    pub(crate) fn new(value: E, received: Received) -> Self {
        Self { value, received }
    }

    /// The event itself.
    pub fn into_inner(self) -> E {
        self.value
    }

    /// Another value, with the same record.
    pub fn map<F>(self, f: impl FnOnce(E) -> F) -> Event<F> {
        Event { value: f(self.value), received: self.received }
    }

    /// The record, with its envelope.
    pub fn received(&self) -> &Received {
        &self.received
    }

    /// The record.
    pub fn record(&self) -> &Record {
        self.received.record()
    }

    /// What identifies the event over all its deliveries. See [`Received::id`].
    pub fn id(&self) -> Option<Cow<'_, str>> {
        self.received.id()
    }

    /// The event's type. See [`Received::kind`].
    pub fn kind(&self) -> Option<Cow<'_, str>> {
        self.received.kind()
    }

    /// When the event happened. See [`Received::time`].
    pub fn time(&self) -> Option<Timestamp> {
        self.received.time()
    }

    /// What events that belong together share. See [`Received::key`].
    pub fn key(&self) -> Option<Cow<'_, str>> {
        self.received.key()
    }

    /// The value of the first header of this name.
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.received.header(name)
    }

    /// Why the record is here.
    pub fn delivery(&self) -> &crate::record::Delivery {
        self.received.delivery()
    }

    /// The same in every retry and redelivery. See [`Received::idempotency_key`].
    pub fn idempotency_key(&self) -> Uuid {
        self.received.idempotency_key()
    }
}

impl<E> Deref for Event<E> {
    type Target = E;

    fn deref(&self) -> &E {
        &self.value
    }
}

impl<E> fmt::Debug for Event<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({:?})", self.received)
    }
}

/// Values that belong together: one unit of work, which succeeds or fails as one.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Group<K, T> {
    /// What they share.
    pub key: K,
    /// The values, in the order in which they came; never empty.
    pub items: Vec<T>,
}

impl<K, T> Group<K, T> {
    /// A group of these values.
    pub fn new(key: K, items: Vec<T>) -> Self {
        Self { key, items }
    }
}

impl<K, T> fmt::Debug for Group<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Group({} items)", self.items.len())
    }
}

impl<'a, K, T> IntoIterator for &'a Group<K, T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}

//! What a consumer group knows of one shard: who owns it, and what is settled.
//!
//! Lives in the stream, so that it outlives the consumers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::log::{Batch, Log};
use crate::record::{Position, Record};
use crate::source::Ack;

/// The consumers of one group name.
#[derive(Default)]
pub(super) struct Group {
    pub(super) shards: Vec<Holding>,
    /// What each member is still to be told.
    pub(super) notes: BTreeMap<u64, VecDeque<Note>>,
    /// Whether a member acknowledges one by one.
    pub(super) ways: BTreeMap<u64, bool>,
    /// Who joined last: assignments by hand go there.
    pub(super) latest: Option<u64>,
}

/// A change that a member is told of.
pub(super) enum Note {
    Assigned { shard: usize, epoch: u64 },
    Revoking { shard: usize, grace: Duration },
    Lost { shard: usize },
}

/// One shard as one group holds it.
#[derive(Default)]
pub(super) struct Holding {
    pub(super) epoch: u64,
    pub(super) owner: Option<u64>,
    /// When a revocation's grace ends.
    pub(super) until: Option<Instant>,
    each: bool,
    committed: Option<Position>,
    /// Up to where the present owner has committed, by position.
    own: Option<Position>,
    /// The highest position delivered: by position in this ownership, one by one ever.
    delivered: Option<Position>,
    pending: BTreeMap<Position, Pending>,
    due: BTreeSet<(Instant, Position)>,
    counts: BTreeMap<Position, u32>,
}

/// A record that was delivered and is not acknowledged.
struct Pending {
    due: Instant,
    /// Whether the consumer has it; one that was given back waits to be read again.
    held: bool,
    deliveries: u32,
}

/// `wait` from `now`, or as good as never.
fn later(now: Instant, wait: Duration) -> Instant {
    const NEVER: Duration = Duration::from_secs(30 * 365 * 86_400);
    now.checked_add(wait.min(NEVER)).unwrap_or(now)
}

impl Holding {
    /// Hands the shard to `member`: whoever had it is fenced from now on.
    pub(super) fn give(&mut self, member: u64, each: bool) -> u64 {
        self.epoch += 1;
        self.owner = Some(member);
        self.own = None;
        self.until = None;
        if !each || !self.each {
            // an owner by position starts at what is committed; so does whoever changes the way
            self.delivered = None;
            self.pending.clear();
            self.due.clear();
        }
        // what the owner before still had, this one does not have: it comes when it is due
        self.pending.values_mut().for_each(|pending| pending.held = false);
        self.each = each;
        self.epoch
    }

    /// Takes the shard away.
    pub(super) fn take_away(&mut self) -> Option<u64> {
        self.epoch += 1;
        self.until = None;
        self.owner.take()
    }

    pub(super) fn owned_in(&self, epoch: u64, now: Instant) -> bool {
        self.epoch == epoch && self.owner.is_some() && self.until.is_none_or(|until| now <= until)
    }

    pub(super) fn committed(&self) -> Option<&Position> {
        self.committed.as_ref()
    }

    /// Whether everything that the log still has is settled.
    pub(super) fn finished(&self, log: &Log) -> bool {
        log.after(self.committed.as_ref()) == log.records().len()
    }

    /// The records that were delivered and are not settled.
    pub(super) fn unacked(&self, log: &Log) -> usize {
        match &self.delivered {
            None => 0,
            Some(_) if self.each => self.pending.len(),
            delivered => {
                log.after(delivered.as_ref()).saturating_sub(log.after(self.committed.as_ref()))
            }
        }
    }

    // ---- by position ----

    /// Notes a delivery by position, and counts it where that is asked for.
    pub(super) fn delivered_through(&mut self, batch: &mut [Record], count: bool) {
        let last = batch.iter().map(Record::position).max();
        self.delivered = self.delivered.take().max(last.cloned());
        for record in batch.iter_mut().filter(|_| count) {
            let n = self.counts.entry(record.position().clone()).or_default();
            *n = n.saturating_add(1);
            *record = record.clone().with_deliveries(*n);
        }
    }

    /// Settles everything up to and with `position`. What an earlier owner has committed beyond it stays: an owner that
    /// was given records again from before its beginning does not know of that.
    ///
    /// # Errors
    /// What rule that would break.
    pub(super) fn settle_through(&mut self, position: &Position) -> Result<(), String> {
        if let Some(own) = self.own.as_ref().filter(|own| *own > position) {
            return Err(format!("I2: a commit of {position} would go back from {own}"));
        }
        let reached = self.delivered.as_ref().max(self.committed.as_ref());
        if reached.is_none_or(|reached| reached < position) {
            return Err(format!("I2: a commit of {position} passes what was delivered"));
        }
        self.own = Some(position.clone());
        if self.committed.as_ref().is_none_or(|committed| committed < position) {
            self.committed = Some(position.clone());
            self.counts = self.counts.split_off(position);
            self.counts.remove(position);
        }
        Ok(())
    }

    // ---- one by one ----

    /// Where reading new records goes on.
    pub(super) fn cursor(&self) -> Option<&Position> {
        self.delivered.as_ref().max(self.committed.as_ref())
    }

    /// Fills a batch with what is due again, then with what is new.
    pub(super) fn deliver(&mut self, log: &Log, batch: &mut Batch, wait: Duration, now: Instant) {
        let again: BTreeSet<Position> =
            self.due.iter().take_while(|(due, _)| *due <= now).map(|(_, p)| p.clone()).collect();
        for position in again {
            let Some(record) = log.get(&position) else { continue };
            let Some(pending) = self.pending.get_mut(&position) else { continue };
            let count = pending.deliveries.saturating_add(1);
            let record = record.clone().with_deliveries(count);
            if !batch.fits(&record) {
                return;
            }
            pending.deliveries = count;
            pending.held = true;
            batch.push(record);
            self.reschedule(&position, later(now, wait));
        }
        for record in log.records().range(log.after(self.cursor())..) {
            if !batch.fits(record) {
                return;
            }
            let (position, due) = (record.position().clone(), later(now, wait));
            batch.push(record.clone().with_deliveries(1));
            self.due.insert((due, position.clone()));
            self.pending.insert(position.clone(), Pending { due, held: true, deliveries: 1 });
            self.delivered = Some(position);
        }
    }

    /// When the next record is due again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// What the consumer does not have: how many records that are new, given back or overdue, and the
    /// oldest of them.
    pub(super) fn unread<'l>(&self, log: &'l Log, now: Instant) -> (u64, Option<&'l Record>) {
        let new = log.records().range(log.after(self.cursor())..);
        let (count, first) = (new.len() as u64, new.clone().next());
        self.pending
            .iter()
            .filter(|(_, pending)| !pending.held || pending.due <= now)
            .filter_map(|(position, _)| log.get(position))
            .fold((count, first), |(count, oldest), record| {
                let older = oldest.is_none_or(|oldest| record.arrival() < oldest.arrival());
                (count + 1, if older { Some(record) } else { oldest })
            })
    }

    pub(super) fn all_acked(&self, log: &Log) -> bool {
        self.pending.is_empty() && log.after(self.cursor()) == log.records().len()
    }

    /// Acknowledges one by one.
    ///
    /// # Errors
    /// What rule that would break.
    pub(super) fn settle_each(
        &mut self,
        log: &Log,
        acks: &[(Position, Ack)],
        now: Instant,
    ) -> Result<(), String> {
        let beyond = |p: &Position| self.cursor().is_none_or(|cursor| cursor < p);
        if let Some((position, _)) = acks.iter().find(|(p, _)| beyond(p)) {
            return Err(format!("I2: an acknowledgement of {position}, which was not delivered"));
        }
        for (position, ack) in acks {
            match ack {
                Ack::Done | Ack::Faulted => self.forget(position),
                Ack::Again { after } => {
                    if let Some(pending) = self.pending.get_mut(position) {
                        pending.held = false;
                        self.reschedule(position, later(now, *after));
                    }
                }
            }
        }
        self.advance(log);
        Ok(())
    }

    /// Moves the committed position up to the first record that is not acknowledged.
    fn advance(&mut self, log: &Log) {
        let reached = match self.pending.first_key_value() {
            None => self.delivered.clone(),
            // gone, and not known to be lost yet
            Some((open, _)) if log.get(open).is_none() => None,
            Some((open, _)) => log.before(log.records().partition_point(|r| r.position() < open)),
        };
        self.committed = self.committed.take().max(reached);
    }

    /// Extends the wait of what the consumer still has.
    pub(super) fn extend(&mut self, held: &[Position], wait: Duration, now: Instant) {
        for position in held {
            if self.pending.get(position).is_some_and(|pending| pending.held) {
                self.reschedule(position, later(now, wait));
            }
        }
    }

    /// Makes the last `n` unacknowledged records due at once.
    pub(super) fn redeliver(&mut self, n: usize, now: Instant) {
        let last: Vec<Position> = self.pending.keys().rev().take(n).cloned().collect();
        for position in last {
            self.reschedule(&position, now);
        }
    }

    /// Forgets how often what retention has taken was delivered. Who still has a record may yet settle it.
    pub(super) fn truncate(&mut self, before: &Position) {
        self.counts = self.counts.split_off(before);
    }

    /// The first of those that are to be delivered again and that retention has taken: nobody will settle them.
    pub(super) fn take_lost(&mut self, log: &Log, now: Instant) -> Option<Position> {
        let due = self.due.iter().take_while(|(due, _)| *due <= now).map(|(_, position)| position);
        let lost: BTreeSet<Position> = due.filter(|p| log.get(p).is_none()).cloned().collect();
        for position in &lost {
            self.forget(position);
        }
        if !lost.is_empty() {
            self.advance(log);
        }
        lost.into_iter().next()
    }

    /// Goes on behind a gap.
    pub(super) fn skip_to(&mut self, position: Option<Position>) {
        self.delivered = self.delivered.take().max(position);
    }

    fn forget(&mut self, position: &Position) {
        if let Some(pending) = self.pending.remove(position) {
            self.due.remove(&(pending.due, position.clone()));
        }
    }

    fn reschedule(&mut self, position: &Position, due: Instant) {
        if let Some(pending) = self.pending.get_mut(position) {
            self.due.remove(&(pending.due, position.clone()));
            pending.due = due;
            self.due.insert((due, position.clone()));
        }
    }
}

/// A group's name, shared by its readers and ackers.
pub(super) type GroupName = Arc<str>;

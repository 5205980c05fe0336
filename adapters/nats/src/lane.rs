//! The lanes of a consumer: which record goes to which, and what waits there.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_nats::{HeaderMap, HeaderName, Subject};
use streambreaker::source::{Behind, Read, Room};
use streambreaker::{Position, Record, ShardId};
use tokio::sync::Notify;

use crate::open::Open;
use crate::record::Delivered;

/// By what the records of a consumer are distributed over its lanes, so that those that belong together stay in
/// order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LaneBy {
    /// The whole subject.
    Subject,
    /// One token of the subject, counted from 0: `SubjectToken(1)` of `orders.42.changed` is `42`. A subject that is
    /// shorter counts as a whole.
    SubjectToken(usize),
    /// The first value of a header, by its exact name. A message without it goes by its whole subject.
    Header(HeaderName),
}

impl LaneBy {
    /// The bytes that a message is distributed by.
    pub(crate) fn key<'a>(&self, subject: &'a str, headers: Option<&'a HeaderMap>) -> &'a [u8] {
        let key = match self {
            LaneBy::Subject => None,
            LaneBy::SubjectToken(n) => subject.split('.').nth(*n),
            LaneBy::Header(name) => {
                headers.and_then(|all| all.get(name.clone())).map(|value| value.as_str())
            }
        };
        key.unwrap_or(subject).as_bytes()
    }
}

/// One lane: a shard of the source.
pub(crate) struct Lane {
    pub(crate) shard: ShardId,
    state: Mutex<State>,
    /// Something has come for it.
    pub(crate) news: Notify,
}

#[derive(Default)]
struct State {
    /// Delivered, and not yet read.
    ready: VecDeque<Record>,
    bytes: usize,
    gaps: VecDeque<(u64, u64)>,
    /// What was pending behind the last of `ready` when it was delivered.
    behind: u64,
    /// What was heard to be pending, and not yet told.
    pending: Option<u64>,
    /// What the reader was last told.
    told: Option<u64>,
    /// Where what is delivered and not settled is to be acknowledged.
    open: Open,
}

impl Lane {
    pub(crate) fn new(shard: ShardId) -> Self {
        Self { shard, state: Mutex::default(), news: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what was delivered, to be acknowledged at `reply`.
    pub(crate) fn push(&self, record: Record, delivered: &Delivered, reply: Subject) {
        let mut state = self.lock();
        state.bytes += record.size();
        state.behind = delivered.pending;
        // a later delivery is acknowledged in place of an earlier one
        state.open.insert(delivered.sequence, reply);
        state.ready.push_back(record);
    }

    /// Records and bytes that wait to be read.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let state = self.lock();
        (state.ready.len(), state.bytes)
    }

    pub(crate) fn note_gap(&self, gap: (u64, u64)) {
        self.lock().gaps.push_back(gap);
        self.news.notify_one();
    }

    /// Notes that so many are pending, where that is news.
    pub(crate) fn note_pending(&self, pending: u64) {
        let mut state = self.lock();
        if state.told != Some(pending) {
            state.pending = Some(pending);
            drop(state);
            self.news.notify_one();
        }
    }

    /// Whether its reader knows that it is at the end.
    pub(crate) fn knows_its_end(&self) -> bool {
        self.lock().told == Some(0)
    }

    /// What can be read at once, of one of `lanes` lanes.
    pub(crate) fn take(&self, room: Room, lanes: usize) -> Option<Read> {
        let mut state = self.lock();
        if let Some((from, to)) = state.gaps.pop_front() {
            return Some(Read::Gap { from: Position::from(from), to: Position::from(to) });
        }
        let pending = state.pending.take();
        let records = state.take(room);
        // what is pending is pending for all lanes: nobody knows for which
        let left = state.ready.len() as u64;
        let pending = match records.is_empty() {
            true => pending?,
            false => state.behind + left,
        };
        state.told = Some(pending);
        let share = pending.div_ceil(lanes as u64).max(left);
        Some(Read::Records { records, behind: Behind::records(share) })
    }

    /// Where each of these is to be acknowledged, but for what is settled.
    pub(crate) fn replies<'a, T>(
        &self,
        positions: impl ExactSizeIterator<Item = (&'a Position, T)>,
    ) -> Vec<(Subject, T)> {
        let state = self.lock();
        let mut replies = Vec::with_capacity(positions.len());
        let mut next = 0;
        for (position, what) in positions {
            let reply = position.as_u64().and_then(|sequence| state.open.get(sequence, &mut next));
            if let Some(reply) = reply {
                replies.push((reply.clone(), what));
            }
        }
        replies
    }

    /// Settled: not to be acknowledged any more.
    pub(crate) fn close<'a>(&self, positions: impl Iterator<Item = &'a Position>) {
        self.lock().open.close(positions.filter_map(Position::as_u64));
    }

    /// What was delivered and not yet read: it is held all the same.
    pub(crate) fn unread(&self) -> Vec<Subject> {
        let state = self.lock();
        let unread = state.ready.iter().filter_map(|record| record.position().as_u64());
        let mut next = 0;
        unread.filter_map(|sequence| state.open.get(sequence, &mut next).cloned()).collect()
    }

    /// Gives up: what was delivered and is not settled, and from now on nothing is.
    pub(crate) fn give_up(&self) -> Vec<Subject> {
        let mut state = self.lock();
        state.ready.clear();
        state.bytes = 0;
        std::mem::take(&mut state.open).into_replies()
    }
}

impl State {
    /// As many records as there is room for; one that is larger comes alone.
    fn take(&mut self, room: Room) -> Vec<Record> {
        if self.ready.len() <= room.records && self.bytes <= room.bytes {
            self.bytes = 0;
            return std::mem::take(&mut self.ready).into();
        }
        let (mut count, mut bytes) = (0, 0usize);
        for record in self.ready.iter().take(room.records.max(1)) {
            let with = bytes.saturating_add(record.size());
            if count > 0 && with > room.bytes {
                break;
            }
            (count, bytes) = (count + 1, with);
        }
        self.bytes -= bytes.min(self.bytes);
        self.ready.drain(..count).collect()
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        write!(f, "Lane({}, {} unread, {} open)", self.shard, state.ready.len(), state.open.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(lane: &Lane, sequence: u64, pending: u64, payload: &str) {
        let record = Record::new("s", "0", Position::from(sequence), payload.to_owned());
        let delivered = Delivered {
            sequence,
            consumer_sequence: sequence,
            deliveries: 1,
            pending,
            arrival: streambreaker::Timestamp::default(),
        };
        lane.push(record, &delivered, Subject::from(format!("ack.{sequence}")));
    }

    fn take(lane: &Lane, records: usize, bytes: usize) -> Option<(Vec<u64>, Behind)> {
        match lane.take(Room { records, bytes }, 1)? {
            Read::Records { records, behind } => {
                Some((records.iter().filter_map(|r| r.position().as_u64()).collect(), behind))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn o7_a_read_keeps_to_its_room_and_a_larger_record_comes_alone() {
        let lane = Lane::new("0".into());
        for (sequence, payload) in [(1, "aa"), (2, "bb"), (3, "a very large one"), (4, "dd")] {
            push(&lane, sequence, 4 - sequence, payload);
        }
        assert_eq!(take(&lane, 1, 100), Some((vec![1], Behind::records(3))));
        assert_eq!(take(&lane, 9, 5), Some((vec![2], Behind::records(2))));
        assert_eq!(take(&lane, 9, 5), Some((vec![3], Behind::records(1))));
        assert_eq!(take(&lane, 9, 5), Some((vec![4], Behind::records(0))));
        assert_eq!(take(&lane, 9, 5), None);
        assert_eq!(lane.waiting(), (0, 0));
    }

    #[test]
    fn what_is_pending_is_told_once() {
        let lane = Lane::new("0".into());
        assert!(!lane.knows_its_end());
        lane.note_pending(0);
        assert_eq!(take(&lane, 9, 9), Some((vec![], Behind::records(0))));
        lane.note_pending(0);
        assert_eq!(take(&lane, 9, 9), None);
        assert!(lane.knows_its_end());
    }

    #[test]
    fn lanes_go_by_subject_by_token_or_by_header() {
        let mut headers = HeaderMap::new();
        headers.append("Customer", "7");
        let key = |by: LaneBy| {
            String::from_utf8(by.key("orders.42.changed", Some(&headers)).to_vec()).unwrap()
        };
        assert_eq!(key(LaneBy::Subject), "orders.42.changed");
        assert_eq!(key(LaneBy::SubjectToken(1)), "42");
        assert_eq!(key(LaneBy::SubjectToken(9)), "orders.42.changed");
        assert_eq!(key(LaneBy::Header(HeaderName::from_static("Customer"))), "7");
        assert_eq!(key(LaneBy::Header(HeaderName::from_static("other"))), "orders.42.changed");
    }
}

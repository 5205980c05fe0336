//! The lanes of a consumer: which record goes to which, and what waits there.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_nats::{HeaderMap, HeaderName, Subject};
use streambreaker::source::{Behind, Read, Room};
use streambreaker::{Position, Record, ShardId};
use tokio::sync::Notify;

use crate::record::{Delivered, Item};

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
    ready: VecDeque<Item>,
    bytes: usize,
    gaps: VecDeque<(u64, u64)>,
    /// What was heard to be pending, and not yet told.
    pending: Option<u64>,
    /// What the reader was last told.
    told: Option<u64>,
    /// Where what is delivered and not settled is to be acknowledged, by position.
    open: BTreeMap<u64, Subject>,
}

impl Lane {
    pub(crate) fn new(shard: ShardId) -> Self {
        Self { shard, state: Mutex::default(), news: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what was delivered.
    pub(crate) fn push(&self, item: Item) {
        let mut state = self.lock();
        state.bytes += item.record.size();
        // a later delivery is acknowledged in place of an earlier one
        state.open.insert(item.delivered.sequence, item.delivered.reply.clone());
        state.ready.push_back(item);
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
        let mut records = Vec::with_capacity(room.records.min(state.ready.len()));
        let mut bytes = 0usize;
        let mut pending = state.pending.take();
        while let Some(item) = state.ready.front() {
            let size = item.record.size();
            let full = records.len() >= room.records || bytes.saturating_add(size) > room.bytes;
            // one that is larger than the room comes alone
            if full && !records.is_empty() {
                break;
            }
            let Some(Item { record, delivered }) = state.ready.pop_front() else { break };
            bytes = bytes.saturating_add(size);
            pending = Some(delivered.pending);
            records.push(record);
        }
        state.bytes -= bytes.min(state.bytes);
        let pending = pending?;
        state.told = Some(pending);
        // what is pending is pending for all lanes: nobody knows for which
        let share = pending.div_ceil(lanes as u64).max(state.ready.len() as u64);
        Some(Read::Records { records, behind: Behind::records(share) })
    }

    /// Where this is to be acknowledged; `None` if it is settled.
    pub(crate) fn reply(&self, position: &Position) -> Option<Subject> {
        position.as_u64().and_then(|sequence| self.lock().open.get(&sequence).cloned())
    }

    /// Settled: not to be acknowledged any more.
    pub(crate) fn close<'a>(&self, positions: impl Iterator<Item = &'a Position>) {
        let mut state = self.lock();
        for sequence in positions.filter_map(Position::as_u64) {
            state.open.remove(&sequence);
        }
    }

    /// What was delivered and not yet read: it is held all the same.
    pub(crate) fn unread(&self) -> Vec<Subject> {
        let state = self.lock();
        state.ready.iter().map(|item| item.delivered.reply.clone()).collect()
    }

    /// Gives up: what was delivered and is not settled, and from now on nothing is.
    pub(crate) fn give_up(&self) -> Vec<Subject> {
        let mut state = self.lock();
        state.ready.clear();
        state.bytes = 0;
        std::mem::take(&mut state.open).into_values().collect()
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        write!(f, "Lane({}, {} unread, {} open)", self.shard, state.ready.len(), state.open.len())
    }
}

impl Item {
    pub(crate) fn new(record: Record, delivered: Delivered) -> Self {
        Self { record, delivered }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(sequence: u64, pending: u64, payload: &str) -> Item {
        let record = Record::new("s", "0", Position::from(sequence), payload.to_owned());
        let reply = Subject::from(format!("ack.{sequence}"));
        Item::new(
            record,
            Delivered {
                sequence,
                consumer_sequence: sequence,
                deliveries: 1,
                pending,
                arrival: streambreaker::Timestamp::default(),
                reply,
            },
        )
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
            lane.push(item(sequence, 4 - sequence, payload));
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

//! One shard's records, and what retention took from them.

use std::collections::VecDeque;

use crate::record::{Position, Record};
use crate::source::Room;

/// The records of a shard, in the order of their positions.
#[derive(Default)]
pub(super) struct Log {
    records: VecDeque<Record>,
    /// The lowest and the highest position that retention has taken.
    gone: Option<(Position, Position)>,
    next: u64,
}

impl Log {
    /// The position that the next pushed payload gets.
    pub(super) fn next(&self) -> Position {
        Position::from(self.next)
    }

    /// The highest position there ever was.
    pub(super) fn last(&self) -> Option<&Position> {
        self.records.back().map(Record::position).or(self.gone.as_ref().map(|(_, last)| last))
    }

    /// Appends a record whose position is above all others; `false` when it is not.
    pub(super) fn push(&mut self, record: Record) -> bool {
        if self.last().is_some_and(|last| last >= record.position()) {
            return false;
        }
        if let Some(n) = record.position().as_u64() {
            self.next = n.saturating_add(1);
        }
        self.records.push_back(record);
        true
    }

    pub(super) fn records(&self) -> &VecDeque<Record> {
        &self.records
    }

    pub(super) fn get(&self, position: &Position) -> Option<&Record> {
        let index = self.records.partition_point(|r| r.position() < position);
        self.records.get(index).filter(|r| r.position() == position)
    }

    /// The index of the first record behind `cursor`.
    pub(super) fn after(&self, cursor: Option<&Position>) -> usize {
        cursor.map_or(0, |c| self.records.partition_point(|r| r.position() <= c))
    }

    /// The position that lies directly before record `index`: where a cursor stands that reads it next.
    pub(super) fn before(&self, index: usize) -> Option<Position> {
        match index.checked_sub(1) {
            Some(previous) => self.records.get(previous).map(|r| r.position().clone()),
            None => self.gone.as_ref().map(|(_, last)| last.clone()),
        }
    }

    /// What a reader at `cursor` can no longer read: the first position that is missing, and the first
    /// that is there again.
    pub(super) fn gap(&self, cursor: Option<&Position>) -> Option<(Position, Position)> {
        let (first, last) = self.gone.as_ref()?;
        if cursor.is_some_and(|c| c >= last) {
            return None;
        }
        let from = match cursor {
            Some(c) if c >= first => match c.as_u64() {
                Some(n) => Position::from(n.saturating_add(1)),
                None => last.clone(),
            },
            _ => first.clone(),
        };
        let to = self.begin(last);
        Some((from, to))
    }

    /// The first position that is there, where all up to `last` are gone.
    fn begin(&self, last: &Position) -> Position {
        match (self.records.front(), last.as_u64()) {
            (Some(record), _) => record.position().clone(),
            (None, Some(n)) => Position::from(n.saturating_add(1)),
            (None, None) => last.clone(),
        }
    }

    /// The gap that begins at `from`, which was there once and is gone.
    pub(super) fn gap_from(&self, from: Position) -> Option<(Position, Position)> {
        let (_, last) = self.gone.as_ref()?;
        Some((from, self.begin(last)))
    }

    /// Where a cursor stands that has been told of the gap.
    pub(super) fn past_gap(&self) -> Option<Position> {
        self.gone.as_ref().map(|(_, last)| last.clone())
    }

    /// Forgets all records before `position`.
    pub(super) fn truncate(&mut self, position: &Position) {
        while self.records.front().is_some_and(|r| r.position() < position) {
            let Some(record) = self.records.pop_front() else { return };
            let taken = record.position().clone();
            match &mut self.gone {
                Some((_, last)) => *last = taken,
                none => *none = Some((taken.clone(), taken)),
            }
        }
    }
}

/// What a read has taken so far, against the room it was given.
pub(super) struct Batch {
    pub(super) records: Vec<Record>,
    bytes: usize,
    room: Room,
}

impl Batch {
    pub(super) fn new(room: Room) -> Self {
        Self { records: Vec::new(), bytes: 0, room }
    }

    /// Whether `record` still fits. The first always does: a record above the limit comes alone.
    pub(super) fn fits(&self, record: &Record) -> bool {
        self.records.is_empty()
            || (self.records.len() < self.room.records
                && self.bytes.saturating_add(record.size()) <= self.room.bytes)
    }

    pub(super) fn push(&mut self, record: Record) {
        self.bytes = self.bytes.saturating_add(record.size());
        self.records.push(record);
    }
}

//! Reads one shard for one consumer.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::{Instant, sleep_until};

use super::consumer::Way;
use super::group::GroupName;
use super::inject::take;
use super::log::{Batch, Log};
use super::stream::{Shared, State};
use crate::record::{Position, Record};
use crate::source::{self, Behind, Read, Room, SourceError};

/// The reader of one shard of a [`Stream`](super::Stream).
pub struct Reader {
    shared: Arc<Shared>,
    group: GroupName,
    shard: usize,
    epoch: u64,
    way: Way,
    /// The last position read, where it is acknowledged by position.
    cursor: Option<Position>,
    told_end: bool,
}

/// What one look at the shard gave.
enum Look {
    Read(Read),
    Wait(Option<Instant>),
}

impl Reader {
    pub(super) fn new(
        (shared, group, shard): (Arc<Shared>, GroupName, usize),
        epoch: u64,
        way: Way,
        cursor: Option<Position>,
    ) -> Self {
        Self { shared, group, shard, epoch, way, cursor, told_end: false }
    }

    fn look(&mut self, state: &mut State, room: Room) -> Result<Look, SourceError> {
        let now = Instant::now();
        let injected = &mut state.injected[self.shard];
        if injected.stalled {
            return Ok(Look::Wait(None));
        }
        if std::mem::take(&mut injected.read_fatal) {
            return Err(SourceError::fatal("injected: a read that fails for good"));
        }
        if take(&mut injected.read_errors) {
            return Err(SourceError::transient("injected: a read that fails"));
        }
        if take(&mut injected.empty_reads) {
            return Ok(Look::Read(Read::Records {
                records: Vec::new(),
                behind: Behind::unknown(),
            }));
        }
        let again = std::mem::take(&mut injected.redeliver);
        match self.way {
            Way::Prefix { count } => Ok(self.look_by_position(state, room, again, count)),
            Way::Each { wait } => {
                let closed = state.closed;
                state.group(&self.group);
                let State { logs, groups, injected, .. } = state;
                let (log, injected) = (&logs[self.shard], &mut injected[self.shard]);
                let Some(group) = groups.get_mut(&self.group) else { return Ok(Look::Wait(None)) };
                let holding = &mut group.shards[self.shard];
                holding.redeliver(again, now);
                if let Some((from, to)) = log.gap(holding.cursor()) {
                    holding.skip_to(log.past_gap());
                    return Ok(Look::Read(Read::Gap { from, to }));
                }
                let over = closed && holding.all_acked(log);
                if !holding.owned_in(self.epoch, now) {
                    // whoever has lost the shard must not take records from its next owner
                    return Ok(if over { Look::Read(Read::End) } else { Look::Wait(None) });
                }
                let lost = holding.take_lost(log, now).and_then(|from| log.gap_from(from));
                if let Some((from, to)) = lost {
                    return Ok(Look::Read(Read::Gap { from, to }));
                }
                let mut batch = Batch::new(room);
                holding.deliver(log, &mut batch, wait, now);
                double(&mut batch, &mut injected.duplicate);
                let (count, oldest) = holding.unread(log, now);
                Ok(self.answer(batch, self.behind(count, oldest), over, holding.next_due()))
            }
        }
    }

    fn look_by_position(
        &mut self,
        state: &mut State,
        room: Room,
        again: usize,
        count: bool,
    ) -> Look {
        let (now, closed) = (Instant::now(), state.closed);
        if again > 0 {
            let log = &state.logs[self.shard];
            let index = log.after(self.cursor.as_ref());
            self.cursor = log.before(index.saturating_sub(again));
        }
        if let Some((from, to)) = state.logs[self.shard].gap(self.cursor.as_ref()) {
            self.cursor = state.logs[self.shard].past_gap();
            return Look::Read(Read::Gap { from, to });
        }
        let mut batch = Batch::new(room);
        self.take_from(&state.logs[self.shard], &mut batch);
        double(&mut batch, &mut state.injected[self.shard].duplicate);
        let holding = &mut state.group(&self.group).shards[self.shard];
        if holding.owned_in(self.epoch, now) {
            holding.delivered_through(&mut batch.records, count);
        }
        let log = &state.logs[self.shard];
        let left = log.records().range(log.after(self.cursor.as_ref())..);
        let (behind, over) = (self.behind(left.len() as u64, left.clone().next()), left.len() == 0);
        self.answer(batch, behind, closed && over, None)
    }

    fn take_from(&mut self, log: &Log, batch: &mut Batch) {
        for record in log.records().range(log.after(self.cursor.as_ref())..) {
            if !batch.fits(record) {
                return;
            }
            self.cursor = Some(record.position().clone());
            batch.push(record.clone());
        }
    }

    fn behind(&self, count: u64, oldest: Option<&Record>) -> Behind {
        let age = oldest.map(|record| self.shared.clock.now().since(record.arrival()));
        Behind { records: Some(count), age }
    }

    /// At the end it says so once, with an empty batch where need be, and then waits.
    fn answer(&mut self, batch: Batch, behind: Behind, over: bool, due: Option<Instant>) -> Look {
        let at_end = behind.records == Some(0);
        if batch.records.is_empty() {
            if over {
                return Look::Read(Read::End);
            }
            if self.told_end || !at_end {
                return Look::Wait(due);
            }
        }
        self.told_end = at_end;
        Look::Read(Read::Records { records: batch.records, behind })
    }
}

/// The first record twice, where that is injected and fits.
fn double(batch: &mut Batch, count: &mut u32) {
    if let Some(first) = batch.records.first().cloned() {
        if batch.fits(&first) && take(count) {
            batch.push(first.clone());
            // next to its twin, so that positions do not go down
            let last = batch.records.len() - 1;
            batch.records[1..=last].rotate_right(1);
        }
    }
}

#[async_trait]
impl source::Reader for Reader {
    /// Waits without looking: every change of the stream wakes it.
    async fn read(&mut self, room: Room) -> Result<Read, SourceError> {
        let shared = self.shared.clone();
        loop {
            let changed = shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let due = match self.look(&mut shared.lock(), room)? {
                Look::Read(read) => return Ok(read),
                Look::Wait(due) => due,
            };
            match due {
                None => changed.await,
                Some(due) => tokio::select! {
                    biased;
                    () = &mut changed => {}
                    () = sleep_until(due) => {}
                },
            }
        }
    }
}

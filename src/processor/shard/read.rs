//! What fills a shard: reads as there is room, and hands each batch to all lanes.

use std::time::Duration;

use tokio::time::Instant;

use super::{Shard, lock};
use crate::clock::FAR;
use crate::processor::core::InFlight;
use crate::record::Record;
use crate::settle::{Batch, Deadline, Flag, LaneBatch, Survey};
use crate::source::{Acknowledge, Behind, Read, Reader, Room, SourceError};

/// A record is held back until there is room for it.
struct HeldBack<'a>(&'a Shard);

impl Drop for HeldBack<'_> {
    fn drop(&mut self) {
        lock(&self.0.held_back).take();
    }
}

impl Shard {
    /// Waits until there is room for at least one record.
    async fn room(&self) -> Room {
        let Some(limits) = self.limits else {
            return Room { records: usize::MAX, bytes: usize::MAX };
        };
        // reads of a record or two cost as much as large ones: so it waits for some room
        let bound = limits.records.min(self.core.total_limits.records);
        let some = (bound / 16).max(1);
        let free = self
            .free(limits, |held, free| free.0 >= if held > 0 { some } else { 1 } && free.1 > 0)
            .await;
        // smaller than the limit, so that reading and working overlap
        let most = (limits.records / 4).max(1);
        Room { records: free.0.min(most), bytes: free.1 }
    }

    /// Holds a record back that is larger than the room its reader was given, until it fits, or is alone.
    async fn admit(&self, bytes: usize) {
        if let Some(limits) = self.limits {
            self.free(limits, |held, free| held == 0 || free.0 > 0 && free.1 >= bytes).await;
        }
    }

    /// Notes for as long as it lives that this record is held back, and not to be given to anybody else.
    fn hold_back(&self, record: &Record) -> HeldBack<'_> {
        *lock(&self.held_back) = Some(record.position().clone());
        HeldBack(self)
    }

    /// Waits until `enough` says so of how many records are in flight, and how many records and bytes more may be.
    /// Meanwhile the lanes are told that the reader stands at its limit.
    async fn free(
        &self,
        limits: InFlight,
        enough: impl Fn(usize, (usize, usize)) -> bool,
    ) -> (usize, usize) {
        let mut waited = false;
        loop {
            let own = self.room.notified();
            let all = self.core.in_flight.freed();
            let (records, bytes) = {
                let tracker = self.tracker();
                (tracker.records_in_flight(), tracker.bytes_in_flight())
            };
            let mut free =
                (limits.records.saturating_sub(records), limits.bytes.saturating_sub(bytes));
            if self.progress().suspect {
                if records > 0 {
                    free = (0, 0);
                } else {
                    self.progress().suspect = false;
                }
            }
            if self.is_unheard(records, limits) {
                free = (0, 0);
            }
            // each shard is always granted one batch, or a busy one would starve the others
            if records > 0 {
                let total = self.core.in_flight.free(self.core.total_limits);
                free = (free.0.min(total.0), free.1.min(total.1));
            }
            if enough(records, free) {
                if waited {
                    for lane in &self.lanes {
                        lane.state.lower(Flag::PRESSURE | Flag::WANTED);
                    }
                    self.progress().full_since = None;
                }
                return free;
            }
            if !waited {
                waited = true;
                self.progress().full_since = Some(Instant::now());
                self.raise(Flag::PRESSURE | Flag::WANTED);
                self.signal.notify_one();
            }
            tokio::select! {
                biased;
                () = own => {}
                () = all => {}
            }
        }
    }

    /// Reads until the shard ends; `Err` when it cannot be read any more.
    pub(super) async fn read_loop(&self, mut reader: Box<dyn Reader>) -> Result<(), SourceError> {
        let backoff = self.core.source_backoff();
        let mut failures = 0;
        loop {
            let room = self.room().await;
            match reader.read(room).await {
                Ok(Read::Records { records, behind }) => {
                    let read = Instant::now();
                    failures = 0;
                    {
                        let mut progress = self.progress();
                        progress.behind = behind;
                        progress.last_read = Some(read);
                        progress.failing = false;
                    }
                    if records.is_empty() {
                        // a source that answers at once with nothing must not keep the thread
                        tokio::task::yield_now().await;
                    } else {
                        // only a record by itself may be larger
                        if let [one] = &*records {
                            if one.size() > room.bytes {
                                let _held = self.hold_back(one);
                                self.admit(one.size()).await;
                            }
                        }
                        self.ingest(records, read);
                    }
                }
                Ok(Read::Gap { from, to }) => {
                    self.core.note_gap(self, &from, &to);
                }
                Ok(Read::End) => {
                    let mut progress = self.progress();
                    progress.behind = Behind::records(0);
                    progress.failing = false;
                    return Ok(());
                }
                Err(error @ SourceError::Fatal(_)) => return Err(error),
                Err(error) => {
                    failures += 1;
                    {
                        let mut progress = self.progress();
                        progress.failing = true;
                        progress.last_error = Some(("transient", Instant::now()));
                    }
                    self.core.note_source_error(&self.stream, Some(&self.id), &error);
                    let wait = backoff.delay(failures, &self.core.random).unwrap_or_default();
                    tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
                }
            }
        }
    }

    /// Hands a batch to all lanes that was read at `read`: its deadline counts from then.
    fn ingest(&self, records: Vec<Record>, read: Instant) {
        let Some(first) = records.first() else { return };
        // a finite batch says nothing of what its host gave before
        let ordered = self.caps.acknowledge == Acknowledge::Prefix && self.limits.is_some();
        let own = match (self.core.deadline, self.caps.deadline, self.caps.extends) {
            (Some(own), _, _) => Some(read + own),
            (None, Some(theirs), false) => Some(read + theirs.min(FAR)),
            _ => None,
        };
        let renewal = match (self.core.deadline, self.caps.deadline, self.caps.extends) {
            (_, Some(_), false) => None,
            (own, ..) => own.filter(|_| ordered),
        };
        let deadline =
            own.into_iter().chain(self.until).min().map(|first| Deadline { first, renewal });
        self.core.note_passed_by(&self.stream, &self.id, &records);
        self.note_come_again(records.iter().map(Record::position));
        let survey = Survey::of(&records);
        // before the tracker is locked: it asks the processor
        drop(self.history_of(first.delivery()));
        let (lanes, suspect) = {
            let mut tracker = self.tracker();
            if tracker.is_closed() {
                return;
            }
            let mut history = self.history();
            let counts: Vec<_> = self
                .lanes
                .iter()
                .map(|lane| {
                    history.reading(lane.state.pipeline.index, &records, ordered, survey.sorted)
                })
                .collect();
            let (gated, suspect) = self
                .lanes
                .first()
                .map_or((false, false), |lane| lane.keeper.concerns(&records, survey, &counts));
            let envelope = self.core.envelope.clone();
            let batch = Batch::new(records, survey.bytes, envelope, deadline, gated);
            let lanes: Vec<_> = self
                .lanes
                .iter()
                .zip(counts)
                .enumerate()
                .map(|(number, (lane, counts))| {
                    let own = LaneBatch::new(batch.clone(), lane.state.clone(), counts);
                    for (index, before) in history.given_back(&batch.records) {
                        own.follow(index, before.traces.get(number).copied().unwrap_or_default());
                    }
                    own
                })
                .collect();
            tracker.push(batch, lanes.clone());
            (lanes, suspect)
        };
        if suspect {
            self.progress().suspect = true;
        }
        self.note_in_flight();
        // from now on somebody has to look in time, and without lanes at once
        self.signal.notify_one();
        for (lane, batch) in self.lanes.iter().zip(lanes) {
            if let Some(feed) = &*lock(&lane.feed) {
                // the lane is gone only if the shard is on its way out
                let _ = feed.send(batch);
            }
        }
    }
}

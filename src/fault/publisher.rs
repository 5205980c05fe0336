//! Stores the faults of a shard: a task that outlives lanes and their restarts, and does not give up while
//! the processor runs.

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;

use super::ladder::fit_quietly;
use super::list::{Draft, FaultList};
use super::{FaultError, FaultEvent, FaultRecord, Fit, Oversize, Scrubber};
use crate::clock::Random;
use crate::error::StepError;
use crate::flow::bulk::{Call, sort};
use crate::flow::panicked;
use crate::labels::Labels;
use crate::minutely::Minutely;
use crate::resource::Retry;
use crate::settle::FaultKind;
use crate::sink::{OutcomeLog, Sink};
use crate::unit::Held;

/// Kinds that are told apart in a report.
const KINDS: usize = 100;

/// Where faults go, and what is known of all of them: one a processor.
pub(crate) struct FaultDesk {
    pub(crate) processor: String,
    pub(crate) release: Option<String>,
    pub(crate) instance: String,
    pub(crate) sink: Arc<dyn Sink<FaultEvent>>,
    pub(crate) scrubber: Arc<dyn Scrubber>,
    pub(crate) oversize: Arc<dyn Oversize>,
    /// Of one write to the sink.
    pub(crate) timeout: Duration,
    pub(crate) random: Random,
    pub(crate) stored: AtomicU64,
    pub(crate) kinds: Mutex<BTreeMap<String, Kind>>,
    pub(crate) labels: Arc<Labels>,
    /// The sink did not confirm.
    pub(crate) unwritten: Minutely,
    /// An event is too large for the sink.
    pub(crate) held: Minutely,
}

/// What a line about faults says of the newest of them.
struct Newest<'a> {
    fault: Option<&'a uuid::Uuid>,
    new: bool,
    count: u64,
}

/// Faults of one fingerprint.
pub(crate) struct Kind {
    pub(crate) kind: FaultKind,
    line: Minutely,
}

/// One event on its way, and the draft that it belongs to.
struct Piece {
    event: FaultEvent,
    draft: u64,
    ready: bool,
}

/// A draft whose event may have become several.
struct Waiting {
    held: Held,
    left: usize,
}

impl FaultDesk {
    fn event(&self, draft: &Draft) -> Option<FaultEvent> {
        let lane = draft.held.lane()?;
        let records: Vec<FaultRecord> = draft
            .held
            .members()
            .iter()
            .map(|member| FaultRecord::part(member.ticket.record().clone(), member.part.clone()))
            .collect();
        let grouped = records.len() > 1;
        let mut event = FaultEvent::new(
            &self.processor,
            &lane.pipeline.name,
            &draft.stage.name,
            draft.error.class(),
            records,
        );
        event.timestamp = draft.at;
        event.release.clone_from(&self.release);
        event.instance.clone_from(&self.instance);
        event.resource.clone_from(&draft.stage.resource);
        event.err = FaultError::from(&draft.error);
        event.attempts.clone_from(&draft.attempts);
        event.grouped = grouped;
        Some(event.finish(&*self.scrubber))
    }

    /// Counts a stored fault, and logs its fingerprint at most once a minute.
    fn count(&self, event: &FaultEvent) {
        self.stored.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(
            "streambreaker_faults_total",
            "processor" => self.processor.clone(),
            "pipeline" => event.pipeline.clone(),
            "stage" => self.labels.stage.of(&event.stage),
            "class" => event.class.as_str(),
        )
        .increment(1);
        let mut kinds = self.kinds.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let known = kinds.contains_key(&event.fingerprint);
        let fingerprint =
            if known || kinds.len() < KINDS { event.fingerprint.as_str() } else { "other" };
        let kind = kinds.entry(fingerprint.to_owned()).or_insert_with(|| Kind {
            kind: FaultKind::new(
                fingerprint.to_owned(),
                event.class,
                event.pipeline.clone(),
                event.stage.clone(),
                event.err.name.clone(),
            ),
            line: Minutely::default(),
        });
        kind.kind.count += 1;
        let new = kind.line.is_new();
        if let Some(count) = kind.line.due() {
            self.say(&kind.kind, &Newest { fault: Some(&event.id), new, count });
        }
    }

    /// Logs what was counted and kept back, where nothing has followed for a minute; at the `last` time all of it.
    pub(crate) fn say_what_is_left(&self, last: bool) {
        let kinds = self.kinds.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for kind in kinds.values() {
            if let Some(count) = kind.line.left(last) {
                self.say(&kind.kind, &Newest { fault: None, new: false, count });
            }
        }
    }

    fn say(&self, kind: &FaultKind, newest: &Newest<'_>) {
        tracing::warn!(
            target: "streambreaker::fault",
            processor = %self.processor,
            pipeline = %kind.pipeline,
            stage = %kind.stage,
            class = %kind.class,
            error.type = %kind.error,
            fingerprint = %kind.fingerprint,
            new = newest.new,
            count = newest.count,
            fault = newest.fault.map(tracing::field::display),
            "faults are set aside",
        );
    }
}

/// Stores the faults of `list` until it is closed and empty.
///
/// # Cancel safety
/// What is not confirmed when this is dropped is returned, not settled.
pub(crate) async fn publish(list: Arc<FaultList>, desk: Arc<FaultDesk>) {
    let limits = desk.sink.limits();
    let (most, bytes) = (limits.items.max(1), limits.bytes.max(1));
    let size = |event: &FaultEvent| desk.sink.size(event);
    let backoff = Retry::exponential().max_attempts(u32::MAX).cap(Duration::from_secs(30));
    let mut pieces: VecDeque<Piece> = VecDeque::new();
    let mut waiting: BTreeMap<u64, Waiting> = BTreeMap::new();
    let mut serial = 0;
    let mut failures = 0u32;
    loop {
        let busy = !pieces.is_empty();
        let more = if pieces.len() < most {
            list.take(most - pieces.len(), busy).await
        } else {
            Some(Vec::new())
        };
        match more {
            None if !busy => return,
            None => {}
            Some(drafts) => {
                for draft in drafts {
                    let Some(event) = desk.event(&draft) else { continue };
                    serial += 1;
                    let fits = fit_quietly(event, bytes, size, &*desk.oversize, &desk.held).await;
                    waiting.insert(serial, Waiting { held: draft.held, left: fits.len() });
                    pieces.extend(fits.into_iter().map(|fit| match fit {
                        Fit::Send(event) => Piece { event, draft: serial, ready: true },
                        Fit::Hold(event) => Piece { event, draft: serial, ready: false },
                    }));
                }
            }
        }
        let batch = next_batch(&mut pieces, most, bytes, size);
        let failed = if batch.is_empty() {
            true
        } else {
            let (done, failed) = write(&desk, batch).await;
            for piece in done {
                desk.count(&piece.event);
                let Some(entry) = waiting.get_mut(&piece.draft) else { continue };
                entry.left -= 1;
                if entry.left == 0 {
                    if let Some(stored) = waiting.remove(&piece.draft) {
                        list.confirm(stored.held);
                    }
                }
            }
            let any = !failed.is_empty();
            // to the back: one that the sink does not take must not keep the others from it
            pieces.extend(failed);
            any
        };
        if !failed {
            failures = 0;
            continue;
        }
        failures = failures.saturating_add(1);
        let delay = backoff.delay(failures, &desk.random).unwrap_or(Duration::from_secs(30));
        tokio::time::sleep(delay.max(Duration::from_millis(1))).await;
        retry_held(&mut pieces, &mut waiting, bytes, &desk).await;
    }
}

/// Asks once more for what was too large: the hook's store may be back.
async fn retry_held(
    pieces: &mut VecDeque<Piece>,
    waiting: &mut BTreeMap<u64, Waiting>,
    bytes: usize,
    desk: &FaultDesk,
) {
    for index in (0..pieces.len()).filter(|index| !pieces[*index].ready).collect::<Vec<_>>() {
        let event = pieces[index].event.clone();
        let size = |event: &FaultEvent| desk.sink.size(event);
        let mut fits = fit_quietly(event, bytes, size, &*desk.oversize, &desk.held).await;
        let draft = pieces[index].draft;
        if let (1, Some(Fit::Send(event))) = (fits.len(), fits.pop()) {
            pieces[index] = Piece { event, draft, ready: true };
        }
        debug_assert!(waiting.contains_key(&draft), "a piece belongs to a draft that waits");
    }
}

fn next_batch(
    pieces: &mut VecDeque<Piece>,
    most: usize,
    bytes: usize,
    size: impl Fn(&FaultEvent) -> usize,
) -> Vec<Piece> {
    let mut batch = Vec::new();
    let mut rest = VecDeque::with_capacity(pieces.len());
    let mut total = 0usize;
    for piece in pieces.drain(..) {
        let own = size(&piece.event);
        if piece.ready && batch.len() < most && total.saturating_add(own) <= bytes {
            total += own;
            batch.push(piece);
        } else {
            rest.push_back(piece);
        }
    }
    *pieces = rest;
    batch
}

/// Writes one request; what is stored, and what is not.
async fn write(desk: &FaultDesk, batch: Vec<Piece>) -> (Vec<Piece>, Vec<Piece>) {
    let (events, drafts): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|piece| (piece.event, piece.draft)).unzip();
    let mut log = OutcomeLog::new(events.len());
    let call = {
        let mut outcomes = log.outcomes();
        let write = AssertUnwindSafe(desk.sink.write(&events, &mut outcomes)).catch_unwind();
        match tokio::time::timeout(desk.timeout, write).await {
            Ok(Ok(result)) => Call::Returned(result),
            Ok(Err(panic)) => Call::Broken(panicked(panic)),
            Err(_) => Call::Broken(crate::flow::timed_out(desk.timeout)),
        }
    };
    let pieces = events
        .into_iter()
        .zip(drafts)
        .map(|(event, draft)| Piece { event, draft, ready: true })
        .collect();
    let sorted = sort(pieces, log, call);
    if let Some((piece, error)) = sorted.failed.first() {
        metrics::counter!(
            "streambreaker_fault_writes_failed_total",
            "processor" => desk.processor.clone()
        )
        .increment(1);
        if let Some(requests) = desk.unwritten.due() {
            tracing::error!(
                target: "streambreaker::fault",
                processor = %desk.processor,
                fault = %piece.event.id,
                requests,
                not_confirmed = sorted.failed.len(),
                class = %StepError::class(error),
                error.type = error.name(),
                "the fault sink did not confirm; the checkpoint waits, and it is tried again",
            );
        }
    }
    (sorted.done, sorted.failed.into_iter().map(|(piece, _)| piece).collect())
}

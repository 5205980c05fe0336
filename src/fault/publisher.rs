//! Stores the faults of a shard: a task that outlives lanes and their restarts, and does not give up while
//! the processor runs.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;
use uuid::Uuid;

use super::ladder::{Fit, fit};
use super::list::{Draft, FaultList};
use super::{FaultError, FaultEvent, FaultRecord, NoScrub, Oversize, Scrubber};
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
    pub(crate) kinds: Mutex<BTreeMap<(String, String), Kind>>,
    pub(crate) labels: Arc<Labels>,
    /// The sink did not confirm.
    pub(crate) unwritten: Minutely,
    /// An event is too large for the sink, or cannot be measured.
    pub(crate) held: Minutely,
}

/// What a line about faults says of the newest of them.
struct Newest<'a> {
    fault: Option<&'a Uuid>,
    new: bool,
    count: u64,
}

/// Faults of one fingerprint.
pub(crate) struct Kind {
    pub(crate) kind: FaultKind,
    line: Minutely,
}

/// The longest wait of one event, and between two requests of which nothing was stored.
const LONGEST: Duration = Duration::from_secs(30);
const PACE: Duration = Duration::from_secs(1);

/// One event on its way, and the draft that it belongs to.
struct Piece {
    event: FaultEvent,
    draft: u64,
    /// Its bytes by the sink; none while it is too large, or cannot be measured: then it is held.
    size: Option<usize>,
    failures: u32,
    not_before: Option<Instant>,
    /// It failed where others were stored: the sink is well, it is this one that waits.
    singled: bool,
}

impl Piece {
    fn is_due(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    fn wait(&mut self, now: Instant, backoff: &Retry, random: &Random) {
        self.failures = self.failures.saturating_add(1);
        let delay = backoff.delay(self.failures, random).unwrap_or(LONGEST);
        self.not_before = Some(now + delay.max(Duration::from_millis(1)));
    }
}

/// A draft whose event may have become several.
struct Waiting {
    id: Uuid,
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
        let records = if planted!("first-record-only") { records[..1].to_vec() } else { records };
        let grouped = records.len() > 1;
        let bare = || {
            let mut event = FaultEvent::new(
                &self.processor,
                &lane.pipeline.name,
                &draft.stage.name,
                draft.error.class(),
                records.clone(),
            );
            event.timestamp = draft.at;
            event.release.clone_from(&self.release);
            event.instance.clone_from(&self.instance);
            event.resource.clone_from(&draft.stage.resource);
            event.attempts.clone_from(&draft.attempts);
            event.grouped = grouped;
            event
        };
        // the error's `Display` and the scrubber are the user's
        let texts = catch_unwind(AssertUnwindSafe(|| {
            let mut event = bare();
            event.err = FaultError::from(&draft.error);
            event.finish(&*self.scrubber)
        }));
        Some(texts.unwrap_or_else(|_| {
            // what could not be scrubbed is not stored; the records are
            let mut event = bare();
            event.err.name = draft.error.name().to_owned();
            event.err.message = "the text of the error could not be read and scrubbed".to_owned();
            event.finish(&NoScrub)
        }))
    }

    /// An event as pieces that the sink can take, and those that it cannot.
    async fn pieces(&self, event: FaultEvent, draft: u64, limit: usize) -> Vec<Piece> {
        let piece = |event, size| Piece {
            event,
            draft,
            size,
            failures: 0,
            not_before: None,
            singled: false,
        };
        let measure =
            |event: &FaultEvent| catch_unwind(AssertUnwindSafe(|| self.sink.size(event))).ok();
        if let Some(size) = measure(&event).filter(|size| *size <= limit) {
            return vec![piece(event, Some(size))];
        }
        let kept = event.clone();
        let size = |event: &FaultEvent| self.sink.size(event);
        let fitting = fit(event, limit, size, &*self.oversize, &self.held);
        let fitting = AssertUnwindSafe(fitting).catch_unwind();
        match tokio::time::timeout(self.timeout, fitting).await {
            Ok(Ok(fits)) => fits
                .into_iter()
                .map(|fit| match fit {
                    Fit::Send(event) => {
                        let size = measure(&event);
                        piece(event, size)
                    }
                    Fit::Hold(event) => piece(event, None),
                })
                .collect(),
            Ok(Err(_)) | Err(_) => {
                if let Some(count) = self.held.due() {
                    tracing::error!(
                        target: "streambreaker::fault",
                        processor = %self.processor,
                        fault = %kept.id,
                        count,
                        "the fault sink could not measure a fault event, or the hook for oversize failed; \
                         the checkpoint waits, and it is tried again",
                    );
                }
                vec![piece(kept, None)]
            }
        }
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
        // two pipelines may have a stage of the same name, which makes the same fingerprint
        let mut name = (event.fingerprint.clone(), event.pipeline.clone());
        if kinds.len() >= KINDS && !kinds.contains_key(&name) {
            name = ("other".to_owned(), String::new());
        }
        let fingerprint = name.0.clone();
        let kind = kinds.entry(name).or_insert_with(|| Kind {
            kind: FaultKind::new(
                fingerprint,
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
/// All that has come is taken in, however much the sink refuses: it is bounded by what may be in flight, and
/// one event that the sink does not take must not keep the others from it.
///
/// # Cancel safety
/// What is not confirmed when this is dropped is returned, not settled.
pub(crate) async fn publish(list: Arc<FaultList>, desk: Arc<FaultDesk>) {
    let limits = desk.sink.limits();
    let (most, bytes) = (limits.items.max(1), limits.bytes.max(1));
    let backoff = Retry::exponential().max_attempts(u32::MAX).cap(LONGEST);
    let pace = Retry::exponential().max_attempts(u32::MAX).cap(PACE);
    let mut pieces: VecDeque<Piece> = VecDeque::new();
    let mut waiting: BTreeMap<u64, Waiting> = BTreeMap::new();
    let mut serial = 0;
    let mut failures = 0u32;
    let mut closed = false;
    loop {
        let due = pieces.iter().map(|piece| piece.not_before).min();
        let more = match due {
            None => list.take(most, false).await,
            Some(None) => list.take(most, true).await,
            Some(Some(due)) => tokio::select! {
                biased;
                more = list.take(most, false), if !closed => more,
                () = tokio::time::sleep_until(due) => Some(Vec::new()),
            },
        };
        if more.is_none() && !closed {
            closed = true;
            // the shard is about to end, and what is not stored by then is returned: no time to wait for long
            for piece in &mut pieces {
                piece.not_before = piece.not_before.map(|at| at.min(Instant::now() + PACE));
            }
        }
        if closed && pieces.is_empty() {
            return;
        }
        for draft in more.into_iter().flatten() {
            let Some(event) = desk.event(&draft) else { continue };
            serial += 1;
            let id = event.id;
            let fits = desk.pieces(event, serial, bytes).await;
            waiting.insert(serial, Waiting { id, held: draft.held, left: fits.len() });
            pieces.extend(fits);
        }
        let now = Instant::now();
        retry_held(&mut pieces, bytes, &desk, if closed { &pace } else { &backoff }).await;
        let batch = next_batch(&mut pieces, most, bytes, now);
        if batch.is_empty() {
            continue;
        }
        let (done, mut failed) = write(&desk, batch).await;
        let stored = !done.is_empty();
        for piece in done {
            desk.count(&piece.event);
            let Some(entry) = waiting.get_mut(&piece.draft) else { continue };
            entry.left -= 1;
            if entry.left == 0 {
                if let Some(stored) = waiting.remove(&piece.draft) {
                    list.confirm(stored.held, stored.id);
                }
            }
        }
        let now = Instant::now();
        for piece in &mut failed {
            piece.singled |= stored;
            piece.wait(now, if closed { &pace } else { &backoff }, &desk.random);
        }
        let any = !failed.is_empty();
        pieces.extend(failed);
        if stored {
            // it is well again: what only shared its outage need not wait any longer
            failures = 0;
            for piece in pieces.iter_mut().filter(|piece| !piece.singled && piece.size.is_some()) {
                piece.not_before = None;
            }
        } else if any {
            failures = failures.saturating_add(1);
            let delay = pace.delay(failures, &desk.random).unwrap_or(PACE);
            tokio::time::sleep(delay.max(Duration::from_millis(1))).await;
        }
    }
}

/// Asks once more for what was too large: the hook's store may be back.
async fn retry_held(pieces: &mut VecDeque<Piece>, bytes: usize, desk: &FaultDesk, backoff: &Retry) {
    for piece in pieces.iter_mut().filter(|piece| piece.size.is_none()) {
        let now = Instant::now();
        if !piece.is_due(now) {
            continue;
        }
        if piece.failures > 0 {
            let mut again = desk.pieces(piece.event.clone(), piece.draft, bytes).await;
            if let (1, Some(Piece { event, size: Some(size), .. })) = (again.len(), again.pop()) {
                (piece.event, piece.size, piece.not_before) = (event, Some(size), None);
                continue;
            }
        }
        piece.wait(now, backoff, &desk.random);
    }
}

fn next_batch(pieces: &mut VecDeque<Piece>, most: usize, bytes: usize, now: Instant) -> Vec<Piece> {
    let mut batch = Vec::new();
    let mut rest = VecDeque::with_capacity(pieces.len());
    let mut total = 0usize;
    for piece in pieces.drain(..) {
        match piece.size {
            Some(size)
                if piece.is_due(now)
                    && batch.len() < most
                    && total.saturating_add(size) <= bytes =>
            {
                total += size;
                batch.push(piece);
            }
            _ => rest.push_back(piece),
        }
    }
    *pieces = rest;
    batch
}

/// Writes one request; what is stored, and what is not.
async fn write(desk: &FaultDesk, batch: Vec<Piece>) -> (Vec<Piece>, Vec<Piece>) {
    let mut rests = Vec::with_capacity(batch.len());
    let mut events = Vec::with_capacity(batch.len());
    for Piece { event, draft, size, failures, singled, .. } in batch {
        events.push(event);
        rests.push((draft, size, failures, singled));
    }
    let mut log = OutcomeLog::new(events.len());
    let call = {
        let mut outcomes = log.outcomes();
        // the call itself may panic, not only what it returns
        let write = async { desk.sink.write(&events, &mut outcomes).await };
        let write = AssertUnwindSafe(write).catch_unwind();
        match tokio::time::timeout(desk.timeout, write).await {
            Ok(Ok(result)) => Call::Returned(result),
            Ok(Err(panic)) => Call::Broken(panicked(panic)),
            Err(_) => Call::Broken(crate::flow::timed_out(desk.timeout)),
        }
    };
    let pieces = events
        .into_iter()
        .zip(rests)
        .map(|(event, (draft, size, failures, singled))| Piece {
            event,
            draft,
            size,
            failures,
            not_before: None,
            singled,
        })
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

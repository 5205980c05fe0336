//! Resubmitting: a fault's records, sent again to the pipeline that refused them, and only there.
//!
//! One decision shaped this module: a fault is not read as a stream, it is *processed*: one fault is one call of
//! [`Processor::process`], the finite batch that the core has for exactly that. So a group comes back as a group, alone, with
//! groups closed before and after; the guards are those of live records; every new fault is stored before the call returns; and
//! what became of the unit is its answer, which goes into the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use streambreaker::clock::{Clock, SystemClock};
use streambreaker::fault::FaultRecord;
use streambreaker::{By, Delivery, FaultEvent, Position, Processor, Record, ShardId};
use tokio::time::Instant;
use uuid::Uuid;

use crate::assemble::Assembly;
use crate::error::LakeError;
use crate::faults::{FaultScan, FaultSelection};
use crate::lake::{AT_ONCE, Lake};
use crate::ledger::{FaultState, Ledger, LedgerEntry, Row};
use crate::manifest::Manifest;
use crate::read::{Progress, ShardRecords};
use crate::resubmit_report::{Refused, ResubmitReport};
use crate::select::Selection;
use crate::writer::same;

/// Faults to be sent again: see [`Lake::resubmit`].
#[must_use = "nothing is sent before `run`"]
pub struct Resubmission {
    lake: Lake,
    selection: FaultSelection,
    given: Option<Box<dyn Iterator<Item = FaultEvent> + Send>>,
    by: By,
    release: Option<String>,
    most: usize,
    attempts: u32,
    rate: Option<NonZeroU32>,
    stop_ratio: f64,
    within: Duration,
    trusted: bool,
    unfinished: bool,
    clock: Arc<dyn Clock>,
    stop: Stop,
    watch: Option<Watch>,
}

type Watch = Box<dyn FnMut(&ResubmitReport) + Send>;

impl fmt::Debug for Resubmission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resubmission").field("selection", &self.selection).finish_non_exhaustive()
    }
}

/// So many faults are sent before their ratio is judged.
const JUDGED_FROM: u64 = 10;

/// Faults that are looked up in the ledger ahead.
const AHEAD: usize = 64;

/// Where faults come from.
enum Candidates {
    Found(Box<FaultScan>),
    Given { faults: Box<dyn Iterator<Item = FaultEvent> + Send>, seen: BTreeSet<Uuid> },
}

impl Candidates {
    async fn next(&mut self) -> Result<Option<FaultEvent>, LakeError> {
        match self {
            Candidates::Found(scan) => scan.next().await,
            Candidates::Given { faults, seen } => Ok(faults.find(|fault| seen.insert(fault.id))),
        }
    }

    /// How many objects could not be read in full so far.
    fn damaged(&self) -> u64 {
        match self {
            Candidates::Found(scan) => scan.damaged().len() as u64,
            Candidates::Given { .. } => 0,
        }
    }
}

/// When to end before the end.
enum Stop {
    Never,
    Waiting(Pin<Box<dyn Future<Output = ()> + Send>>),
    Pulled,
}

impl Stop {
    /// Waits until then, or until it is pulled.
    async fn until(&mut self, due: Instant) {
        match self {
            Stop::Pulled => {}
            Stop::Never => tokio::time::sleep_until(due).await,
            Stop::Waiting(stop) => {
                if tokio::time::timeout_at(due, stop).await.is_ok() {
                    *self = Stop::Pulled;
                }
            }
        }
    }

    fn is_pulled(&mut self) -> bool {
        if let Stop::Waiting(stop) = self {
            if stop.as_mut().now_or_never().is_some() {
                *self = Stop::Pulled;
            }
        }
        matches!(self, Stop::Pulled)
    }
}

/// A fault that may be sent, with the records it is sent with.
struct Ready {
    fault: FaultEvent,
    records: Vec<(Record, Uuid)>,
}

/// What is known of a stream.
struct Known {
    ledger: Ledger,
    manifest: Manifest,
    /// What it has of the faults that come next.
    held: Held,
}

/// Records that the lake holds, by shard and position.
type Held = BTreeMap<(ShardId, Position), Record>;

impl Lake {
    /// Sends faults again, each to the pipeline that refused it.
    ///
    /// ```
    /// use streambreaker::prelude::*;
    /// use streambreaker::{By, Processor, Shutdown, memory};
    /// use streambreaker_lake::{FaultLake, FaultSelection, Lake};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let lake = Lake::local(&folder)?;
    /// fn numbers(lake: &Lake, most: u64) -> Result<Processor, streambreaker::BuildError> {
    ///     Processor::builder("numbers")
    ///         .source(memory::stream(["1", "20", "3"]))
    ///         .faults(FaultLake::new(lake))
    ///         .pipeline("small", move |flow| {
    ///             flow.json::<u64>().validate(move |n| if *n > most { Err("too many") } else { Ok(()) })
    ///         })
    ///         .build()
    /// }
    /// numbers(&lake, 10)?.run(Shutdown::never()).await?;
    ///
    /// // a release later
    /// let mended = numbers(&lake, 100)?;
    /// let faults = FaultSelection::of("memory").pipeline("small");
    /// let again = || lake.resubmit(faults.clone(), By::new("ada", "the limit was wrong"));
    /// assert_eq!(again().dry_run(&mended).await?.sent, 1); // nothing is sent, nothing is noted
    /// assert_eq!(again().run(&mended).await?.succeeded, 1);
    /// assert_eq!(again().run(&mended).await?.settled_before, 1); // the same fault twice has one effect
    /// # Ok(())
    /// # }
    /// ```
    pub fn resubmit(&self, selection: FaultSelection, by: By) -> Resubmission {
        Resubmission {
            lake: self.clone(),
            selection,
            given: None,
            by,
            release: None,
            most: 1_000,
            attempts: 3,
            rate: None,
            stop_ratio: 0.5,
            within: Duration::from_secs(60),
            trusted: false,
            unfinished: false,
            clock: Arc::new(SystemClock),
            stop: Stop::Never,
            watch: None,
        }
    }

    /// Notes of a fault that it needs no processing; whether that was still open.
    ///
    /// # Errors
    /// [`LakeError::Store`], [`LakeError::Name`].
    pub async fn dismiss(&self, stream: &str, fault: Uuid, by: &By) -> Result<bool, LakeError> {
        let ledger = Ledger::open(self, stream)?;
        let mut row = ledger.row(fault).await?;
        if row.state().is_final() {
            return Ok(false);
        }
        let entry = LedgerEntry {
            state: FaultState::Dismissed,
            at: SystemClock.now(),
            run: Uuid::new_v4(),
            who: by.who().to_owned(),
            why: by.why().to_owned(),
        };
        ledger.append(fault, &mut row, entry).await
    }

    /// What was done about a fault, oldest first; nothing, if it is pending.
    ///
    /// # Errors
    /// [`LakeError::Store`], [`LakeError::Name`].
    pub async fn ledger_of(
        &self,
        stream: &str,
        fault: Uuid,
    ) -> Result<Vec<LedgerEntry>, LakeError> {
        Ok(Ledger::open(self, stream)?.row(fault).await?.entries)
    }
}

impl Resubmission {
    /// These faults, instead of those that lie in the lake: of a file, for example. What becomes of them is noted in the
    /// lake all the same.
    ///
    /// They are taken one by one, so that there may be more than memory holds.
    pub fn faults<I>(mut self, faults: I) -> Self
    where
        I: IntoIterator<Item = FaultEvent, IntoIter: Send + 'static>,
    {
        self.given = Some(Box::new(faults.into_iter()));
        self
    }

    /// The release that processes them, to be noted: what succeeds with the very release that failed may deserve a retry.
    /// The processor's own unless told.
    pub fn release(mut self, release: impl Into<String>) -> Self {
        self.release = Some(release.into());
        self
    }

    /// At most so many faults are sent; 1,000 unless told. Those that are settled, or refused, do not count.
    pub fn most(mut self, faults: usize) -> Self {
        self.most = faults;
        self
    }

    /// A unit is sent so often at most, over all the faults that it became; 3 times unless told.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// At most so many faults a second; as fast as they are processed unless told.
    pub fn rate(mut self, per_second: NonZeroU32) -> Self {
        self.rate = Some(per_second);
        self
    }

    /// Stops when more than this part of what was sent has failed again, from the tenth on; 0.5 unless told.
    pub fn stop_at(mut self, ratio: f64) -> Self {
        self.stop_ratio = ratio;
        self
    }

    /// How long one fault may take; what is not decided by then is given back. A minute unless told.
    pub fn within(mut self, span: Duration) -> Self {
        self.within = span;
        self
    }

    /// Sends faults also where id or records are not what they should be: somebody mended them by hand.
    pub fn trusted(mut self) -> Self {
        self.trusted = true;
        self
    }

    /// Sends faults also that were sent before by somebody who died, which may be a second time.
    pub fn unfinished(mut self) -> Self {
        self.unfinished = true;
        self
    }

    /// The wall clock, for the ledger; the system's unless told.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Ends in peace when `stop` is ready: the fault that is being sent is sent to its end, and noted.
    pub fn stop_on(mut self, stop: impl Future<Output = ()> + Send + 'static) -> Self {
        self.stop = Stop::Waiting(Box::pin(stop));
        self
    }

    /// Called after each fault that was sent, with the report so far: for a line of progress.
    pub fn each(mut self, watch: impl FnMut(&ResubmitReport) + Send + 'static) -> Self {
        self.watch = Some(Box::new(watch));
        self
    }

    /// Looks at everything and sends nothing: what would be sent, what is refused and why.
    ///
    /// # Errors
    /// [`LakeError::Store`], [`LakeError::Name`].
    pub async fn dry_run(self, processor: &Processor) -> Result<ResubmitReport, LakeError> {
        self.go(processor, true).await
    }

    /// Sends the faults, one after the other.
    ///
    /// # Errors
    /// [`LakeError::Store`], [`LakeError::Name`]. What was sent until then is in the ledger.
    ///
    /// # Cancel safety
    /// Dropped, the fault that is being sent stays noted as sent: how it ended is not known, and nobody sends it again unless
    /// told ([`unfinished`](Self::unfinished)).
    pub async fn run(self, processor: &Processor) -> Result<ResubmitReport, LakeError> {
        self.go(processor, false).await
    }

    async fn go(mut self, processor: &Processor, dry: bool) -> Result<ResubmitReport, LakeError> {
        let mut report = ResubmitReport::default();
        let done = self.each_fault(processor, dry, &mut report).await;
        if !dry {
            // also of what ended in an error: what was sent until then was sent
            tracing::info!(
                target: "streambreaker::audit", who = self.by.who(), why = self.by.why(),
                processor = processor.name(), stream = self.selection.stream(), sent = report.sent,
                succeeded = report.succeeded, failed_again = report.failed_again.len(),
                refused = report.refused.len(), "faults were resubmitted",
            );
        }
        done.map(|()| report)
    }

    async fn each_fault(
        &mut self,
        processor: &Processor,
        dry: bool,
        report: &mut ResubmitReport,
    ) -> Result<(), LakeError> {
        let mut candidates = match self.given.take() {
            Some(faults) => Candidates::Given { faults, seen: BTreeSet::new() },
            None => Candidates::Found(Box::new(self.lake.scan_faults(&self.selection).await?)),
        };
        if self.release.is_none() {
            self.release = processor.handle().status().release;
        }
        let (mut assembly, mut ended) = (Assembly::default(), false);
        let mut streams: BTreeMap<String, Known> = BTreeMap::new();
        let run = Uuid::new_v4();
        // when the next one may be sent
        let mut due: Option<Instant> = None;
        'faults: while !ended {
            let mut faults: Vec<FaultEvent> = Vec::with_capacity(AHEAD);
            while faults.len() < AHEAD && !ended {
                match candidates.next().await? {
                    Some(fault) => faults.extend(assembly.add(fault)),
                    None => ended = true,
                }
            }
            for fault in &faults {
                let stream = self.stream_of(fault);
                if !streams.contains_key(stream) {
                    let ledger = Ledger::open(&self.lake, stream)?;
                    let manifest = self.lake.manifest(stream).await?;
                    let held = Held::new();
                    streams.insert(stream.to_owned(), Known { ledger, manifest, held });
                }
            }
            // most of them may be settled: those are passed at the speed of the store, not one by one
            let rows = stream::iter(faults.iter().map(|fault| {
                let known = streams.get(self.stream_of(fault));
                let ledger = known.map(|known| known.ledger.clone());
                let id = fault.id;
                async move {
                    match ledger {
                        Some(ledger) => readable(ledger.row(id).await),
                        None => Ok(Ok(Row::default())),
                    }
                }
            }));
            let rows: Vec<Result<Row, Refused>> = rows.buffered(AT_ONCE).try_collect().await?;
            // so are their records: what lies together is read once
            let open = faults.iter().zip(&rows);
            let open =
                open.filter(|(_, row)| row.as_ref().is_ok_and(|row| !row.state().is_final()));
            let records = || open.clone().flat_map(|(fault, _)| &fault.records);
            for known in streams.values_mut() {
                let whole = records().filter(|faulted| faulted.claim.is_none());
                known.held = self.lake.held(&known.manifest, whole).await?;
            }
            for (fault, row) in faults.into_iter().zip(rows) {
                let id = fault.id;
                let Some(known) = streams.get(self.stream_of(&fault)) else { continue };
                let mut row = match row {
                    Ok(row) => row,
                    Err(refused) => {
                        report.considered += 1;
                        report.refused.insert(id, refused);
                        continue;
                    }
                };
                if row.state().is_final() {
                    report.considered += 1;
                    report.settled_before += 1;
                    continue;
                }
                let full = report.sent >= self.most as u64;
                report.interrupted = !full && self.stop.is_pulled();
                if full || report.interrupted {
                    report.more = true;
                    break 'faults;
                }
                let checked = self.check(processor, fault, &row, known).await?;
                if let (Ok(_), Some(due)) = (&checked, due) {
                    self.stop.until(due).await;
                    report.interrupted = self.stop.is_pulled();
                    if report.interrupted {
                        report.more = true;
                        break 'faults;
                    }
                }
                report.considered += 1;
                match checked {
                    Err(refused) => {
                        report.refused.insert(id, refused);
                    }
                    Ok(ready) if dry => {
                        report.sent += 1;
                        report.records += ready.records.len() as u64;
                    }
                    Ok(ready) => {
                        let began = Instant::now();
                        match self.send(processor, ready, &mut row, known, run, report).await? {
                            Err(refused) => {
                                report.refused.insert(id, refused);
                            }
                            Ok(()) => {
                                let every = |rate: NonZeroU32| Duration::from_secs(1) / rate.get();
                                due = self.rate.map(|rate| began + every(rate));
                            }
                        }
                        if let Some(watch) = &mut self.watch {
                            watch(report);
                        }
                        let failed = report.failed_again.len() as f64;
                        if report.sent >= JUDGED_FROM
                            && failed > report.sent as f64 * self.stop_ratio
                        {
                            report.stopped = true;
                            report.more = true;
                            break 'faults;
                        }
                    }
                }
            }
        }
        report.damaged = candidates.damaged();
        // what was not looked at may hold the other parts
        if !report.more {
            for (id, refused) in assembly.rest() {
                report.considered += 1;
                report.refused.insert(id, refused);
            }
        }
        Ok(())
    }

    /// The stream under which it stands in the ledger.
    fn stream_of<'a>(&'a self, fault: &'a FaultEvent) -> &'a str {
        fault.records.first().map_or_else(|| self.selection.stream(), |r| r.record.stream())
    }

    /// Whether a fault may be sent, and with which records.
    async fn check(
        &self,
        processor: &Processor,
        fault: FaultEvent,
        row: &Row,
        known: &Known,
    ) -> Result<Result<Ready, Refused>, LakeError> {
        if !self.trusted && fault.computed_id() != fault.id {
            return Ok(Err(Refused::OtherId));
        }
        if fault.processor != processor.name() {
            return Ok(Err(Refused::OtherProcessor { processor: fault.processor }));
        }
        if !processor.has_pipeline(&fault.pipeline) {
            return Ok(Err(Refused::NoPipeline { pipeline: fault.pipeline }));
        }
        if matches!(row.state(), FaultState::Resubmitted { .. }) && !self.unfinished {
            return Ok(Err(Refused::Unfinished));
        }
        let attempts = fault.resubmits.saturating_add(row.attempts());
        if attempts >= self.attempts {
            return Ok(Err(Refused::TooOften { attempts }));
        }
        // those that were too large for the fault are read for it alone: there may be many
        let claimed = fault.records.iter().filter(|faulted| faulted.claim.is_some());
        let claimed = self.lake.held(&known.manifest, claimed).await?;
        let (run, mut records) = (fault.delivery.run(), Vec::with_capacity(fault.records.len()));
        for faulted in &fault.records {
            let FaultRecord { record, part, claim } = faulted;
            let position = record.position().to_string();
            let held = if claim.is_some() { &claimed } else { &known.held };
            let held = held.get(&(record.shard().clone(), record.position().clone()));
            let held = held.filter(|held| held.stream() == record.stream());
            let record = match (claim, held) {
                (Some(_), None) => return Ok(Err(Refused::NoRecord { position })),
                (Some(_), Some(held)) => held.clone(),
                (None, Some(held)) if !self.trusted && !same(held, record) => {
                    return Ok(Err(Refused::OtherRecord { position }));
                }
                (None, _) => record.clone(),
            };
            let attempt = attempts.saturating_add(1);
            let delivery = Delivery::Resubmit { fault: fault.id, attempt, part: part.clone(), run };
            let work = work_id(&fault, faulted);
            records.push((record.with_delivery(delivery), work));
        }
        Ok(Ok(Ready { fault, records }))
    }

    fn entry(&self, state: FaultState, run: Uuid) -> LedgerEntry {
        let (who, why) = (self.by.who().to_owned(), self.by.why().to_owned());
        LedgerEntry { state, at: self.clock.now(), run, who, why }
    }

    /// Sends a fault, and notes what becomes of it.
    async fn send(
        &self,
        processor: &Processor,
        ready: Ready,
        row: &mut Row,
        known: &Known,
        run: Uuid,
        report: &mut ResubmitReport,
    ) -> Result<Result<(), Refused>, LakeError> {
        let Ready { fault, records } = ready;
        let (id, ledger) = (fault.id, &known.ledger);
        let attempt = row.attempts().saturating_add(1);
        let sent = self.entry(FaultState::Resubmitted { attempt }, run);
        if !ledger.append(id, row, sent).await? {
            return Ok(Err(Refused::Concurrent));
        }
        let claims = stream::iter(records.into_iter().map(|(record, work)| async move {
            claimed(ledger, work, id).await.map(|claimed| ((record, work), claimed))
        }));
        let claims: Vec<_> = claims.buffered(AT_ONCE).try_collect().await?;
        let (mut mine, mut refused) = (Vec::with_capacity(claims.len()), None);
        for (record, claimed) in claims {
            match claimed {
                Ok(true) => mine.push(record),
                Ok(false) => {}
                Err(why) => refused = refused.or(Some(why)),
            }
        }
        if let Some(refused) = refused {
            give_up(ledger, &mine).await?;
            ledger.append(id, row, self.entry(FaultState::Pending, run)).await?;
            return Ok(Err(refused));
        }
        report.sent += 1;
        report.records += mine.len() as u64;
        let outcome = processor
            .process(mine.iter().map(|(record, _)| record.clone()))
            .only(&*fault.pipeline)
            .within(self.within)
            .await;
        let state = if !outcome.faults.is_empty() {
            report.failed_again.insert(id, outcome.faults.clone());
            FaultState::FailedAgain { faults: outcome.faults }
        } else if !outcome.returned.is_empty() {
            report.returned.push(id);
            FaultState::Pending
        } else {
            report.succeeded += 1;
            FaultState::Succeeded { release: self.release.clone() }
        };
        if !matches!(state, FaultState::Succeeded { .. }) {
            // what was settled all the same keeps its claim only within this fault
            give_up(ledger, &mine).await?;
        }
        ledger.append(id, row, self.entry(state, run)).await?;
        Ok(Ok(()))
    }
}

/// Claims a record for a fault; `false` when another fault held it too, and that was processed.
async fn claimed(
    ledger: &Ledger,
    work: Uuid,
    fault: Uuid,
) -> Result<Result<bool, Refused>, LakeError> {
    let owner = match readable(ledger.claim(work, fault).await)? {
        Ok(None) => return Ok(Ok(true)),
        Ok(Some(owner)) => owner,
        Err(refused) => return Ok(Err(refused)),
    };
    Ok(match readable(ledger.row(owner).await)?.map(|row| row.state()) {
        Ok(FaultState::Succeeded { .. }) => Ok(false),
        Ok(FaultState::Resubmitted { .. }) => Err(Refused::Concurrent),
        Ok(_) => {
            ledger.take_over(work, fault).await?;
            Ok(true)
        }
        Err(refused) => Err(refused),
    })
}

async fn give_up(ledger: &Ledger, mine: &[(Record, Uuid)]) -> Result<(), LakeError> {
    let works = stream::iter(mine.iter().map(|(_, work)| Ok(*work)));
    works.try_for_each_concurrent(AT_ONCE, |work| ledger.give_up(work)).await
}

/// What the ledger says; where it cannot be read, that is the fault's matter, and of no other.
fn readable<T>(said: Result<T, LakeError>) -> Result<Result<T, Refused>, LakeError> {
    match said {
        Ok(said) => Ok(Ok(said)),
        Err(LakeError::Document { path, .. }) => Ok(Err(Refused::Ledger { path })),
        Err(error) => Err(error),
    }
}

/// A name for the work of a pipeline on a record, or on a part of one, whatever fault it is in.
fn work_id(fault: &FaultEvent, faulted: &FaultRecord) -> Uuid {
    let record = &faulted.record;
    let mut name = Vec::new();
    let position = record.position().to_string();
    let part: Vec<u8> = faulted.part.indices().iter().flat_map(|i| i.to_be_bytes()).collect();
    for field in [
        fault.processor.as_bytes(),
        fault.pipeline.as_bytes(),
        record.stream().as_bytes(),
        record.shard().as_str().as_bytes(),
        position.as_bytes(),
        &part,
    ] {
        name.extend_from_slice(&(field.len() as u64).to_be_bytes());
        name.extend_from_slice(field);
    }
    // a replay does it once more, and so does what it faulted
    name.extend(fault.delivery.run().iter().flat_map(|run| run.into_bytes()));
    Uuid::new_v5(&Uuid::NAMESPACE_OID, &name)
}

impl Lake {
    /// The records that the lake holds where these lie. No object is read more than once.
    async fn held<'a>(
        &self,
        manifest: &Manifest,
        like: impl Iterator<Item = &'a FaultRecord>,
    ) -> Result<Held, LakeError> {
        let mut wanted: BTreeMap<&str, BTreeSet<&Position>> = BTreeMap::new();
        for FaultRecord { record, .. } in like.filter(|r| r.record.stream() == manifest.stream) {
            wanted.entry(record.shard().as_str()).or_default().insert(record.position());
        }
        let mut held = Held::new();
        for object in &manifest.objects {
            let footer = &object.footer;
            let Some(positions) = wanted.get(&*footer.shard) else { continue };
            let inside = positions.range::<Position, _>(&footer.first..).copied();
            let mut inside = inside.take_while(|position| **position <= footer.last);
            let Some(first) = inside.next() else { continue };
            let last = inside.last().unwrap_or(first);
            let selection = Selection::of(&*manifest.stream)
                .shard(&*footer.shard)
                .positions(first.clone(), last.clone());
            let (selection, progress) = (Arc::new(selection), Progress::default());
            let objects = vec![object.clone()];
            let mut records = ShardRecords::new(self.clone(), selection, progress, objects, None);
            while let Some(record) = records.next_patiently().await? {
                if positions.contains(record.position()) {
                    let place = (record.shard().clone(), record.position().clone());
                    held.entry(place).or_insert(record);
                }
            }
        }
        Ok(held)
    }
}

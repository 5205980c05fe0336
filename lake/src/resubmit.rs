//! Resubmitting: a fault's records, sent again to the pipeline that refused them, and only there.
//!
//! One decision shaped this module: a fault is not read as a stream, it is *processed*: one fault is one call of
//! [`Processor::process`], the finite batch that the core has for exactly that. So a group comes back as a group, alone, with
//! groups closed before and after; the guards are those of live records; every new fault is stored before the call returns; and
//! what became of the unit is its answer, which goes into the ledger.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use streambreaker::clock::{Clock, SystemClock};
use streambreaker::fault::FaultRecord;
use streambreaker::{By, Class, Delivery, FaultEvent, Processor, Record};
use uuid::Uuid;

use crate::error::LakeError;
use crate::faults::{FaultSelection, FoundFaults};
use crate::lake::Lake;
use crate::ledger::{FaultState, Ledger, LedgerEntry, Row};
use crate::manifest::Manifest;
use crate::read::{Progress, ShardRecords};
use crate::select::Selection;
use crate::writer::same;

/// Why a fault was not sent. It stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "refused")]
#[non_exhaustive]
pub enum Refused {
    /// Its id does not follow from what it says: it has been changed, or comes from elsewhere.
    #[error("its id is not that of its records: it was changed")]
    OtherId,
    /// It was made by another processor.
    #[error("it is of the processor {processor:?}")]
    OtherProcessor {
        /// Which.
        processor: String,
    },
    /// The processor has no pipeline of this name, nor one that had it.
    #[error("there is no pipeline {pipeline:?}, nor one that was called so: see `formerly`")]
    NoPipeline {
        /// Which.
        pipeline: String,
    },
    /// The lake holds another record at the position of one of its records.
    #[error("record {position} is not the one that the lake holds")]
    OtherRecord {
        /// Where.
        position: String,
    },
    /// A record was left out of the fault because it was too large, and the lake does not hold it.
    #[error("record {position} is not in the fault, and not in the lake either")]
    NoRecord {
        /// Where.
        position: String,
    },
    /// It is a part of a larger fault, whose other parts are not there.
    #[error("it is a part of {whole}, whose other parts are not there")]
    Partial {
        /// The whole.
        whole: Uuid,
    },
    /// It was sent before, and how that ended is not known.
    #[error(
        "it was sent before, and how that ended is not known: look, then say `unfinished` to send it again"
    )]
    Unfinished,
    /// It has been sent as often as is allowed.
    #[error("it has been sent {attempts} times")]
    TooOften {
        /// How often.
        attempts: u32,
    },
    /// Somebody else is sending it, or one that holds the same records.
    #[error("somebody else is sending it, or a fault that holds the same records")]
    Concurrent,
}

/// What became of a resubmission. Prints as a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ResubmitReport {
    /// Faults that were looked at.
    pub considered: u64,
    /// Those that were sent; in a dry run: would have been.
    pub sent: u64,
    /// Their records.
    pub records: u64,
    /// Those that were processed.
    pub succeeded: u64,
    /// Those that failed again, with their new faults.
    pub failed_again: BTreeMap<Uuid, Vec<Uuid>>,
    /// Those that were given back undecided: they are pending, as before.
    pub returned: Vec<Uuid>,
    /// Those whose state was final already.
    pub settled_before: u64,
    /// Those that were not sent.
    pub refused: BTreeMap<Uuid, Refused>,
    /// Objects of faults that could not be read in full.
    pub damaged: u64,
    /// Whether it stopped because too many failed again.
    pub stopped: bool,
    /// Whether there are more faults than were looked at.
    pub more: bool,
}

impl fmt::Display for ResubmitReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} faults: {} sent ({} records), {} succeeded, {} failed again, {} given back, {} settled before, {} refused",
            self.considered,
            self.sent,
            self.records,
            self.succeeded,
            self.failed_again.len(),
            self.returned.len(),
            self.settled_before,
            self.refused.len(),
        )?;
        for (id, why) in &self.refused {
            // names in it are escaped, as they are printed as Rust does
            write!(f, "\n  {id}: {why}")?;
        }
        if self.stopped {
            f.write_str("\nstopped: too many failed again")?;
        }
        if self.damaged > 0 {
            write!(f, "\n{} objects of faults could not be read in full", self.damaged)?;
        }
        if self.more {
            f.write_str("\nthere are more: run it again")?;
        }
        Ok(())
    }
}

/// Faults to be sent again: see [`Lake::resubmit`].
#[must_use = "nothing is sent before `run`"]
pub struct Resubmission {
    lake: Lake,
    selection: FaultSelection,
    given: Option<Vec<FaultEvent>>,
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
}

impl fmt::Debug for Resubmission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resubmission").field("selection", &self.selection).finish_non_exhaustive()
    }
}

/// So many faults are sent before their ratio is judged.
const JUDGED_FROM: u64 = 10;

/// A fault that may be sent, with the records it is sent with.
struct Ready {
    fault: FaultEvent,
    records: Vec<(Record, Uuid)>,
}

/// What is known of a stream.
struct Known {
    ledger: Ledger,
    manifest: Manifest,
}

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
    /// fn numbers(lake: &Lake, most: u64) -> Result<Processor, streambreaker::BoxError> {
    ///     Ok(Processor::builder("numbers")
    ///         .source(memory::stream(["1", "20", "3"]))
    ///         .faults(FaultLake::new(lake))
    ///         .pipeline("small", move |flow| {
    ///             flow.json::<u64>().validate(move |n| if *n > most { Err("too many") } else { Ok(()) })
    ///         })
    ///         .build()?)
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
    pub fn faults(mut self, faults: impl IntoIterator<Item = FaultEvent>) -> Self {
        self.given = Some(faults.into_iter().collect());
        self
    }

    /// The release that processes them, to be noted: what succeeds with the very release that failed may deserve a retry.
    pub fn release(mut self, release: impl Into<String>) -> Self {
        self.release = Some(release.into());
        self
    }

    /// At most so many faults; 1,000 unless told.
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
        let found = match self.given.take() {
            Some(faults) => {
                let mut found = FoundFaults::default();
                found.more = faults.len() > self.most;
                found.faults = faults.into_iter().take(self.most).collect();
                found
            }
            None => self.lake.faults_up_to(&self.selection, self.most).await?,
        };
        let mut report = ResubmitReport {
            considered: found.faults.len() as u64,
            damaged: found.damaged.len() as u64,
            more: found.more,
            ..ResubmitReport::default()
        };
        let mut streams: BTreeMap<String, Known> = BTreeMap::new();
        let run = Uuid::new_v4();
        for fault in assemble(found.faults, &mut report.refused) {
            let id = fault.id;
            let stream = fault.records.first().map_or_else(
                || self.selection.stream().to_owned(),
                |r| r.record.stream().to_owned(),
            );
            if !streams.contains_key(&stream) {
                let ledger = Ledger::open(&self.lake, &stream)?;
                let manifest = self.lake.manifest(&stream).await?;
                streams.insert(stream.clone(), Known { ledger, manifest });
            }
            let Some(known) = streams.get(&stream) else { continue };
            let mut row = known.ledger.row(id).await?;
            if row.state().is_final() {
                report.settled_before += 1;
                continue;
            }
            match self.check(processor, fault, &row, known).await? {
                Err(refused) => {
                    report.refused.insert(id, refused);
                }
                Ok(ready) if dry => {
                    report.sent += 1;
                    report.records += ready.records.len() as u64;
                }
                Ok(ready) => {
                    if let Err(refused) =
                        self.send(processor, ready, &mut row, known, run, &mut report).await?
                    {
                        report.refused.insert(id, refused);
                    } else if let Some(rate) = self.rate {
                        tokio::time::sleep(Duration::from_secs(1) / rate.get()).await;
                    }
                    let failed = report.failed_again.len() as f64;
                    if report.sent >= JUDGED_FROM && failed > report.sent as f64 * self.stop_ratio {
                        report.stopped = true;
                        break;
                    }
                }
            }
        }
        if !dry {
            tracing::info!(
                target: "streambreaker::audit", who = self.by.who(), why = self.by.why(),
                processor = processor.name(), stream = self.selection.stream(), sent = report.sent,
                succeeded = report.succeeded, "faults were resubmitted",
            );
        }
        Ok(report)
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
        let mut records = Vec::with_capacity(fault.records.len());
        for faulted in &fault.records {
            let FaultRecord { record, part, claim } = faulted;
            let position = record.position().to_string();
            let held = self.lake.find(&known.manifest, record).await?;
            let record = match (claim, held) {
                (Some(_), None) => return Ok(Err(Refused::NoRecord { position })),
                (Some(_), Some(held)) => held,
                (None, Some(held)) if !self.trusted && !same(&held, record) => {
                    return Ok(Err(Refused::OtherRecord { position }));
                }
                (None, _) => record.clone(),
            };
            let attempt = attempts.saturating_add(1);
            let delivery = Delivery::Resubmit { fault: fault.id, attempt, part: part.clone() };
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
        let mut mine: Vec<(Record, Uuid)> = Vec::with_capacity(records.len());
        for (record, work) in records {
            match ledger.claim(work, id).await? {
                None => mine.push((record, work)),
                Some(owner) => match ledger.row(owner).await?.state() {
                    // another fault held it too, and that was processed
                    FaultState::Succeeded { .. } => {}
                    FaultState::Resubmitted { .. } => {
                        self.give_up(ledger, &mine).await?;
                        ledger.append(id, row, self.entry(FaultState::Pending, run)).await?;
                        return Ok(Err(Refused::Concurrent));
                    }
                    _ => {
                        ledger.take_over(work, id).await?;
                        mine.push((record, work));
                    }
                },
            }
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
            self.give_up(ledger, &mine).await?;
        }
        ledger.append(id, row, self.entry(state, run)).await?;
        Ok(Ok(()))
    }

    async fn give_up(&self, ledger: &Ledger, mine: &[(Record, Uuid)]) -> Result<(), LakeError> {
        for (_, work) in mine {
            ledger.give_up(*work).await?;
        }
        Ok(())
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
    Uuid::new_v5(&Uuid::NAMESPACE_OID, &name)
}

/// Puts faults together that were too large for their sink and lie in parts; parts whose others are not there are refused.
fn assemble(faults: Vec<FaultEvent>, refused: &mut BTreeMap<Uuid, Refused>) -> Vec<FaultEvent> {
    let (mut whole, mut parts): (Vec<FaultEvent>, BTreeMap<Uuid, Vec<FaultEvent>>) =
        (Vec::new(), BTreeMap::new());
    for fault in faults {
        match fault.part {
            Some(part) => parts.entry(part.of).or_default().push(fault),
            None => whole.push(fault),
        }
    }
    for (of, mut found) in parts {
        found.sort_by_key(|fault| fault.part.map(|part| part.first));
        let total = found.iter().filter_map(|fault| fault.part).map(|part| part.total).max();
        let mut next = 0u32;
        let joined = found.iter().all(|fault| {
            let fits = fault.part.is_some_and(|part| part.first == next);
            next = next.saturating_add(u32::try_from(fault.records.len()).unwrap_or(u32::MAX));
            fits
        });
        if !joined || total != Some(next) {
            refused.extend(found.iter().map(|f| (f.id, Refused::Partial { whole: of })));
            continue;
        }
        let records = found.iter().flat_map(|fault| fault.records.clone()).collect();
        let mut one = found.swap_remove(0);
        one.part = None;
        one.id = of;
        one.records = records;
        whole.push(one);
    }
    whole.sort_by_key(|fault| (fault.timestamp, fault.id));
    whole
}

impl Lake {
    /// The record that the lake holds where this one lies.
    async fn find(&self, manifest: &Manifest, like: &Record) -> Result<Option<Record>, LakeError> {
        if manifest.stream != like.stream() {
            return Ok(None);
        }
        let (shard, position) = (like.shard().clone(), like.position().clone());
        let selection =
            Selection::of(like.stream()).shard(shard).positions(position.clone(), position);
        let objects = manifest
            .objects
            .iter()
            .filter(|object| selection.may_be_in(&object.footer))
            .cloned()
            .collect();
        let mut records = ShardRecords::new(
            self.clone(),
            Arc::new(selection),
            Progress::default(),
            objects,
            None,
        );
        records.next().await
    }
}

/// What is known of faults of one kind, and of what became of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Lesson {
    /// What they share.
    pub fingerprint: String,
    /// Their class.
    pub class: Class,
    /// The pipeline that refused them.
    pub pipeline: String,
    /// The stage.
    pub stage: String,
    /// The type of their error.
    pub error: String,
    /// How many there are.
    pub faults: u64,
    /// Which releases made them, and how many each.
    pub releases: BTreeMap<String, u64>,
    /// Those that nobody has done anything about yet, or whose sending was not noted to its end.
    pub open: u64,
    /// Those that were processed when they were sent again.
    pub succeeded: u64,
    /// Of these, those that were processed by the very release that had refused them.
    pub unchanged: u64,
    /// Those that failed again.
    pub failed_again: u64,
    /// Those that were dismissed.
    pub dismissed: u64,
}

impl Lesson {
    /// Whether nothing but time mended them: such an error should say `.transient()`, so that it is retried and never
    /// becomes a fault.
    pub fn deserves_a_retry(&self) -> bool {
        self.unchanged > 0 && self.unchanged == self.succeeded && self.failed_again == 0
    }
}

impl fmt::Display for Lesson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>6} x {}  {} in {}/{} ({}): {} open, {} succeeded, {} failed again, {} dismissed",
            self.faults,
            self.fingerprint.escape_debug(),
            self.class,
            self.pipeline.escape_debug(),
            self.stage.escape_debug(),
            self.error.escape_debug(),
            self.open,
            self.succeeded,
            self.failed_again,
            self.dismissed
        )?;
        if self.deserves_a_retry() {
            f.write_str("\n         time alone mended them: let this error say `.transient()`")?;
        }
        Ok(())
    }
}

impl Lake {
    /// What there is to learn from these faults, by kind, the most frequent first: which releases made them, and which
    /// succeed unchanged when they are sent again.
    ///
    /// # Errors
    /// [`LakeError::Store`], [`LakeError::Name`].
    pub async fn lessons(&self, selection: &FaultSelection) -> Result<Vec<Lesson>, LakeError> {
        let found = self.faults(selection).await?;
        let ledger = Ledger::open(self, selection.stream())?;
        let mut lessons: BTreeMap<String, Lesson> = BTreeMap::new();
        for fault in found.faults {
            let row = ledger.row(fault.part.map_or(fault.id, |part| part.of)).await?;
            let lesson = lessons.entry(fault.fingerprint.clone()).or_insert_with(|| Lesson {
                fingerprint: fault.fingerprint.clone(),
                class: fault.class,
                pipeline: fault.pipeline.clone(),
                stage: fault.stage.clone(),
                error: fault.err.name.clone(),
                faults: 0,
                releases: BTreeMap::new(),
                open: 0,
                succeeded: 0,
                unchanged: 0,
                failed_again: 0,
                dismissed: 0,
            });
            lesson.faults += 1;
            let release = fault.release.clone().unwrap_or_default();
            *lesson.releases.entry(release).or_default() += 1;
            match row.state() {
                FaultState::Succeeded { release } => {
                    lesson.succeeded += 1;
                    lesson.unchanged += u64::from(release.is_some() && release == fault.release);
                }
                FaultState::FailedAgain { .. } => lesson.failed_again += 1,
                FaultState::Dismissed => lesson.dismissed += 1,
                FaultState::Pending | FaultState::Resubmitted { .. } => lesson.open += 1,
            }
        }
        let mut lessons: Vec<Lesson> = lessons.into_values().collect();
        lessons.sort_by(|a, b| {
            b.faults.cmp(&a.faults).then_with(|| a.fingerprint.cmp(&b.fingerprint))
        });
        Ok(lessons)
    }
}

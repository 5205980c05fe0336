//! Faults in the lake: under the stream that they came from, so that they keep that stream's access rules.
//!
//! They lie in lines of JSON, `stream=<…>/kind=fault/date=…/hour=…/<name>.ndjson`, an object a request: the form that every
//! tool for fault events reads. A fault is named by its id; the same fault in two objects is one fault.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use streambreaker::sink::{Limits, Outcomes, Sink};
use streambreaker::{Class, FaultEvent, StepError, Timestamp};
use uuid::Uuid;

use crate::error::{Damage, LakeError};
use crate::lake::{AT_ONCE, Lake, patiently};
use crate::name::Hour;
use crate::read::count_damaged;
use crate::seal::{Opener, Sealer};

/// Stores fault events in the lake: a [`Sink`] to be given to
/// [`ProcessorBuilder::faults`](streambreaker::ProcessorBuilder::faults).
///
/// ```
/// use streambreaker::prelude::*;
/// use streambreaker::{Processor, Shutdown, memory};
/// use streambreaker_lake::{FaultLake, FaultSelection, Lake};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let lake = Lake::local(&folder)?;
/// let processor = Processor::builder("numbers")
///     .source(memory::stream(["1", "two"]))
///     .faults(FaultLake::new(&lake))
///     .pipeline("even", |flow| flow.json::<u64>())
///     .build()?;
/// processor.run(Shutdown::never()).await?;
///
/// let found = lake.faults(&FaultSelection::of("memory")).await?;
/// assert_eq!(found.faults[0].records[0].record.payload(), "two");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FaultLake {
    lake: Lake,
}

impl FaultLake {
    /// Stores faults in this lake.
    pub fn new(lake: &Lake) -> Self {
        Self { lake: lake.clone() }
    }

    async fn store(&self, stream: &str, faults: &[&FaultEvent]) -> Result<(), LakeError> {
        let Some(first) = faults.first() else { return Ok(()) };
        let (mut lines, mut name) = (Vec::new(), Vec::new());
        let sealer = self.lake.sealer(stream).await?;
        for fault in faults {
            match &sealer {
                Some(sealer) => lines.extend_from_slice(&seal(sealer, fault)?),
                None => lines.extend_from_slice(&fault.to_json()),
            }
            lines.push(b'\n');
            name.extend_from_slice(fault.id.as_bytes());
        }
        let name = Uuid::new_v5(&Uuid::NAMESPACE_OID, &name);
        let hour = Hour::of(first.timestamp);
        let folder = fault_folder(&self.lake, stream)?;
        for turn in 0..crate::name::TURNS {
            let turn = if turn == 0 { String::new() } else { format!("-{turn}") };
            let path = Path::parse(format!("{folder}/{hour}/{name}{turn}.ndjson"))
                .expect("encoded names have no segment that a path refuses");
            if self.lake.create(&path, Bytes::copy_from_slice(&lines)).await? {
                return Ok(());
            }
            // of these faults already: they may have been written at another time, but they are the same
            let there = read_object(&self.lake, &path).await.map(|(found, _)| found);
            let held = |id| there.as_ref().is_ok_and(|found| found.iter().any(|f| f.id == id));
            if faults.iter().all(|fault| held(fault.id)) {
                return Ok(());
            }
            match there {
                // torn or gone, so it does not hold them
                Ok(_) | Err(LakeError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(LakeError::NameTaken(crate::name::TURNS))
    }
}

fn fault_folder(lake: &Lake, stream: &str) -> Result<Path, LakeError> {
    Ok(lake.folder(stream)?.join("kind=fault"))
}

/// A fault as a line that cannot be read without the key.
#[derive(Serialize, Deserialize)]
struct Sealed {
    fault: Uuid,
    sealed_by: String,
    sealed: String,
}

fn seal(sealer: &Sealer, fault: &FaultEvent) -> Result<Vec<u8>, LakeError> {
    let sealed = sealer.seal_bytes(fault.id.as_bytes(), &fault.to_json());
    let line = Sealed {
        fault: fault.id,
        sealed_by: sealer.sealed_by().to_owned(),
        sealed: BASE64.encode(sealed),
    };
    let path = fault.id.to_string();
    serde_json::to_vec(&line).map_err(|source| LakeError::Document { path, source })
}

/// The faults of an object, and whether some lines of it could not be read.
async fn read_object(
    lake: &Lake,
    path: &Path,
) -> Result<(Vec<FaultEvent>, Option<Damage>), LakeError> {
    let bytes = lake.fetch(path, lake.bounds.object_bytes).await?;
    let (mut faults, mut damage, mut opener) = (Vec::new(), None, Opener::default());
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let opened;
        let line = match serde_json::from_slice::<Sealed>(line) {
            Err(_) => line,
            Ok(Sealed { fault, sealed_by, sealed }) => {
                let sealed = BASE64.decode(sealed).unwrap_or_default();
                let keys = lake.keys.as_ref();
                let opened_line = opener.open_bytes(keys, &sealed_by, fault.as_bytes(), &sealed);
                match opened_line.await.map_err(|e| e.in_object(path.as_ref()))? {
                    Ok(bytes) => {
                        opened = bytes;
                        &opened
                    }
                    Err(broken) => {
                        damage.get_or_insert(broken);
                        continue;
                    }
                }
            }
        };
        match FaultEvent::from_json(line) {
            Ok(fault) => faults.push(fault),
            // its text may quote the line
            Err(_) => {
                damage
                    .get_or_insert(Damage::Torn(format!("line {} is no fault event", number + 1)));
            }
        }
    }
    if faults.is_empty() {
        damage.get_or_insert_with(|| Damage::Torn("it holds no fault".to_owned()));
    }
    Ok((faults, damage))
}

#[async_trait]
impl Sink<FaultEvent> for FaultLake {
    fn limits(&self) -> Limits {
        Limits::items(500).with_bytes(64 << 20)
    }

    fn size(&self, fault: &FaultEvent) -> usize {
        fault.to_json().len() + 1
    }

    async fn write(
        &self,
        items: &[FaultEvent],
        outcomes: &mut Outcomes<'_>,
    ) -> Result<(), StepError> {
        let mut streams: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, fault) in items.iter().enumerate() {
            streams.entry(fault.stream()).or_default().push(at);
        }
        let mut failed = None;
        for (stream, indices) in streams {
            let faults: Vec<&FaultEvent> = indices.iter().map(|at| &items[*at]).collect();
            match self.store(stream, &faults).await {
                Ok(()) => indices.iter().for_each(|at| outcomes.done(*at)),
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(()), |error| Err(error.into_step()))
    }
}

/// Which faults are meant: all of a stream, unless told otherwise. What is told is told together.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a selection does nothing by itself"]
pub struct FaultSelection {
    stream: String,
    ids: BTreeSet<Uuid>,
    fingerprint: Option<String>,
    class: Option<Class>,
    processor: Option<String>,
    pipeline: Option<String>,
    stage: Option<String>,
    resource: Option<String>,
    release: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl FaultSelection {
    /// Every fault of this stream's records.
    pub fn of(stream: impl Into<String>) -> Self {
        Self {
            stream: stream.into(),
            ids: BTreeSet::new(),
            fingerprint: None,
            class: None,
            processor: None,
            pipeline: None,
            stage: None,
            resource: None,
            release: None,
            since: None,
            until: None,
        }
    }

    /// Only the fault of this id, or of one more.
    pub fn id(mut self, id: Uuid) -> Self {
        self.ids.insert(id);
        self
    }

    /// Only of this kind.
    pub fn fingerprint(mut self, fingerprint: impl Into<String>) -> Self {
        self.fingerprint = Some(fingerprint.into());
        self
    }

    /// Only of this class.
    pub fn class(mut self, class: Class) -> Self {
        self.class = Some(class);
        self
    }

    /// Only of this processor.
    pub fn processor(mut self, processor: impl Into<String>) -> Self {
        self.processor = Some(processor.into());
        self
    }

    /// Only of this pipeline.
    pub fn pipeline(mut self, pipeline: impl Into<String>) -> Self {
        self.pipeline = Some(pipeline.into());
        self
    }

    /// Only of this stage.
    pub fn stage(mut self, stage: impl Into<String>) -> Self {
        self.stage = Some(stage.into());
        self
    }

    /// Only of stages that call this resource.
    pub fn resource(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// Only of this release of the component.
    pub fn release(mut self, release: impl Into<String>) -> Self {
        self.release = Some(release.into());
        self
    }

    /// Only what faulted at this moment or later.
    pub fn since(mut self, time: Timestamp) -> Self {
        self.since = Some(time);
        self
    }

    /// Only what faulted before this moment.
    pub fn until(mut self, time: Timestamp) -> Self {
        self.until = Some(time);
        self
    }

    /// The stream.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// Whether this fault is meant. Its stream is not looked at: in the lake that is the folder it lies in.
    pub fn takes(&self, fault: &FaultEvent) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        (self.ids.is_empty() || self.ids.contains(&fault.id))
            && is(&self.fingerprint, Some(&fault.fingerprint))
            && self.class.is_none_or(|class| class == fault.class)
            && is(&self.processor, Some(&fault.processor))
            && is(&self.pipeline, Some(&fault.pipeline))
            && is(&self.stage, Some(&fault.stage))
            && is(&self.resource, fault.resource.as_deref())
            && is(&self.release, fault.release.as_deref())
            && self.since.is_none_or(|since| fault.timestamp >= since)
            && self.until.is_none_or(|until| fault.timestamp < until)
    }
}

/// The faults that were selected.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct FoundFaults {
    /// Each once, by the time at which it faulted first.
    pub faults: Vec<FaultEvent>,
    /// What could not be read, and was skipped, by path.
    pub damaged: Vec<(String, Damage)>,
    /// Whether there are more than were asked for.
    pub more: bool,
}

impl fmt::Debug for FoundFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (faults, damaged) = (self.faults.len(), self.damaged.len());
        write!(f, "FoundFaults({faults} faults, {damaged} damaged objects)")
    }
}

/// So many bytes of objects are read side by side, unless one has more.
const HELD: u64 = 16 << 20;

/// How many faults are held at once.
const MOST: usize = 10_000;

impl Lake {
    /// The faults that are selected: the first 10,000 of them. [`scan_faults`](Self::scan_faults) has no such limit.
    ///
    /// # Errors
    /// [`LakeError::Store`], [`LakeError::Name`], [`LakeError::Sealed`]. What cannot be read is in the answer, never an error.
    pub async fn faults(&self, selection: &FaultSelection) -> Result<FoundFaults, LakeError> {
        let mut scan = self.scan_faults(selection).await?;
        let (mut faults, mut more) = (Vec::new(), false);
        while let Some(fault) = scan.next().await? {
            more = faults.len() >= MOST;
            if more {
                break;
            }
            faults.push(fault);
        }
        faults.sort_by_key(|fault| (fault.timestamp, fault.id));
        Ok(FoundFaults { faults, damaged: scan.damaged, more })
    }

    /// The faults that are selected, one after the other: for more of them than should be held at once.
    ///
    /// # Errors
    /// [`LakeError::Store`], [`LakeError::Name`].
    pub async fn scan_faults(&self, selection: &FaultSelection) -> Result<FaultScan, LakeError> {
        let folder = fault_folder(self, selection.stream())?;
        let list = async || {
            let metas = self.store.list(Some(&folder));
            let objects: Result<Vec<(Path, u64)>, _> =
                metas.map_ok(|meta| (meta.location, meta.size)).try_collect().await;
            objects.map_err(LakeError::store("list the faults"))
        };
        let mut objects = patiently(list).await?;
        // folders are by time: so these are the first
        objects.sort();
        objects.dedup_by(|a, b| a.0 == b.0);
        Ok(FaultScan {
            lake: self.clone(),
            selection: selection.clone(),
            objects: objects.into(),
            ahead: VecDeque::new(),
            seen: BTreeSet::new(),
            damaged: Vec::new(),
        })
    }
}

/// The faults of a stream that are selected, each once, about in the order in which they were stored: see
/// [`Lake::scan_faults`].
#[must_use = "it reads nothing before `next`"]
pub struct FaultScan {
    lake: Lake,
    selection: FaultSelection,
    /// Which are not read yet, and their sizes.
    objects: VecDeque<(Path, u64)>,
    /// Of those that were read last.
    ahead: VecDeque<FaultEvent>,
    seen: BTreeSet<Uuid>,
    damaged: Vec<(String, Damage)>,
}

impl fmt::Debug for FaultScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultScan").field("selection", &self.selection).finish_non_exhaustive()
    }
}

impl FaultScan {
    /// The next fault; none at the end.
    ///
    /// # Errors
    /// [`LakeError::Store`], [`LakeError::Sealed`]; it can be called again then. What cannot be read is skipped and is among
    /// [`damaged`](Self::damaged), never an error.
    ///
    /// # Cancel safety
    /// Cancel-safe: nothing is taken before it is returned.
    pub async fn next(&mut self) -> Result<Option<FaultEvent>, LakeError> {
        loop {
            while let Some(fault) = self.ahead.pop_front() {
                if self.selection.takes(&fault) && self.seen.insert(fault.id) {
                    return Ok(Some(fault));
                }
            }
            if self.objects.is_empty() {
                return Ok(None);
            }
            self.read_on().await?;
        }
    }

    /// Reads the next objects side by side, but no more of them than should be held at once.
    async fn read_on(&mut self) -> Result<(), LakeError> {
        let mut held = 0u64;
        let next = self.objects.iter().take(AT_ONCE).take_while(|(_, size)| {
            held = held.saturating_add(*size);
            held == *size || held <= HELD
        });
        let lake = &self.lake;
        let read = next.map(|(path, _)| patiently(move || read_object(lake, path)));
        let read: Vec<_> = stream::iter(read).buffered(AT_ONCE).collect().await;
        for (at, read) in read.into_iter().enumerate() {
            let (faults, damage) = match read {
                Ok(read) => read,
                Err(LakeError::Damaged { damage, .. }) => (Vec::new(), Some(damage)),
                // what came before it is taken first; it is read again then
                Err(_) if at > 0 => break,
                Err(error) => return Err(error),
            };
            let Some((path, _)) = self.objects.pop_front() else { break };
            if let Some(damage) = damage {
                tracing::warn!(
                    target: "streambreaker::lake", object = %path.as_ref().escape_debug(), %damage,
                    "an object of faults cannot be read in full; the rest of it is skipped",
                );
                count_damaged();
                self.damaged.push((path.to_string(), damage));
            }
            self.ahead.extend(faults);
        }
        Ok(())
    }

    /// What could not be read so far, by path.
    pub fn damaged(&self) -> &[(String, Damage)] {
        &self.damaged
    }
}

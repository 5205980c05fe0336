//! Where a command finds the lake and the faults: what the component says, unless the command line says otherwise.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use streambreaker::file::{self, FaultLineError};
use streambreaker::{FaultEvent, Timestamp};
use streambreaker_lake::object_store::memory::InMemory;
use streambreaker_lake::{FaultScan, FaultState, KeyProvider, Lake};
use uuid::Uuid;

use crate::args::{FaultArgs, FaultsAt, LakeAt};
use crate::failure::{Exit, Failure};

/// Rows of the ledger that are read at once.
const AT_ONCE: usize = 16;

/// What a component says of its places.
#[derive(Clone, Default)]
pub(crate) struct Places {
    pub(crate) lake: Option<LakePlace>,
    pub(crate) keys: Option<Arc<dyn KeyProvider>>,
    pub(crate) faults: Option<PathBuf>,
    pub(crate) stream: Option<String>,
}

#[derive(Clone)]
pub(crate) enum LakePlace {
    /// In any store.
    Given(Lake),
    /// In a directory, which may not be there yet.
    Folder(PathBuf),
}

impl Places {
    /// The lake.
    pub(crate) fn lake(&self, at: &LakeAt) -> Result<Lake, Failure> {
        match (&at.lake, &self.lake) {
            (Some(folder), _) | (None, Some(LakePlace::Folder(folder))) => {
                let lake = Lake::existing(folder)?;
                Ok(match &self.keys {
                    Some(keys) => lake.with_keys(keys.clone()),
                    None => lake,
                })
            }
            (None, Some(LakePlace::Given(lake))) => Ok(lake.clone()),
            (None, None) => {
                Err(Failure::unusable("this component has no lake; name one: --lake DIR"))
            }
        }
    }

    /// The one stream that a command is about.
    pub(crate) async fn stream(&self, lake: &Lake, named: Option<&str>) -> Result<String, Failure> {
        let (streams, _) = lake.streams().await?;
        if let Some(stream) = named.or(self.stream.as_deref()) {
            return known(stream, &streams);
        }
        match &streams[..] {
            [stream] => Ok(stream.clone()),
            [] => Err(Failure::unusable("the lake holds no stream")),
            _ => Err(Failure::unusable(format!(
                "which stream? there are {}: name one, as the help of the command says",
                streams.join(", ")
            ))),
        }
    }

    /// The streams that a command is about: the one that is named, or all of them.
    pub(crate) async fn streams(
        &self,
        lake: &Lake,
        named: Option<&str>,
    ) -> Result<Vec<String>, Failure> {
        let (streams, _) = lake.streams().await?;
        match named {
            Some(stream) => Ok(vec![known(stream, &streams)?]),
            None => Ok(streams),
        }
    }

    /// Where the faults are.
    pub(crate) fn faults(&self, at: &FaultsAt) -> Result<FaultPlace, Failure> {
        let named = at.faults.as_ref().map(|file| (file, &at.lake));
        let own = || {
            let own = self.faults.as_ref().filter(|_| at.lake.lake.is_none());
            own.map(|file| (file, &at.lake))
        };
        let Some((file, lake)) = named.or_else(own) else {
            let lake = match self.lake(&at.lake) {
                Err(none) if self.lake.is_none() && at.lake.lake.is_none() => {
                    return Err(Failure {
                        message: "this component has neither a lake nor a file of faults; name one: --lake DIR or --faults FILE".to_owned(),
                        ..none
                    });
                }
                lake => lake?,
            };
            return Ok(FaultPlace { lines: None, ledger: LedgerPlace::Lake(lake) });
        };
        if !file.is_file() {
            let file = file.display();
            return Err(Failure::unusable(format!(
                "there is no file of faults {file}; name another: --faults FILE"
            )));
        }
        // a component that has a lake keeps there what became of its faults
        let beside = beside(file);
        let ledger = match self.lake(lake) {
            // of two ledgers neither knows all that was sent
            Ok(_) if beside.is_dir() => {
                return Err(Failure::unusable(format!(
                    "what became of these faults is noted in {}, from when there was no lake: move what lies there into the lake, and that directory away",
                    beside.display()
                )));
            }
            Ok(lake) => LedgerPlace::Lake(lake),
            Err(failure) if lake.lake.is_some() => return Err(failure),
            Err(_) => LedgerPlace::Beside(beside),
        };
        Ok(FaultPlace { lines: Some(file.clone()), ledger })
    }
}

fn known(stream: &str, streams: &[String]) -> Result<String, Failure> {
    if streams.iter().any(|known| known == stream) {
        return Ok(stream.to_owned());
    }
    let there = if streams.is_empty() { "none".to_owned() } else { streams.join(", ") };
    Err(Failure::unusable(format!("the lake holds no stream {stream:?}; there is {there}")))
}

/// Where the ledger of a file of faults is.
fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".ledger");
    name.into()
}

#[derive(Clone)]
enum LedgerPlace {
    Lake(Lake),
    /// A directory that may not be there yet.
    Beside(PathBuf),
}

/// Where faults are, and what became of them.
#[derive(Clone)]
pub(crate) struct FaultPlace {
    /// A file of faults; without it they are in the lake.
    lines: Option<PathBuf>,
    ledger: LedgerPlace,
}

impl fmt::Display for FaultPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.lines {
            Some(file) => write!(f, "{}", file.display()),
            None => f.write_str("the lake"),
        }
    }
}

/// Whose faults, and which of them.
#[derive(Clone, Copy)]
pub(crate) struct Pick<'a> {
    pub(crate) args: &'a FaultArgs,
    pub(crate) processor: &'a str,
    pub(crate) now: Timestamp,
}

/// The fault under whose id it stands in the ledger: the whole, of a part.
pub(crate) fn ledger_id(fault: &FaultEvent) -> Uuid {
    fault.part.map_or(fault.id, |part| part.of)
}

impl FaultPlace {
    /// The file, where they lie in one; else they are in the lake.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.lines.as_deref()
    }

    /// The faults that are picked, one after the other.
    pub(crate) async fn scan<'a>(&self, pick: Pick<'a>) -> Result<Scan<'a>, Failure> {
        pick.args.check(pick.now)?;
        let from = match (&self.lines, &self.ledger) {
            (Some(file), _) => {
                let name = file.display().to_string();
                let lines = Box::new(file::read_faults(file).map_err(Failure::failed)?);
                Lines::File { name, lines, seen: BTreeSet::new() }
            }
            (None, LedgerPlace::Lake(lake)) => {
                let named = pick.args.stream.as_deref();
                let streams = Places::default().streams(lake, named).await?;
                Lines::Lake { lake: lake.clone(), streams: streams.into(), scan: None }
            }
            (None, LedgerPlace::Beside(_)) => {
                unreachable!("without a file the faults are in a lake")
            }
        };
        Ok(Scan { pick, from, skipped: Vec::new() })
    }

    /// What became of these faults, in their order: of a stream, and by the id of the whole.
    pub(crate) async fn states<'a>(
        &self,
        faults: impl ExactSizeIterator<Item = (&'a str, Uuid)>,
    ) -> Result<Vec<FaultState>, Failure> {
        let Some(ledger) = self.ledger_if_there()? else {
            return Ok(vec![FaultState::Pending; faults.len()]);
        };
        let ledger = &ledger;
        let rows = stream::iter(faults.map(|(stream, id)| async move {
            let entries = ledger.ledger_of(stream, id).await?;
            Ok(entries.into_iter().last().map_or(FaultState::Pending, |entry| entry.state))
        }));
        rows.buffered(AT_ONCE).try_collect().await
    }

    /// The lake that holds the ledger, where anything has been noted yet.
    pub(crate) fn ledger_if_there(&self) -> Result<Option<Lake>, Failure> {
        match &self.ledger {
            LedgerPlace::Lake(lake) => Ok(Some(lake.clone())),
            LedgerPlace::Beside(folder) => match Lake::existing(folder).map_err(Failure::from) {
                Ok(lake) => Ok(Some(lake)),
                Err(Failure { exit: Exit::Unusable, .. }) => Ok(None),
                Err(failure) => Err(failure),
            },
        }
    }

    /// The same, to look at only: an empty one where there is none.
    pub(crate) fn ledger_to_read(&self) -> Result<Lake, Failure> {
        Ok(self.ledger_if_there()?.unwrap_or_else(|| Lake::new(Arc::new(InMemory::new()))))
    }

    /// The same, to be written to: made where there is none.
    pub(crate) fn ledger_to_write(&self) -> Result<Lake, Failure> {
        match &self.ledger {
            LedgerPlace::Lake(lake) => Ok(lake.clone()),
            LedgerPlace::Beside(folder) => Ok(Lake::local(folder)?),
        }
    }
}

/// Faults, one after the other, each once.
pub(crate) struct Scan<'a> {
    pick: Pick<'a>,
    from: Lines,
    /// What could not be read.
    pub(crate) skipped: Vec<String>,
}

enum Lines {
    File { name: String, lines: Box<file::ReadFaults>, seen: BTreeSet<Uuid> },
    Lake { lake: Lake, streams: VecDeque<String>, scan: Option<Box<FaultScan>> },
}

impl Scan<'_> {
    pub(crate) async fn next(&mut self) -> Result<Option<FaultEvent>, Failure> {
        let Self { pick: Pick { args, processor, now }, from, skipped } = self;
        match from {
            Lines::File { name, lines, seen } => {
                for line in lines {
                    let fault = match line {
                        Ok(fault) => fault,
                        Err(error @ FaultLineError::Read(_)) => return Err(Failure::failed(error)),
                        Err(error) => {
                            skipped.push(format!("{name}: {error}"));
                            continue;
                        }
                    };
                    let stream = fault.stream();
                    let meant = args.stream.as_ref().is_none_or(|named| named == stream)
                        && args.selection(stream, processor, *now).takes(&fault);
                    if meant && seen.insert(fault.id) {
                        return Ok(Some(fault));
                    }
                }
                Ok(None)
            }
            Lines::Lake { lake, streams, scan } => loop {
                if let Some(open) = scan {
                    if let Some(fault) = open.next().await? {
                        return Ok(Some(fault));
                    }
                    let damaged = open.damaged().iter();
                    skipped.extend(damaged.map(|(path, damage)| format!("{path}: {damage}")));
                    *scan = None;
                }
                let Some(stream) = streams.pop_front() else { return Ok(None) };
                let selection = args.selection(&stream, processor, *now);
                *scan = Some(Box::new(lake.scan_faults(&selection).await?));
            },
        }
    }
}

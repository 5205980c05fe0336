//! The verifier: reads everything that is stored of a stream, and says what is wrong with it.
//!
//! Positions may be sparse (offsets in a file, Kafka after compaction), so a jump in numbers proves nothing. What proves
//! that nothing is missing is the chain: every object names the last position that was stored before it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use streambreaker::{Position, ShardId};

use crate::error::{Damage, LakeError};
use crate::lake::{Lake, Listed, patiently};
use crate::manifest::{OTHER_FOOTER, join};
use crate::schema::{Digest, Footer};

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "finding")]
#[non_exhaustive]
pub enum Finding {
    /// Records were stored between these positions, and are not readable any more.
    Missing {
        /// The shard.
        shard: ShardId,
        /// The last position before them.
        after: Position,
        /// The first position behind them.
        before: Position,
    },
    /// The writer began anew behind a position: whether there was something in between, nobody can tell.
    Unproven {
        /// The shard.
        shard: ShardId,
        /// The last position before.
        after: Position,
        /// The first position behind.
        before: Position,
    },
    /// An object that the manifest knows is gone.
    Deleted {
        /// Its path.
        path: String,
        /// The shard.
        shard: ShardId,
        /// Its first position.
        first: Position,
        /// Its last.
        last: Position,
    },
    /// An object cannot be read.
    Damaged {
        /// Its path.
        path: String,
        /// Why.
        #[serde(serialize_with = "printed")]
        damage: Damage,
    },
    /// Records lie in two objects. A replay yields them once.
    Duplicate {
        /// The shard.
        shard: ShardId,
        /// The first of them.
        first: Position,
        /// How many.
        records: u64,
        /// The object that has them too.
        path: String,
    },
    /// Two objects hold different records at one position.
    Conflict {
        /// The shard.
        shard: ShardId,
        /// The position.
        position: Position,
        /// The second object.
        path: String,
    },
    /// Something that this crate did not put there.
    Foreign {
        /// Its path.
        path: String,
    },
}

fn printed<S: serde::Serializer>(damage: &Damage, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(damage)
}

impl Finding {
    /// Whether records may be lost or in doubt. What is foreign, twice there or unproven harms no replay.
    pub fn is_grave(&self) -> bool {
        !matches!(
            self,
            Finding::Foreign { .. } | Finding::Duplicate { .. } | Finding::Unproven { .. }
        )
    }
}

/// What others wrote, as a terminal may see it (rule L12).
struct Shown<T>(T);

impl<T: fmt::Display> fmt::Display for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.to_string().escape_debug())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Missing { shard, after, before } => {
                let (after, before) = (Shown(after), Shown(before));
                write!(f, "missing: records of shard {} between {after} and {before}", Shown(shard))
            }
            Finding::Unproven { shard, after, before } => {
                let (shard, after, before) = (Shown(shard), Shown(after), Shown(before));
                write!(
                    f,
                    "unproven: whether shard {shard} has records between {after} and {before}"
                )
            }
            Finding::Deleted { path, first, last, .. } => {
                write!(f, "deleted: {} with {} to {}", Shown(path), Shown(first), Shown(last))
            }
            Finding::Damaged { path, damage } => write!(f, "damaged: {}: {damage}", Shown(path)),
            Finding::Duplicate { first, records, path, .. } => {
                let (first, path) = (Shown(first), Shown(path));
                write!(f, "duplicate: {records} records from {first} on, again in {path}")
            }
            Finding::Conflict { position, path, .. } => {
                write!(f, "conflict: another record at {} in {}", Shown(position), Shown(path))
            }
            Finding::Foreign { path } => write!(f, "foreign: {}", Shown(path)),
        }
    }
}

/// What a verification found. Prints as a report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Verification {
    /// The stream.
    pub stream: String,
    /// Objects that are whole.
    pub objects: u64,
    /// Their records, each counted once.
    pub records: u64,
    /// Their bytes in the store.
    pub bytes: u64,
    /// Everything else.
    pub findings: Vec<Finding>,
}

impl Verification {
    /// Whether nothing is lost or in doubt.
    pub fn is_sound(&self) -> bool {
        !self.findings.iter().any(Finding::is_grave)
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { objects, records, bytes, .. } = self;
        write!(
            f,
            "{}: {records} records in {objects} objects, {bytes} bytes",
            Shown(&self.stream)
        )?;
        for finding in &self.findings {
            write!(f, "\n  {finding}")?;
        }
        Ok(())
    }
}

/// The records of objects that may overlap with later ones, by what they say.
#[derive(Default)]
struct Seen(Vec<(Position, BTreeMap<Position, String>)>);

impl Seen {
    /// Forgets what ends before this position.
    fn go_on_to(&mut self, position: &Position) {
        self.0.retain(|(last, _)| last >= position);
    }

    fn find(&self, position: &Position) -> Option<&str> {
        self.0.iter().find_map(|(_, records)| records.get(position)).map(String::as_str)
    }
}

impl Lake {
    /// Reads every object of a stream: checksums, order, duplicates, whether the objects join, and whether what they say of
    /// themselves (times of arrival, bloom filters, what the manifest knows) would let a replay find all that is in them, and
    /// (statistics, positions in the form that sorts) people's own tools.
    ///
    /// What is there is written down in the manifest, where the store lets it: so what has gone by the next time is named.
    ///
    /// # Errors
    /// [`LakeError::Store`], [`LakeError::Name`]. What is wrong with the lake is in the report, never an error.
    pub async fn verify(&self, stream: &str) -> Result<Verification, LakeError> {
        let (manifest, objects) = self.look(stream).await?;
        let mut report = Verification { stream: stream.to_owned(), ..Verification::default() };
        report.findings.extend(manifest.missing.iter().map(|gone| Finding::Deleted {
            path: gone.path.clone(),
            shard: gone.footer.shard.as_str().into(),
            first: gone.footer.first.clone(),
            last: gone.footer.last.clone(),
        }));
        let known: BTreeMap<&str, &Footer> =
            manifest.objects.iter().map(|entry| (&*entry.path, &entry.footer)).collect();
        let mut shard: Option<ShardId> = None;
        let mut footers: Vec<Footer> = Vec::new();
        let mut seen = Seen::default();
        for object in objects {
            if shard.as_ref() != Some(&object.name.shard) {
                report.chain(shard.as_ref(), &std::mem::take(&mut footers));
                seen = Seen::default();
                shard = Some(object.name.shard.clone());
            }
            match patiently(|| self.verified(&object)).await {
                Ok((opened, _)) if opened.footer.stream != stream => {
                    report.damaged(&object, Damage::Contents("its stream"));
                }
                // which a replay leaves out
                Ok((opened, _))
                    if known.get(object.path.as_ref()).is_some_and(|f| **f != opened.footer) =>
                {
                    report.damaged(&object, OTHER_FOOTER);
                }
                Ok((opened, records)) => {
                    seen.go_on_to(&object.name.first);
                    let records = records.iter().map(|stored| {
                        let mut digest = Digest::new();
                        digest.add(&stored.record, stored.sealed_by.as_deref());
                        (stored.record.position().clone(), digest.hex())
                    });
                    report.take(&object, records.collect(), &mut seen);
                    footers.push(opened.footer);
                }
                Err(LakeError::Damaged { path, damage }) => {
                    report.findings.push(Finding::Damaged { path, damage });
                }
                Err(error) => return Err(error),
            }
        }
        report.chain(shard.as_ref(), &footers);
        self.remember(&manifest).await;
        report.findings.extend(manifest.foreign.into_iter().map(|path| Finding::Foreign { path }));
        Ok(report)
    }
}

impl Verification {
    fn damaged(&mut self, object: &Listed, damage: Damage) {
        self.findings.push(Finding::Damaged { path: object.path.to_string(), damage });
    }

    /// Takes an object in that is whole.
    fn take(&mut self, object: &Listed, records: BTreeMap<Position, String>, seen: &mut Seen) {
        self.objects += 1;
        self.bytes += object.size;
        let mut twice: Option<(Position, u64)> = None;
        for (position, digest) in &records {
            match seen.find(position) {
                None => self.records += 1,
                Some(same) if same == digest => {
                    twice.get_or_insert_with(|| (position.clone(), 0)).1 += 1;
                }
                Some(_) => self.findings.push(Finding::Conflict {
                    shard: object.name.shard.clone(),
                    position: position.clone(),
                    path: object.path.to_string(),
                }),
            }
        }
        if let Some((first, records)) = twice {
            let (shard, path) = (object.name.shard.clone(), object.path.to_string());
            self.findings.push(Finding::Duplicate { shard, first, records, path });
        }
        seen.0.push((object.name.last.clone(), records));
    }

    /// Whether the objects of a shard join.
    fn chain(&mut self, shard: Option<&ShardId>, footers: &[Footer]) {
        let Some(shard) = shard else { return };
        let (_, breaks) = join(footers);
        self.findings.extend(breaks.into_iter().map(|found| {
            let (shard, after, before) = (shard.clone(), found.after, found.before);
            if found.proven {
                Finding::Missing { shard, after, before }
            } else {
                Finding::Unproven { shard, after, before }
            }
        }));
    }
}

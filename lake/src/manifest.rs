//! The manifest of a stream: what its objects hold, without opening them all.
//!
//! It is a cache and a memory, never the truth: the truth is what lies in the folder. What is listed and not in it is
//! looked at; what is in it and not listed any more is *missing*, which nobody could tell without it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, stream};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use streambreaker::{Position, ShardId};
use tokio::time::timeout;

use crate::error::{Damage, LakeError};
use crate::lake::{AT_ONCE, Lake, Listed, patiently};
use crate::schema::Footer;

/// Whoever had to look at so many objects writes down what they hold, for the next one.
const WORTH_STORING: usize = 64;

/// Nobody waits longer than this for it to be written down.
const SOON: Duration = Duration::from_secs(10);

/// An object, as the manifest knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// Its path in the lake's store.
    pub path: String,
    /// Its size there.
    pub size: u64,
    /// What it says of itself.
    #[serde(flatten)]
    pub footer: Footer,
}

/// One of the two is not what it was.
pub(crate) const OTHER_FOOTER: Damage =
    Damage::Contents("its footer, which the manifest knows otherwise");

/// What lies in a stream's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Manifest {
    /// The stream.
    pub stream: String,
    /// The objects that are there, by shard and first position.
    pub objects: Vec<ManifestEntry>,
    /// Those that were there once, and are not any more, though what came before them is. What goes from the beginning of a
    /// shard, as by a rule of the bucket, was deleted by its age, and is forgotten.
    pub missing: Vec<ManifestEntry>,
    /// Those that cannot be opened, by path.
    pub damaged: Vec<(String, Damage)>,
    /// What this crate did not put there.
    pub foreign: Vec<String>,
}

/// As it is written down.
#[derive(Serialize, Deserialize)]
struct Document {
    schema: u32,
    stream: String,
    objects: Vec<ManifestEntry>,
    missing: Vec<ManifestEntry>,
}

/// The positions that a run of objects covers, with nothing missing in between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CoveredRange {
    /// The first position.
    pub first: Position,
    /// The last.
    pub last: Position,
    /// How many records lie in it.
    pub records: u64,
}

/// Between two runs of objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Break {
    /// The last position before it.
    pub after: Position,
    /// The first position behind it.
    pub before: Position,
    /// Whether the writer knew of records in between: they are missing. Else it began anew behind them, and nobody can
    /// tell.
    pub proven: bool,
}

/// The objects of a shard, put together: what they cover, and where they do not join. In the order of their first
/// positions.
pub(crate) fn join<'a>(
    footers: impl IntoIterator<Item = &'a Footer>,
) -> (Vec<CoveredRange>, Vec<Break>) {
    let (mut ranges, mut breaks): (Vec<CoveredRange>, Vec<Break>) = (Vec::new(), Vec::new());
    for footer in footers {
        let joined = match (ranges.last_mut(), &footer.after) {
            (None, _) => None,
            (Some(range), _) if footer.first <= range.last => Some(range),
            (Some(range), Some(after)) if *after <= range.last => Some(range),
            (Some(range), after) => {
                breaks.push(Break {
                    after: range.last.clone(),
                    before: footer.first.clone(),
                    proven: after.is_some(),
                });
                None
            }
        };
        match joined {
            Some(range) => {
                range.last = range.last.clone().max(footer.last.clone());
                range.records = range.records.saturating_add(footer.records);
            }
            None => ranges.push(CoveredRange {
                first: footer.first.clone(),
                last: footer.last.clone(),
                records: footer.records,
            }),
        }
    }
    (ranges, breaks)
}

impl Manifest {
    /// The shards that have objects.
    pub fn shards(&self) -> Vec<ShardId> {
        let mut shards: Vec<ShardId> =
            self.objects.iter().map(|object| ShardId::from(object.footer.shard.as_str())).collect();
        shards.dedup();
        shards
    }

    pub(crate) fn footers(&self, shard: &ShardId) -> impl Iterator<Item = &Footer> {
        self.objects.iter().map(|o| &o.footer).filter(move |f| f.shard == shard.as_str())
    }

    /// What is covered of a shard.
    pub fn covered(&self, shard: &ShardId) -> Vec<CoveredRange> {
        join(self.footers(shard)).0
    }

    /// Where the objects of a shard do not join.
    pub fn gaps(&self, shard: &ShardId) -> Vec<Break> {
        join(self.footers(shard)).1
    }

    /// What is gone, but for what was deleted by its age: all that is there came later, of its shard, or of the stream
    /// where the shard has no more.
    fn missed(&self, gone: impl Iterator<Item = ManifestEntry>) -> Vec<ManifestEntry> {
        let mut firsts: BTreeMap<&str, &Position> = BTreeMap::new();
        for ManifestEntry { footer, .. } in &self.objects {
            firsts.entry(&footer.shard).or_insert(&footer.first);
        }
        let oldest = self.objects.iter().map(|object| object.footer.arrival_min).min();
        let missed = |footer: &Footer| match firsts.get(&*footer.shard) {
            Some(first) => footer.last >= **first,
            None => oldest.is_none_or(|oldest| oldest <= footer.arrival_max),
        };
        gone.filter(|gone| missed(&gone.footer)).collect()
    }

    /// Forgets what is missing: it was deleted on purpose.
    pub fn forget_missing(&mut self) {
        self.missing.clear();
    }
}

impl Lake {
    fn manifest_path(&self, stream: &str) -> Result<Path, LakeError> {
        // people's own tools leave out what begins with `_`
        Ok(self.folder(stream)?.join("_manifest.json"))
    }

    /// What lies in a stream's folder: what the stored manifest knows, and the ends of the objects that it does not.
    ///
    /// Whoever has to look at 64 objects or more writes the manifest down (`_manifest.json`), where the store lets it; so the
    /// next look opens those alone that are new.
    ///
    /// # Errors
    /// [`LakeError::Store`], [`LakeError::Name`]. Objects that cannot be read are reported, never an error.
    pub async fn manifest(&self, stream: &str) -> Result<Manifest, LakeError> {
        self.look(stream).await.map(|(manifest, _)| manifest)
    }

    /// The manifest, and every object that was listed for it, by name.
    pub(crate) async fn look(&self, stream: &str) -> Result<(Manifest, Vec<Listed>), LakeError> {
        let path = self.manifest_path(stream)?;
        let stored = match patiently(|| self.document(&path)).await? {
            Some(bytes) => match serde_json::from_slice::<Document>(&bytes) {
                Ok(document)
                    if document.stream == stream && document.schema == crate::SCHEMA_VERSION =>
                {
                    Some(document)
                }
                _ => {
                    tracing::warn!(
                        target: "streambreaker::lake", manifest = %path,
                        "a manifest cannot be read; it is made anew, without what it knew to be missing",
                    );
                    None
                }
            },
            None => None,
        };
        let listing = self.list(stream).await?;
        let (mut known, mut gone) = (BTreeMap::new(), BTreeMap::new());
        if let Some(document) = stored {
            let by_path = |entry: ManifestEntry| (entry.path.clone(), entry);
            known.extend(document.objects.into_iter().map(by_path));
            gone.extend(document.missing.into_iter().map(by_path));
        }
        let named = |footer: &Footer, object: &Listed| {
            footer.stream == stream
                && footer.shard == object.name.shard.as_str()
                && footer.first == object.name.first
                && footer.last == object.name.last
        };
        let mut manifest = Manifest { stream: stream.to_owned(), ..Manifest::default() };
        let mut unknown: Vec<Listed> = Vec::new();
        for object in &listing.objects {
            gone.remove(object.path.as_ref());
            match known.remove(object.path.as_ref()) {
                Some(entry) if entry.size == object.size && named(&entry.footer, object) => {
                    manifest.objects.push(entry);
                }
                _ => unknown.push(object.clone()),
            }
        }
        gone.extend(known);
        let news = unknown.len();
        let mut looked = stream::iter(unknown)
            .map(|object| async move { (patiently(|| self.open(&object.path)).await, object) })
            .buffered(AT_ONCE);
        while let Some((opened, object)) = looked.next().await {
            match opened {
                Ok((opened, _)) => {
                    let footer = opened.footer;
                    let path = object.path.to_string();
                    if named(&footer, &object) {
                        manifest.objects.push(ManifestEntry { path, size: object.size, footer });
                    } else {
                        manifest.damaged.push((path, Damage::Contents("its name")));
                    }
                }
                Err(LakeError::Damaged { path, damage }) => manifest.damaged.push((path, damage)),
                Err(error) => return Err(error),
            }
        }
        drop(looked);
        manifest.objects.sort_by(|a, b| {
            let key = |e: &ManifestEntry| {
                (
                    e.footer.shard.clone(),
                    e.footer.first.clone(),
                    e.footer.last.clone(),
                    e.path.clone(),
                )
            };
            key(a).cmp(&key(b))
        });
        manifest.missing = manifest.missed(gone.into_values());
        manifest.foreign = listing.foreign;
        if news >= WORTH_STORING {
            self.remember(&manifest).await;
        }
        Ok((manifest, listing.objects))
    }

    /// Writes a manifest down, if the store lets it, and soon: who only reads may have no right to.
    pub(crate) async fn remember(&self, manifest: &Manifest) {
        if manifest.objects.is_empty() && manifest.missing.is_empty() {
            return; // a stream of a mistyped name is none afterwards either
        }
        let error = match timeout(SOON, self.store_manifest(manifest)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(late) => late.to_string(),
        };
        tracing::debug!(
            target: "streambreaker::lake", stream = manifest.stream, error,
            "the manifest is not written down; the next look opens the same objects again",
        );
    }

    /// Writes a manifest down, so that the next look opens only what is new, and tells what has gone since.
    ///
    /// # Errors
    /// [`LakeError::Store`], [`LakeError::Name`].
    pub async fn store_manifest(&self, manifest: &Manifest) -> Result<(), LakeError> {
        let path = self.manifest_path(&manifest.stream)?;
        let document = Document {
            schema: crate::SCHEMA_VERSION,
            stream: manifest.stream.clone(),
            objects: manifest.objects.clone(),
            missing: manifest.missing.clone(),
        };
        let bytes = serde_json::to_vec_pretty(&document)
            .map_err(|source| LakeError::Document { path: path.to_string(), source })?;
        self.replace(&path, bytes.into()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streambreaker::Timestamp;

    fn footer(after: Option<u64>, first: u64, last: u64) -> Footer {
        Footer {
            schema: 1,
            stream: "s".into(),
            shard: "0".into(),
            first: first.into(),
            last: last.into(),
            records: 1,
            after: after.map(Position::from),
            arrival_min: Timestamp::default(),
            arrival_max: Timestamp::default(),
            digests: Vec::new(),
        }
    }

    #[test]
    fn sparse_positions_join_and_missing_ones_do_not() {
        let sound =
            [footer(None, 10, 50), footer(Some(50), 90, 95), footer(Some(95), 1_000, 2_000)];
        let (ranges, breaks) = join(&sound);
        assert_eq!((ranges.len(), breaks.len()), (1, 0));
        assert_eq!((&ranges[0].first, &ranges[0].last), (&10.into(), &2_000.into()));
        assert_eq!(ranges[0].records, 3);

        let broken = [&sound[0], &sound[2]];
        let (ranges, breaks) = join(broken);
        assert_eq!(ranges.len(), 2);
        assert_eq!(breaks, [Break { after: 50.into(), before: 1_000.into(), proven: true }]);
    }

    #[test]
    fn a_writer_that_began_anew_proves_nothing() {
        let (_, breaks) = join(&[footer(None, 1, 5), footer(None, 9, 12)]);
        assert_eq!(breaks, [Break { after: 5.into(), before: 9.into(), proven: false }]);
        // what was stored later, in between, joins both
        let (ranges, breaks) =
            join(&[footer(None, 1, 5), footer(Some(5), 6, 8), footer(Some(8), 9, 12)]);
        assert_eq!((ranges.len(), breaks.len()), (1, 0));
    }

    #[test]
    fn ranges_that_overlap_are_one() {
        let (ranges, breaks) =
            join(&[footer(None, 1, 9), footer(Some(1), 4, 6), footer(Some(9), 12, 14)]);
        assert_eq!((ranges.len(), breaks.len()), (1, 0));
        assert_eq!(ranges[0].last, 14.into());
    }
}

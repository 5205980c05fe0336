//! Which records are meant: of a replay, a dry run, a search.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use streambreaker::record::ParsePositionError;
use streambreaker::{Gap, Position, ShardId, Timestamp};
use uuid::Uuid;

use crate::encode::Stored;
use crate::schema::Footer;

/// The records of one stream that are meant: all of them, unless told otherwise. What is told is told together: of a type
/// *and* in a time.
///
/// ```
/// use streambreaker::Timestamp;
/// use streambreaker_lake::Selection;
///
/// let march = Selection::of("orders")
///     .from(Timestamp::from_millis(1_362_096_000_000))
///     .until(Timestamp::from_millis(1_364_774_400_000))
///     .kind("order-submitted")
///     .kind("order-changed");
/// assert_eq!(march.stream(), "orders");
/// ```
#[derive(Clone, PartialEq, Eq)]
#[must_use = "a selection does nothing by itself"]
pub struct Selection {
    stream: String,
    shards: BTreeSet<ShardId>,
    from: Option<Timestamp>,
    until: Option<Timestamp>,
    first: Option<Position>,
    last: Option<Position>,
    /// The first position that is not meant any more.
    before: Option<Position>,
    kinds: BTreeSet<String>,
    keys: BTreeSet<Bytes>,
    ids: BTreeSet<String>,
}

impl fmt::Debug for Selection {
    // neither keys nor ids (rule L12)
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selection")
            .field("stream", &self.stream)
            .field("shards", &self.shards)
            .field("from", &self.from)
            .field("until", &self.until)
            .field("first", &self.first)
            .field("last", &self.last)
            .field("before", &self.before)
            .field("kinds", &self.kinds.len())
            .field("keys", &self.keys.len())
            .field("ids", &self.ids.len())
            .finish()
    }
}

impl Selection {
    /// Every record of this stream.
    pub fn of(stream: impl Into<String>) -> Self {
        Self {
            stream: stream.into(),
            shards: BTreeSet::new(),
            from: None,
            until: None,
            first: None,
            last: None,
            before: None,
            kinds: BTreeSet::new(),
            keys: BTreeSet::new(),
            ids: BTreeSet::new(),
        }
    }

    /// The records that a run was told are gone from its stream, as its report names them: what it takes to repair that.
    ///
    /// # Errors
    /// When the gap's positions are none.
    pub fn missing(gap: &Gap) -> Result<Self, ParsePositionError> {
        let mut selection = Self::of(&*gap.stream).shard(&*gap.shard);
        selection.first = Some(gap.from.parse()?);
        selection.before = Some(gap.to.parse()?);
        Ok(selection)
    }

    /// Only of this shard, or of one more.
    pub fn shard(mut self, shard: impl Into<ShardId>) -> Self {
        self.shards.insert(shard.into());
        self
    }

    /// Only what arrived at this moment or later.
    pub fn from(mut self, arrival: Timestamp) -> Self {
        self.from = Some(arrival);
        self
    }

    /// Only what arrived before this moment.
    pub fn until(mut self, arrival: Timestamp) -> Self {
        self.until = Some(arrival);
        self
    }

    /// Only what lies at these positions, both included; of one shard, mostly.
    pub fn positions(mut self, first: Position, last: Position) -> Self {
        self.first = Some(first);
        self.last = Some(last);
        self
    }

    /// Only what lies at this position or behind it.
    pub fn first(mut self, first: Position) -> Self {
        self.first = Some(first);
        self
    }

    /// Only what lies up to this position, and at it.
    pub fn last(mut self, last: Position) -> Self {
        self.last = Some(last);
        self
    }

    /// Only events of this type, or of one more, as the writer's envelope read it.
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.kinds.insert(kind.into());
        self
    }

    /// Only records of this transport key, or of one more.
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.keys.insert(key.into());
        self
    }

    /// Only the event of this id, or of one more.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.ids.insert(id.into());
        self
    }

    /// The stream.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// A name for what is selected: equal selections have the same.
    pub(crate) fn fingerprint(&self) -> Uuid {
        let mut name = Vec::new();
        let mut field = |bytes: &[u8]| {
            name.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
            name.extend_from_slice(bytes);
        };
        field(self.stream.as_bytes());
        for time in [self.from, self.until] {
            field(time.map(|t| t.to_string()).unwrap_or_default().as_bytes());
        }
        for position in [&self.first, &self.last, &self.before] {
            field(position.as_ref().map(Position::to_string).unwrap_or_default().as_bytes());
        }
        let mut set = |values: Vec<&[u8]>| {
            field(&(values.len() as u64).to_be_bytes());
            values.into_iter().for_each(&mut field);
        };
        set(self.shards.iter().map(|shard| shard.as_str().as_bytes()).collect());
        set(self.kinds.iter().map(String::as_bytes).collect());
        set(self.keys.iter().map(|key| &key[..]).collect());
        set(self.ids.iter().map(String::as_bytes).collect());
        Uuid::new_v5(&Uuid::NAMESPACE_OID, &name)
    }

    /// Whether this shard is meant.
    pub(crate) fn takes_shard(&self, shard: &ShardId) -> bool {
        self.shards.is_empty() || self.shards.contains(shard)
    }

    /// Whether only what arrived in a time is meant.
    pub(crate) fn is_of_a_time(&self) -> bool {
        self.from.is_some() || self.until.is_some()
    }

    /// Whether it is told where it begins, and that is here or before.
    pub(crate) fn begins_before(&self, position: &Position) -> bool {
        self.first.as_ref().is_some_and(|first| first <= position)
    }

    /// Of the positions from `from` up to `to`, which is not one of them, those that are meant.
    pub(crate) fn part_of(&self, from: Position, to: Position) -> Option<(Position, Position)> {
        let from = self.first.iter().cloned().fold(from, Ord::max);
        let ends = self.before.iter().cloned().chain(self.last.as_ref().map(behind));
        let to = ends.fold(to, Ord::min);
        (from < to).then_some((from, to))
    }

    /// Whether an object may hold what is meant, by what it says of itself.
    pub(crate) fn may_be_in(&self, footer: &Footer) -> bool {
        self.takes_shard(&ShardId::from(&*footer.shard))
            && self.from.is_none_or(|from| footer.arrival_max >= from)
            && self.until.is_none_or(|until| footer.arrival_min < until)
            && self.first.as_ref().is_none_or(|first| footer.last >= *first)
            && self.last.as_ref().is_none_or(|last| footer.first <= *last)
            && self.before.as_ref().is_none_or(|before| footer.first < *before)
    }

    /// Whether this record is meant.
    pub(crate) fn takes(&self, stored: &Stored) -> bool {
        let record = &stored.record;
        let any = |set: &BTreeSet<String>, value: &Option<String>| {
            set.is_empty() || value.as_ref().is_some_and(|value| set.contains(value))
        };
        self.takes_shard(record.shard())
            && self.from.is_none_or(|from| record.arrival() >= from)
            && self.until.is_none_or(|until| record.arrival() < until)
            && self.first.as_ref().is_none_or(|first| record.position() >= first)
            && self.last.as_ref().is_none_or(|last| record.position() <= last)
            && self.before.as_ref().is_none_or(|before| record.position() < before)
            && any(&self.kinds, &stored.event_type)
            && any(&self.ids, &stored.event_id)
            && (self.keys.is_empty() || record.key().is_some_and(|key| self.keys.contains(key)))
    }

    /// The sets that bloom filters know, by their columns.
    pub(crate) fn wanted(&self) -> [(usize, Vec<&[u8]>); 3] {
        use crate::schema::column;
        [
            (column::EVENT_ID, self.ids.iter().map(String::as_bytes).collect()),
            (column::EVENT_TYPE, self.kinds.iter().map(String::as_bytes).collect()),
            (column::KEY, self.keys.iter().map(|key| &key[..]).collect()),
        ]
    }

    /// Whether bloom filters may spare reading a group.
    pub(crate) fn is_narrow(&self) -> bool {
        !(self.ids.is_empty() && self.kinds.is_empty() && self.keys.is_empty())
    }
}

/// The first position behind this one. One that has no successor stands for itself: rather one too many is read again than
/// none.
pub(crate) fn behind(position: &Position) -> Position {
    position.successor().unwrap_or_else(|| position.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_selections_have_one_fingerprint_and_others_another() {
        let base = || Selection::of("s").kind("a").kind("b");
        assert_eq!(base().fingerprint(), Selection::of("s").kind("b").kind("a").fingerprint());
        let others = [
            Selection::of("s"),
            Selection::of("t").kind("a").kind("b"),
            base().id("a"),
            base().key("a"),
            base().shard("a"),
            base().from(Timestamp::default()),
            base().until(Timestamp::default()),
            base().positions(1.into(), 2.into()),
            Selection::of("s").kind("ab"),
            // what stands between two sets is no name of anything
            Selection::of("s").shard("set"),
            Selection::of("s").kind("set"),
            Selection::of("s").key("set"),
        ];
        let mut seen = BTreeSet::from([base().fingerprint()]);
        for other in others {
            assert!(seen.insert(other.fingerprint()), "{other:?}");
        }
    }

    #[test]
    fn l12_debug_of_a_selection_shows_no_key() {
        let printed = format!("{:?}", Selection::of("s").key("hunter2").id("hunter2"));
        assert!(!printed.contains("hunter2"), "{printed}");
    }
}

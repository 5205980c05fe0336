//! What is stored of a shard, by the names of its objects.

use streambreaker::{Position, ShardId};

use crate::lake::Listed;
use crate::name::ObjectName;

/// The objects of a shard, by their first positions. Their ranges may overlap: two processes may have written.
#[derive(Debug, Default)]
pub(crate) struct Index {
    objects: Vec<Listed>,
    /// For each object, the highest position that it or any before it ends with.
    highest: Vec<Position>,
}

impl Index {
    pub(crate) fn of(objects: Vec<Listed>, shard: &ShardId) -> Self {
        let mut index = Self::default();
        for object in objects.into_iter().filter(|object| object.name.shard == *shard) {
            index.add(object);
        }
        index
    }

    pub(crate) fn add(&mut self, object: Listed) {
        let at = self.objects.partition_point(|known| known.name <= object.name);
        if at > 0 && self.objects[at - 1].name == object.name {
            return;
        }
        self.objects.insert(at, object);
        self.highest.truncate(at);
        for object in &self.objects[at..] {
            let last = object.name.last.clone();
            let highest =
                self.highest.last().map_or(last.clone(), |before| before.clone().max(last));
            self.highest.push(highest);
        }
    }

    /// How many objects begin at or below this position.
    fn below(&self, position: &Position) -> usize {
        self.objects.partition_point(|object| object.name.first <= *position)
    }

    /// The objects whose range holds this position, the one that begins last first.
    pub(crate) fn covering(&self, position: &Position) -> Vec<Listed> {
        let below = self.below(position);
        (0..below)
            .rev()
            .take_while(|at| self.highest[*at] >= *position)
            .filter(|at| self.objects[*at].name.last >= *position)
            .map(|at| self.objects[at].clone())
            .collect()
    }

    /// The highest position that is stored below this one.
    pub(crate) fn before(&self, position: &Position) -> Option<Position> {
        // once an object that is written: a look through all of them is nothing beside that
        let ends = self.objects[..self.below(position)].iter().map(|object| &object.name.last);
        ends.filter(|last| *last < position).max().cloned()
    }

    /// Whether an object begins above `low` and below `high`.
    pub(crate) fn begins_between(&self, low: &Position, high: &Position) -> bool {
        self.objects.get(self.below(low)).is_some_and(|object| object.name.first < *high)
    }

    pub(crate) fn has(&self, name: &ObjectName) -> bool {
        self.objects.binary_search_by(|object| object.name.cmp(name)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::path::Path;
    use proptest::prelude::*;

    fn object(first: u64, last: u64) -> Listed {
        let name =
            ObjectName { shard: "0".into(), first: first.into(), last: last.into(), turn: 0 };
        Listed { name, path: Path::from(format!("{first}-{last}")), size: 1 }
    }

    proptest! {
        #[test]
        fn it_answers_as_a_look_through_all_does(
            ranges in proptest::collection::vec((0u64..60, 0u64..10), 0..12),
            at in 0u64..70,
            width in 1u64..10,
        ) {
            let all: Vec<Listed> =
                ranges.iter().map(|(first, len)| object(*first, first + len)).collect();
            let mut index = Index::default();
            for object in all.clone() {
                index.add(object);
            }
            let (low, high) = (Position::from(at), Position::from(at + width));
            let mut expected: Vec<&Path> = all
                .iter()
                .filter(|o| o.name.first <= low && low <= o.name.last)
                .map(|o| &o.path)
                .collect();
            expected.sort();
            expected.dedup();
            let covering = index.covering(&low);
            let mut found: Vec<&Path> = covering.iter().map(|o| &o.path).collect();
            found.sort();
            prop_assert_eq!(found, expected);
            let before = all.iter().map(|o| o.name.last.clone()).filter(|last| *last < low).max();
            prop_assert_eq!(index.before(&low), before);
            let between = all.iter().any(|o| o.name.first > low && o.name.first < high);
            prop_assert_eq!(index.begins_between(&low, &high), between);
            for object in &all {
                prop_assert!(index.has(&object.name));
            }
        }
    }
}

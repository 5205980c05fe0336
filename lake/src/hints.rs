//! What an object says of its records so that some are passed over: bloom filters, for a replay; statistics, and a form of
//! positions that sorts, for people's own tools. No checksum covers these, so whoever verifies compares them with the
//! records: one that is wrong would leave a record out in silence.

use std::sync::Arc;

use parquet::data_type::ByteArray;
use parquet::file::statistics::Statistics;
use streambreaker::Timestamp;

use crate::decode::{Column, Opened, guarded, reader};
use crate::encode::Stored;
use crate::error::Damage;
use crate::pages::Columns;
use crate::parts::Parts;
use crate::schema::column;
use crate::sortable::sortable;

/// What a record has in a column.
type Text = fn(&Stored) -> Option<&[u8]>;
type Time = fn(&Stored) -> Option<i64>;

/// The columns of text that are searched by, and what a record has in them.
const SEARCHED: [(usize, Text); 3] = [
    (column::EVENT_ID, |stored| stored.event_id.as_deref().map(str::as_bytes)),
    (column::EVENT_TYPE, |stored| stored.event_type.as_deref().map(str::as_bytes)),
    (column::KEY, |stored| stored.record.key().map(|key| &key[..])),
];

const TIMES: [(usize, Time); 2] = [
    (column::ARRIVAL, |stored| Some(stored.record.arrival().as_micros())),
    (column::EVENT_TIME, |stored| stored.event_time.map(Timestamp::as_micros)),
];

/// Whether all values lie within these ends, and as many are missing as is said; what is not said holds.
fn covers<T: Ord + Copy>(
    (least, most): (Option<T>, Option<T>),
    missing: Option<u64>,
    values: impl Iterator<Item = Option<T>>,
) -> bool {
    let mut found = 0;
    let within = values.fold(true, |within, value| match value {
        None => {
            found += 1;
            within
        }
        Some(value) => {
            within
                && least.is_none_or(|least| least <= value)
                && most.is_none_or(|most| value <= most)
        }
    });
    within && missing.is_none_or(|missing| missing == found)
}

impl Opened {
    /// Whether the bloom filters of a group let everything through that is in it: one that does not would leave it out of a
    /// narrow selection, in silence.
    pub(crate) fn filters_hold(
        &self,
        parts: &Parts,
        group: usize,
        records: &[Stored],
    ) -> Result<(), Damage> {
        guarded(|| {
            for (place, value) in SEARCHED {
                let Some(filter) = self.filter(parts, group, place)? else { continue };
                if !records.iter().filter_map(value).all(|value| filter.check(value)) {
                    return Err(Damage::Contents("its bloom filters"));
                }
            }
            Ok(())
        })
    }

    /// Whether people's own tools see of a group what is in it: by the form of its positions that sorts, and by its
    /// statistics, for which they pass it over. No checksum covers these.
    pub(crate) fn tools_see(
        &self,
        parts: &Arc<Parts>,
        group: usize,
        records: &[Stored],
    ) -> Result<(), Damage> {
        guarded(|| {
            let metadata = self.metadata.row_group(group);
            let reader = reader(parts, metadata)?;
            let columns = Columns { group: &reader, bytes: self.bounds.group_bytes };
            let rows = records.len();
            let forms = Column::bytes(&columns, column::POSITION_SORT, rows)?.required(rows)?;
            let mut positions = forms.iter().zip(records);
            if !positions.all(|(form, s)| form.data() == sortable(s.record.position()).as_bytes()) {
                return Err(Damage::Contents("the form of its positions that sorts"));
            }
            let chunk = |place: usize| metadata.column(place).statistics();
            let texts = SEARCHED.iter().all(|(place, value)| match chunk(*place) {
                Some(Statistics::ByteArray(said)) => {
                    let ends = (said.min_opt(), said.max_opt());
                    let ends = (ends.0.map(ByteArray::data), ends.1.map(ByteArray::data));
                    covers(ends, said.null_count_opt(), records.iter().map(value))
                }
                said => said.is_none(),
            });
            let times = TIMES.iter().all(|(place, value)| match chunk(*place) {
                Some(Statistics::Int64(said)) => {
                    let ends = (said.min_opt().copied(), said.max_opt().copied());
                    covers(ends, said.null_count_opt(), records.iter().map(value))
                }
                said => said.is_none(),
            });
            if texts && times { Ok(()) } else { Err(Damage::Contents("its statistics")) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Bounds;
    use crate::encode::encode;
    use streambreaker::envelope::JsonEnvelope;
    use streambreaker::{Position, Record};

    #[test]
    fn l4_statistics_that_lie_to_other_tools_are_damage() {
        let record = |n: u64| {
            let payload = format!(r#"{{"id":"id-{n}","type":"kind","timestamp":77}}"#);
            let record = Record::new("s", "0", Position::from(n), payload)
                .with_key(format!("key-{n}"))
                .with_arrival(Timestamp::from_micros(1_111_111_111_111_111));
            Stored::plain(record, &JsonEnvelope::new())
        };
        let bytes = encode(&(1..4).map(record).collect::<Vec<_>>(), None).expect("encoded").bytes;
        let open = |bytes: Vec<u8>| {
            let parts = Arc::new(Parts::whole(bytes.into()));
            let opened = Opened::open(&parts, Bounds::default())?;
            opened.verified(&parts).map(|_| opened)
        };
        let sound = open(bytes.to_vec()).expect("it is sound");
        let end = bytes.len() - 8;
        let len = u32::from_le_bytes(bytes[end..end + 4].try_into().expect("four bytes")) as usize;
        for place in
            [column::KEY, column::EVENT_ID, column::EVENT_TYPE, column::ARRIVAL, column::EVENT_TIME]
        {
            let said = sound.metadata.row_group(0).column(place).statistics().expect("statistics");
            let most = said.max_bytes_opt().expect("the greatest");
            let mut hostile = bytes.to_vec();
            // numbers stand there twice, for old readers too
            for at in end - len..end - most.len() {
                if hostile[at..].starts_with(most) {
                    hostile[at] -= 1;
                }
            }
            assert_eq!(open(hostile).err(), Some(Damage::Contents("its statistics")), "{place}");
        }
    }

    #[test]
    fn what_is_said_of_values_holds_or_not() {
        let values = || [Some(3), None, Some(5)].into_iter();
        assert!(covers((Some(3), Some(5)), Some(1), values()));
        assert!(covers((Some(1), Some(9)), None, values()));
        assert!(covers((None, None), None, values()));
        assert!(!covers((Some(4), None), None, values()));
        assert!(!covers((None, Some(4)), None, values()));
        assert!(!covers((None, None), Some(2), values()));
    }
}

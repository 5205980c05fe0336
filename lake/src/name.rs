//! Names of folders and objects: made of the names of streams, shards and positions, whatever those are.
//!
//! One decision shaped this module: an encoded name has one spelling, on every file system. Lower-case letters, digits,
//! `_`, `.` (and `-`, where it does not separate) stand for themselves; every other byte is `%` and two digits, capital
//! letters too, because `Orders` and `orders` are one folder on many disks. What is not in this spelling is foreign: it is
//! reported, never guessed at.

use object_store::path::Path;
use streambreaker::{Position, ShardId, Timestamp};

/// A name that no folder or object can be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// There is nothing to name it by.
    #[error("the name of the {what} is empty: give it one")]
    Empty {
        /// Of what.
        what: &'static str,
    },
    /// Encoded, it is longer than file systems take.
    #[error(
        "the name of the {what} has {len} bytes when encoded, over the limit of {max}: shorten it"
    )]
    TooLong {
        /// Of what.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The most that is taken.
        max: usize,
    },
}

const STREAM_MAX: usize = 200;
const SHARD_MAX: usize = 96;
// two of them, a shard and what is around them fit the 255 bytes of a file name
const POSITION_MAX: usize = 64;

const HEX: &[u8; 16] = b"0123456789ABCDEF";

fn encode(
    name: &str,
    keep_dash: bool,
    what: &'static str,
    max: usize,
) -> Result<String, NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    let mut encoded = String::with_capacity(name.len().min(max));
    for (at, byte) in name.bytes().enumerate() {
        let plain = match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'_' => true,
            // at the front it hides files, and `.` and `..` are not names
            b'.' => at > 0,
            b'-' => keep_dash,
            _ => false,
        };
        if plain {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push(char::from(HEX[usize::from(byte >> 4)]));
            encoded.push(char::from(HEX[usize::from(byte & 15)]));
        }
        if encoded.len() > max {
            // counted to its end, so that the message says how long it is
            let len = encoded.len() + name.len() - at - 1;
            return Err(NameError::TooLong { what, len, max });
        }
    }
    Ok(encoded)
}

/// The name that is spelt so; none if it is spelt in any other way than [`encode`] does.
fn decode(encoded: &str, keep_dash: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| HEX.iter().position(|hex| Some(*hex) == byte);
            let (high, low) = (digit(rest.next())?, digit(rest.next())?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    let name = String::from_utf8(bytes).ok()?;
    (encode(&name, keep_dash, "", usize::MAX).ok()? == encoded).then_some(name)
}

/// The folder of a stream below the lake's own.
pub(crate) fn stream_folder(stream: &str) -> Result<String, NameError> {
    Ok(format!("stream={}", encode(stream, true, "stream", STREAM_MAX)?))
}

/// The stream whose folder is called so.
pub(crate) fn stream_of_folder(folder: &str) -> Option<String> {
    decode(folder.strip_prefix("stream=")?, true)
}

/// A file or folder named after a shard.
pub(crate) fn shard_folder(shard: &ShardId) -> Result<String, NameError> {
    encode(shard.as_str(), true, "shard", SHARD_MAX)
}

/// The part of an object's name that is a position.
pub(crate) fn position_name(position: &Position) -> Result<String, NameError> {
    encode(&position.to_string(), false, "position", POSITION_MAX)
}

/// An object of records, as its name tells: which records it may hold is known before it is opened.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ObjectName {
    pub(crate) shard: ShardId,
    pub(crate) first: Position,
    pub(crate) last: Position,
    /// How many objects of this name there are that hold something else or cannot be read.
    pub(crate) turn: u32,
}

/// Objects of one name that are tried: more would mean that something else goes wrong.
pub(crate) const TURNS: u32 = 8;

impl ObjectName {
    /// The name of the file.
    pub(crate) fn file(&self) -> Result<String, NameError> {
        let shard = encode(self.shard.as_str(), false, "shard", SHARD_MAX)?;
        let (first, last) = (position_name(&self.first)?, position_name(&self.last)?);
        Ok(match self.turn {
            0 => format!("{shard}-{first}-{last}.parquet"),
            turn => format!("{shard}-{first}-{last}-{turn}.parquet"),
        })
    }

    /// Where the object lies: in the hour (UTC) in which its first record arrived.
    pub(crate) fn path(&self, stream_folder: &Path, arrival: Timestamp) -> Result<Path, NameError> {
        let hour = Hour::of(arrival);
        let path = format!("{stream_folder}/{hour}/{}", self.file()?);
        Ok(Path::parse(path).expect("encoded names have no segment that a path refuses"))
    }

    /// What a file of this name holds; none if this crate never gives such a name.
    pub(crate) fn parse(file: &str) -> Option<Self> {
        let mut parts = file.strip_suffix(".parquet")?.split('-');
        let shard = ShardId::from(decode(parts.next()?, false)?);
        let mut position = || decode(parts.next()?, false)?.parse().ok();
        let (first, last): (Position, Position) = (position()?, position()?);
        let turn = match parts.next() {
            None => 0,
            Some(turn) => {
                turn.parse().ok().filter(|n: &u32| *n > 0 && *n < TURNS && turn == n.to_string())?
            }
        };
        (parts.next().is_none() && first <= last).then_some(Self { shard, first, last, turn })
    }
}

/// An hour of UTC, as the two folders that name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hour {
    date: String,
    hour: String,
}

impl Hour {
    pub(crate) fn of(arrival: Timestamp) -> Self {
        let printed = arrival.to_string();
        let (date, time) = printed.split_once('T').unwrap_or((&printed, "00"));
        Self { date: date.replace('+', "%2B"), hour: time[..2].to_owned() }
    }
}

impl std::fmt::Display for Hour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "date={}/hour={}", self.date, self.hour)
    }
}

/// The hour's number, counted from 1970: to tell whether a record belongs to a later one.
pub(crate) fn hour_number(arrival: Timestamp) -> i64 {
    arrival.as_micros().div_euclid(3_600_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(shard: &str, first: &str, last: &str) -> ObjectName {
        let position = |text: &str| text.parse().expect("a position");
        ObjectName { shard: shard.into(), first: position(first), last: position(last), turn: 0 }
    }

    #[test]
    fn names_are_as_documented() {
        assert_eq!(stream_folder("orders-v2").as_deref(), Ok("stream=orders-v2"));
        assert_eq!(name("0", "10", "42").file().as_deref(), Ok("0-10-42.parquet"));
        let object = name("shardId-000", "1700-1", "1700-9");
        assert_eq!(object.file().as_deref(), Ok("shard%49d%2D000-1700%2D1-1700%2D9.parquet"));
        let arrival = Timestamp::from_millis(1_357_035_420_000);
        let path = name("0", "1", "2").path(&Path::from("lake/stream=a"), arrival);
        assert_eq!(
            path.expect("a path").as_ref(),
            "lake/stream=a/date=2013-01-01/hour=10/0-1-2.parquet"
        );
    }

    #[test]
    fn l3_hostile_names_are_encoded_reversibly_or_refused() {
        for hostile in
            ["..", ".", "/", "a/b", "\0", "a\\b", "%", "%2F", "~", " ", "Orders", "*", "ß"]
        {
            let folder = stream_folder(hostile).expect("encoded");
            assert_eq!(stream_of_folder(&folder).as_deref(), Some(hostile));
            let segment = folder.strip_prefix("stream=").expect("a prefix");
            assert!(!segment.starts_with('.') && !segment.contains(['/', '\\', '\0']), "{segment}");
        }
        assert_ne!(
            stream_folder("Orders").map(|f| f.to_lowercase()),
            stream_folder("orders").map(|f| f.to_lowercase())
        );
        assert_eq!(stream_folder(""), Err(NameError::Empty { what: "stream" }));
        let endless = "x".repeat(1 << 20);
        assert_eq!(
            stream_folder(&endless),
            Err(NameError::TooLong { what: "stream", len: 1 << 20, max: STREAM_MAX })
        );
    }

    #[test]
    fn l4_what_is_spelt_otherwise_is_foreign() {
        for foreign in [
            "0-1.parquet",
            "0-1-2-0.parquet",
            "0-1-2-x.parquet",
            "0-1-2-3-4.parquet",
            "0-2-1.parquet",
            "0-1-2.orc",
            "%30-1-2.parquet",
            "A-1-2.parquet",
            "-1-2.parquet",
            "0--2.parquet",
            "%zz-1-2.parquet",
            "0-1-2-01.parquet",
            "%4a-1-2.parquet",
            "part-0.parquet",
            ".parquet",
            "",
        ] {
            assert_eq!(ObjectName::parse(foreign), None, "{foreign}");
        }
        for folder in ["stream=", "stream=A", "stream=%41%zz", "orders", "stream=%61"] {
            assert_eq!(stream_of_folder(folder), None, "{folder}");
        }
    }

    #[test]
    fn hours_of_any_year_have_a_folder() {
        assert_eq!(Hour::of(Timestamp::from_micros(-1)).to_string(), "date=1969-12-31/hour=23");
        let far = Hour::of(Timestamp::from_millis(3_093_527_980_799_000)).to_string();
        assert!(far.starts_with("date=%2B99999-"), "{far}");
        for micros in [i64::MIN, i64::MAX] {
            let path = name("0", "1", "2")
                .path(&Path::from("stream=a"), Timestamp::from_micros(micros))
                .expect("a path");
            assert_eq!(path.parts_count(), 4);
        }
    }

    proptest! {
        #[test]
        fn l3_what_is_encoded_is_read_back(stream in ".{1,40}", shard in ".{1,10}", a in ".{1,10}", b in ".{1,10}", turn in 0..TURNS) {
            let folder = stream_folder(&stream);
            if let Ok(folder) = folder {
                prop_assert_eq!(stream_of_folder(&folder), Some(stream));
            }
            let (a, b): (Position, Position) = (a.parse().unwrap(), b.parse().unwrap());
            let (first, last) = if a <= b { (a, b) } else { (b, a) };
            let object = ObjectName { shard: shard.as_str().into(), first, last, turn };
            if let Ok(file) = object.file() {
                prop_assert!(file.len() <= 255);
                prop_assert_eq!(ObjectName::parse(&file), Some(object));
            }
        }
    }
}

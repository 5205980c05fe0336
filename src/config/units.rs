//! Durations as `800ms` and sizes as `1MiB`, in configuration files.
//!
//! Strict on purpose: a number and one unit, no spaces, no bare numbers. `30` is seconds to one reader and
//! milliseconds to the next.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A duration in a configuration file: `800ms`, `1.5s`, `10m`.
///
/// Units: `ns`, `us`, `ms`, `s`, `m`, `h`, `d`.
///
/// ```
/// use std::time::Duration;
/// use streambreaker::config::Span;
///
/// let span: Span = "1.5s".parse()?;
/// assert_eq!(span.get(), Duration::from_millis(1_500));
/// assert_eq!(span.to_string(), "1500ms");
/// assert!("30".parse::<Span>().is_err());
/// # Ok::<(), streambreaker::config::UnitError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(Duration);

/// A size in a configuration file: `512KiB`, `64MiB`, `1GB`.
///
/// Units: `B`, `KB`, `MB`, `GB` of a thousand, `KiB`, `MiB`, `GiB` of 1,024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(usize);

/// A duration or a size that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found} is not a {what}; accepted: {accepted}")]
pub struct UnitError {
    found: String,
    what: &'static str,
    accepted: &'static str,
}

const SPANS: [(&str, u64); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

const SIZES: [(&str, u64); 7] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

const SPAN_ACCEPTED: &str = "a number and one of ns, us, ms, s, m, h, d, such as \"800ms\"";
const SIZE_ACCEPTED: &str = "a number and one of B, KB, MB, GB, KiB, MiB, GiB, such as \"1MiB\"";

/// A value that was not understood, as an error shows it: what is too long for a number and a unit may be
/// anything that slipped into the wrong field, a secret as well.
fn shown(text: &str) -> String {
    if text.chars().count() <= 16 {
        format!("`{}`", text.escape_debug())
    } else {
        format!("a text of {} bytes", text.len())
    }
}

/// Reads `1.5s` as 1.5 times what `units` says of `s`.
fn read(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(split);
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && part.is_empty()) || part.len() > 9 {
        return None;
    }
    let mut value = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    if !part.is_empty() {
        let scale = 10u128.pow(u32::try_from(part.len()).ok()?);
        let more = u128::from(part.parse::<u64>().ok()?) * u128::from(factor) / scale;
        value = value.checked_add(u64::try_from(more).ok()?)?;
    }
    Some(value)
}

/// The largest unit that shows the value without a fraction.
fn write(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let (name, factor) = units
        .iter()
        .rev()
        .find(|(_, factor)| value != 0 && value % factor == 0)
        .unwrap_or(&units[0]);
    write!(f, "{}{name}", value / factor)
}

impl Span {
    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        read(text, &SPANS).map(|nanos| Self(Duration::from_nanos(nanos))).ok_or_else(|| UnitError {
            found: shown(text),
            what: "duration",
            accepted: SPAN_ACCEPTED,
        })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX), &SPANS)
    }
}

impl Size {
    /// The bytes.
    pub const fn get(self) -> usize {
        self.0
    }
}

impl From<usize> for Size {
    fn from(bytes: usize) -> Self {
        Self(bytes)
    }
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        read(text, &SIZES)
            .and_then(|bytes| usize::try_from(bytes).ok())
            .map(Self)
            .ok_or_else(|| UnitError { found: shown(text), what: "size", accepted: SIZE_ACCEPTED })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, self.0 as u64, &SIZES)
    }
}

struct Text<T>(std::marker::PhantomData<T>, &'static str);

impl<T: FromStr<Err = UnitError>> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! as_text {
    ($($type:ty, $accepted:ident;)*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text(std::marker::PhantomData, $accepted))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
as_text! { Span, SPAN_ACCEPTED; Size, SIZE_ACCEPTED; }

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_read_and_bare_numbers_are_not() {
        for (text, want) in [
            ("800ms", Some(800_000_000)),
            ("1.5s", Some(1_500_000_000)),
            ("0.25m", Some(15_000_000_000)),
            ("2d", Some(172_800_000_000_000)),
            ("30", None),
            ("", None),
            ("ms", None),
            ("1 s", None),
            ("-1s", None),
            ("1.s", None),
            ("1.2.3s", None),
            ("1S", None),
            ("99999999999999999999s", None),
            ("99999999999d", None),
        ] {
            let read = text.parse::<Span>().ok().map(|span| span.get().as_nanos());
            assert_eq!(read, want, "{text}");
        }
        assert_eq!("1MiB".parse::<Size>().map(Size::get), Ok(1 << 20));
        assert_eq!("1.5KB".parse::<Size>().map(Size::get), Ok(1_500));
        assert!("1mb".parse::<Size>().is_err());
    }

    #[test]
    fn errors_say_what_is_accepted() {
        let error = "20 sec".parse::<Span>().expect_err("not a duration").to_string();
        assert!(error.contains("20 sec") && error.contains("800ms"), "{error}");
        let error = serde_json::from_str::<Span>("20").expect_err("not a text").to_string();
        assert!(error.contains("800ms"), "{error}");
    }

    proptest! {
        #[test]
        fn what_prints_parses_to_the_same(n: u64, m: u32) {
            let span = Span::from(Duration::from_nanos(n));
            prop_assert_eq!(span.to_string().parse::<Span>(), Ok(span));
            let size = Size::from(m as usize);
            prop_assert_eq!(size.to_string().parse::<Size>(), Ok(size));
        }

        #[test]
        fn nothing_panics(text in "\\PC*") {
            let _ = text.parse::<Span>();
            let _ = text.parse::<Size>();
        }
    }
}

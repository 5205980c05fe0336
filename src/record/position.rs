//! Where a record lies in its shard.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Where a record lies in its shard: it orders, it prints, and what it prints parses to the same.
///
/// Integers (Kafka, NATS, files) and Redis' `ms-seq` pairs cost no allocation; numbers beyond 64 bits
/// (Kinesis has up to 56 digits) are compared as numbers; whatever else a transport has (a message
/// id, say) is text, ordered by its bytes. The kinds order integer < pair < text; a shard uses one.
///
/// ```
/// use streambreaker::Position;
///
/// let kinesis: Position = "49590338271490256608559692538361571095921575989136588898".parse()?;
/// assert!(kinesis > Position::from(u64::MAX));
/// assert!(Position::pair(1_700_000_000_000, 9) < Position::pair(1_700_000_000_000, 10));
/// assert_eq!("1700000000000-9".parse::<Position>()?, Position::pair(1_700_000_000_000, 9));
/// # Ok::<(), streambreaker::record::ParsePositionError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Position(Repr);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Repr {
    Int(u64),
    Pair(u64, u64),
    /// All that is longer, in one variant: dropping a position is one question then.
    Long(Kind, Arc<str>),
}

/// What a long position is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// A number of more than 64 bits: decimal digits without leading zeros.
    Digits,
    Text,
}

/// A position that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("a position must not be empty or longer than {max} bytes", max = Position::MAX_LEN)]
pub struct ParsePositionError(());

impl Position {
    /// The longest text that is taken as a position, in bytes.
    pub const MAX_LEN: usize = 1024;

    /// A position of two numbers, ordered by the first, then the second; prints as `first-second`.
    pub const fn pair(first: u64, second: u64) -> Self {
        Self(Repr::Pair(first, second))
    }

    /// The number, where it is one of at most 64 bits.
    pub fn as_u64(&self) -> Option<u64> {
        match self.0 {
            Repr::Int(n) => Some(n),
            _ => None,
        }
    }

    /// The least position behind this one: where a range begins that begins right behind it. Whether a record lies there
    /// only its transport knows. Of a text it is the text and NUL. None where what follows has no name: behind the last
    /// pair, and behind a text or a number of [`MAX_LEN`](Self::MAX_LEN) bytes.
    ///
    /// ```
    /// use streambreaker::Position;
    ///
    /// assert_eq!(Position::from(9).successor(), Some(Position::from(10)));
    /// assert_eq!(Position::pair(7, u64::MAX).successor(), Some(Position::pair(8, 0)));
    /// ```
    pub fn successor(&self) -> Option<Self> {
        let repr = match &self.0 {
            Repr::Int(n) => match n.checked_add(1) {
                Some(next) => Repr::Int(next),
                None => Repr::Long(Kind::Digits, (u128::from(*n) + 1).to_string().into()),
            },
            Repr::Pair(a, b) => match b.checked_add(1) {
                Some(b) => Repr::Pair(*a, b),
                None => Repr::Pair(a.checked_add(1)?, 0),
            },
            Repr::Long(Kind::Digits, digits) => {
                let kept = digits.trim_end_matches('9');
                let nines = digits.len() - kept.len();
                let (rest, last) = kept.split_at(kept.len().saturating_sub(1));
                let last = last.bytes().next().map_or(1, |digit| digit - b'0' + 1);
                let next = format!("{rest}{last}{}", "0".repeat(nines));
                Repr::Long(Kind::Digits, (next.len() <= Self::MAX_LEN).then_some(next)?.into())
            }
            Repr::Long(Kind::Text, text) => {
                let next = (text.len() < Self::MAX_LEN).then(|| format!("{text}\0"))?;
                Repr::Long(Kind::Text, next.into())
            }
        };
        Some(Self(repr))
    }
}

impl From<u64> for Position {
    fn from(n: u64) -> Self {
        Self(Repr::Int(n))
    }
}

/// A number as a transport prints it: no sign, no leading zero.
fn canonical(text: &str) -> bool {
    text == "0"
        || (!text.starts_with('0') && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
}

impl FromStr for Position {
    type Err = ParsePositionError;

    /// Reads what `Display` prints. Numbers with leading zeros are text, so that nothing is changed.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > Self::MAX_LEN {
            return Err(ParsePositionError(()));
        }
        if canonical(text) {
            return Ok(Self(match text.parse() {
                Ok(n) => Repr::Int(n),
                Err(_) => Repr::Long(Kind::Digits, text.into()),
            }));
        }
        if let Some((a, b)) = text.split_once('-') {
            if canonical(a) && canonical(b) {
                if let (Ok(a), Ok(b)) = (a.parse(), b.parse()) {
                    return Ok(Self(Repr::Pair(a, b)));
                }
            }
        }
        Ok(Self(Repr::Long(Kind::Text, text.into())))
    }
}

impl TryFrom<String> for Position {
    type Error = ParsePositionError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Position> for String {
    fn from(position: Position) -> Self {
        position.to_string()
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Int(n) => write!(f, "{n}"),
            Repr::Pair(a, b) => write!(f, "{a}-{b}"),
            Repr::Long(_, text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Position({self})")
    }
}

impl Ord for Position {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Repr::Int(a), Repr::Int(b)) => a.cmp(b),
            // what most transports have is compared where it is asked for, the rest here
            _ => self.cmp_any(other),
        }
    }
}

impl Position {
    fn cmp_any(&self, other: &Self) -> Ordering {
        use Kind::{Digits, Text};
        use Repr::{Int, Long, Pair};
        let rank = |r: &Repr| match r {
            Int(_) => 0,
            Long(Digits, _) => 1, // canonical, so always above any 64-bit number
            Pair(..) => 2,
            Long(Text, _) => 3,
        };
        match (&self.0, &other.0) {
            (Int(a), Int(b)) => a.cmp(b),
            (Long(Digits, a), Long(Digits, b)) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
            (Pair(a, b), Pair(c, d)) => (a, b).cmp(&(c, d)),
            (Long(Text, a), Long(Text, b)) => a.cmp(b),
            (a, b) => rank(a).cmp(&rank(b)),
        }
    }
}

impl PartialOrd for Position {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn p(text: &str) -> Position {
        text.parse().expect("a position")
    }

    #[test]
    fn numbers_order_as_numbers() {
        assert!(p("9") < p("10"));
        assert!(p("18446744073709551615") < p("18446744073709551616"));
        let kinesis = "49590338271490256608559692538361571095921575989136588898";
        let later = "49590338271490256608559692540925702759324208523137515618";
        assert!(p(kinesis) < p(later));
        assert!(p("99") < p(kinesis));
    }

    #[test]
    fn pairs_order_by_both() {
        assert!(p("5-10") > p("5-9"));
        assert!(p("6-0") > p("5-99"));
    }

    #[test]
    fn an_integer_position_is_small() {
        assert!(std::mem::size_of::<Position>() <= 24);
    }

    #[test]
    fn an_empty_or_endless_position_is_refused() {
        assert!("".parse::<Position>().is_err());
        assert!("x".repeat(1025).parse::<Position>().is_err());
    }

    #[test]
    fn what_has_no_name_is_no_successor() {
        assert_eq!(Position::from(u64::MAX).successor(), Some(p("18446744073709551616")));
        assert_eq!(p("99999999999999999999").successor(), Some(p("100000000000000000000")));
        assert_eq!(p("m-1").successor(), Some(p("m-1\0")));
        for last in [Position::pair(u64::MAX, u64::MAX), p(&"9".repeat(1024)), p(&"x".repeat(1024))]
        {
            assert_eq!(last.successor(), None);
        }
    }

    proptest! {
        #[test]
        fn what_prints_parses_to_the_same(text in "[0-9]{1,60}|[0-9]{1,20}-[0-9]{1,20}|[a-z0-9-]{1,40}") {
            let position = p(&text);
            prop_assert_eq!(position.to_string(), text.clone());
            prop_assert_eq!(p(&position.to_string()), position);
        }

        #[test]
        fn between_a_position_and_its_successor_lies_none(
            text in "[0-9]{1,60}|9{15,25}|[0-9]{1,20}-[0-9]{1,20}|[0-9]{1,5}-18446744073709551615|[a-z0-9-]{1,12}",
            other in "[0-9]{1,60}|[0-9]{1,20}-[0-9]{1,20}|[a-z0-9-]{1,12}",
            tail in "[\\x00-\\x02a]{0,2}",
        ) {
            let position = p(&text);
            let next = position.successor().expect("it has a name");
            prop_assert!(position < next);
            prop_assert_eq!(p(&next.to_string()), next.clone(), "it prints and parses");
            for other in [p(&other), p(&format!("{text}{tail}"))] {
                prop_assert!(other <= position || other >= next, "{} lies between", other);
            }
        }

        #[test]
        fn order_of_numbers_is_numeric(a in any::<u128>(), b in any::<u128>()) {
            prop_assert_eq!(p(&a.to_string()).cmp(&p(&b.to_string())), a.cmp(&b));
        }
    }
}

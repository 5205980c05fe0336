//! Times on a command line.

use std::str::FromStr;
use std::time::Duration;

use streambreaker::Timestamp;
use streambreaker::config::Span;

/// A moment: by itself, or so long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    At(Timestamp),
    Ago(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("accepted: 2026-11-26T08:00:00Z, 2026-11-26 (UTC), or how long ago: 90s, 15m, 2h, 7d")]
pub(crate) struct NoMoment;

impl FromStr for Moment {
    type Err = NoMoment;

    fn from_str(text: &str) -> Result<Self, NoMoment> {
        if let Ok(span) = text.parse::<Span>() {
            return Ok(Moment::Ago(span.get()));
        }
        let day = || format!("{text}T00:00:00Z").parse();
        text.parse().or_else(|_| day()).map(Moment::At).map_err(|_| NoMoment)
    }
}

impl Moment {
    pub(crate) fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Moment::At(time) => time,
            Moment::Ago(span) => {
                let micros = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
                Timestamp::from_micros(now.as_micros().saturating_sub(micros))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_a_day_or_so_long_ago() {
        let now: Timestamp = "2026-11-26T08:00:00Z".parse().unwrap();
        let at = |text: &str| text.parse::<Moment>().unwrap().before(now).to_string();
        assert_eq!(at("2026-11-25T08:00:00+01:00"), "2026-11-25T07:00:00.000000Z");
        assert_eq!(at("2026-11-25"), "2026-11-25T00:00:00.000000Z");
        assert_eq!(at("15m"), "2026-11-26T07:45:00.000000Z");
        assert_eq!(at("7d"), "2026-11-19T08:00:00.000000Z");
        for bad in ["", "yesterday", "2026-11-31", "15", "2026-11-25T08:00:00", "-2h", "15 m"] {
            assert!(bad.parse::<Moment>().is_err(), "{bad}");
        }
    }
}

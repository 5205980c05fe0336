//! The events, and when they are good enough.

use serde::Deserialize;
use streambreaker::Event;

#[derive(Deserialize)]
pub(crate) struct Flight {
    pub(crate) id: String,
    /// When it left, or should have, in milliseconds since 1970.
    pub(crate) timestamp: i64,
    flight: Details,
}

#[derive(Deserialize)]
struct Details {
    carrier: String,
    number: u32,
    tailnum: Option<String>,
    origin: String,
    dest: String,
    scheduled: String,
    arr_delay: Option<i64>,
}

/// What is wrong with a flight that is not good enough.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("it has no arrival delay: it was diverted")]
    Diverted,
    #[error("the day for which it was scheduled cannot be read")]
    NoDay,
    #[error("it has no tail number")]
    NoTailNumber,
}

impl Flight {
    pub(crate) fn has_arrived(&self) -> Result<(), Unfit> {
        self.arrival_delay()?;
        let day = self.flight.scheduled.get(..11).ok_or(Unfit::NoDay)?.as_bytes();
        let shape = b"0000-00-00T";
        let fits = day.iter().zip(shape).all(|(c, as_in)| match as_in {
            b'0' => c.is_ascii_digit(),
            other => c == other,
        });
        if fits { Ok(()) } else { Err(Unfit::NoDay) }
    }

    pub(crate) fn has_aircraft(&self) -> Result<(), Unfit> {
        self.tailnum().map(|_| ())
    }

    pub(crate) fn arrival_delay(&self) -> Result<i64, Unfit> {
        self.flight.arr_delay.ok_or(Unfit::Diverted)
    }

    pub(crate) fn tailnum(&self) -> Result<&str, Unfit> {
        self.flight.tailnum.as_deref().filter(|t| !t.is_empty()).ok_or(Unfit::NoTailNumber)
    }

    pub(crate) fn origin(&self) -> &str {
        &self.flight.origin
    }

    pub(crate) fn dest(&self) -> &str {
        &self.flight.dest
    }

    /// The day for which it was scheduled, in UTC.
    pub(crate) fn day(&self) -> &str {
        self.flight.scheduled.get(..10).unwrap_or_default()
    }
}

/// A cancelled flight as the search index has it.
#[derive(Clone)]
pub(crate) struct Cancelled {
    pub(crate) id: String,
    pub(crate) text: String,
}

impl From<Event<Flight>> for Cancelled {
    fn from(event: Event<Flight>) -> Self {
        let Flight { id, flight, .. } = event.into_inner();
        let Details { carrier, number, tailnum, origin, dest, scheduled, .. } = flight;
        let tailnum = tailnum.unwrap_or_default();
        Self { id, text: format!("{carrier} {number} {tailnum} {origin} {dest} {scheduled}") }
    }
}

//! Times as producers write them.

use super::scan::Raw;
use crate::record::Timestamp;

/// A number of milliseconds, or a string by RFC 3339.
pub(super) fn millis_or_rfc3339(raw: Raw<'_>) -> Option<Timestamp> {
    let json = raw.get();
    if let Ok(millis) = json.parse::<i64>() {
        return Some(Timestamp::from_millis(millis));
    }
    if json.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        let millis: f64 = json.parse().ok()?;
        // `as` saturates, as `Timestamp` does
        return millis.is_finite().then(|| Timestamp::from_micros((millis * 1e3).round() as i64));
    }
    rfc3339(&raw.text()?)
}

/// A date and time by RFC 3339, also with a signed year of up to six digits (ISO 8601 expanded), as
/// `Timestamp` prints them. Digits below a microsecond are cut off; a leap second is the next one's
/// first.
pub(crate) fn rfc3339(text: &str) -> Option<Timestamp> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let signed = rest.len() != text.len();
    let (year, rest) = rest.split_once('-')?;
    let width = if signed { 4..=6 } else { 4..=4 };
    if !width.contains(&year.len()) {
        return None;
    }
    let year = number(year)?;
    let bytes = rest.as_bytes();
    // MM-DDTHH:MM:SS
    if !rest.is_ascii() || bytes.len() < 15 {
        return None;
    }
    let shape = bytes[2] == b'-'
        && matches!(bytes[5], b'T' | b't' | b' ')
        && bytes[8] == b':'
        && bytes[11] == b':';
    if !shape {
        return None;
    }
    let (month, day) = (number(&rest[..2])?, number(&rest[3..5])?);
    let (hour, minute, second) =
        (number(&rest[6..8])?, number(&rest[9..11])?, number(&rest[12..14])?);
    let year = if negative { -year } else { year };
    let valid = (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !valid {
        return None;
    }
    let (micros, zone) = fraction(&rest[14..])?;
    let seconds =
        days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset(zone)? * 60;
    // the first microseconds of all are of a second that begins before them
    let micros = i128::from(seconds) * 1_000_000 + i128::from(micros);
    let saturated = if micros < 0 { i64::MIN } else { i64::MAX };
    Some(Timestamp::from_micros(i64::try_from(micros).unwrap_or(saturated)))
}

/// Digits only: `parse` by itself takes a sign.
fn number(digits: &str) -> Option<i64> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// The microseconds of `.123…`, and what follows it.
fn fraction(rest: &str) -> Option<(i64, &str)> {
    let Some(fraction) = rest.strip_prefix('.') else { return Some((0, rest)) };
    let end = fraction.bytes().take_while(u8::is_ascii_digit).count();
    if end == 0 {
        return None;
    }
    let micros = fraction[..end.min(6)].parse::<i64>().ok()?;
    let scale = 10_i64.pow(6 - end.min(6) as u32);
    Some((micros * scale, &fraction[end..]))
}

/// Minutes east of UTC.
fn offset(zone: &str) -> Option<i64> {
    match zone.as_bytes() {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (number(&zone[1..3])?, number(&zone[4..6])?);
            let east = hours * 60 + minutes;
            (hours < 24 && minutes < 60).then_some(if *sign == b'-' { -east } else { east })
        }
        _ => None,
    }
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The number of a day counted from 1970-01-01 (the era arithmetic of H. Hinnant,
/// "chrono-compatible low-level date algorithms").
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_read() {
        for (text, printed) in [
            ("2013-01-01T10:17:00Z", "2013-01-01T10:17:00.000000Z"),
            ("2013-01-01 05:17:00.5-05:00", "2013-01-01T10:17:00.500000Z"),
            ("2020-02-29t23:59:60.123456789z", "2020-03-01T00:00:00.123456Z"),
            ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00.000000Z"),
            ("+99999-12-31T00:00:00Z", "+99999-12-31T00:00:00.000000Z"),
            ("-0001-12-31T23:59:59.999999Z", "-0001-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(
                rfc3339(text).map(|time| time.to_string()).as_deref(),
                Some(printed),
                "{text}"
            );
        }
    }

    #[test]
    fn nonsense_is_not() {
        for text in [
            "",
            "-",
            "2013",
            "2013-01-01",
            "2013-02-29T00:00:00Z",
            "2013-13-01T00:00:00Z",
            "2013-01-01T24:00:00Z",
            "2013-01-01T00:00:00",
            "2013-01-01T00:00:00.Z",
            "2013-01-01T00:00:00+24:00",
            "2013-01-01T00:00:00Zx",
            "99999-01-01T00:00:00Z",
            "2013-01-01T+1:00:00Z",
            "2013-01-0ü:00:00:00Z",
            "+2013-üü-01T00:00:00Z",
            "ü013-01-01T00:00:00Z",
        ] {
            assert_eq!(rfc3339(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_prints_is_read_back(micros in -31_000_000_000_000_000_000i128..31_000_000_000_000_000_000) {
            let micros = i64::try_from(micros / 4).expect("within 64 bits");
            let time = Timestamp::from_micros(micros);
            prop_assert_eq!(rfc3339(&time.to_string()), Some(time));
        }

        #[test]
        fn any_text_is_survived(text in "\\PC*", like in "[+-]?[0-9]{0,7}-[0-9ü]{2}-[0-9]{2}T[0-9:.+Z-]{0,20}") {
            let _ = (rfc3339(&text), rfc3339(&like));
        }
    }
}

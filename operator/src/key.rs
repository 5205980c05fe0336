//! Keys of the transport, which are bytes: on a command line, and as they are shown.

use std::str::FromStr;

use crate::text::escaped;

/// Begins a key that is given, or shown, in hexadecimal digits.
const HEX: &str = "hex:";

/// A key: the text itself, or `hex:00ff`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) Vec<u8>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("accepted: a text, or after `hex:` two hexadecimal digits a byte: hex:00ff")]
pub(crate) struct NoKey;

impl FromStr for Key {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        let Some(digits) = text.strip_prefix(HEX) else { return Ok(Self(text.into())) };
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) || digits.len() % 2 != 0 {
            return Err(NoKey);
        }
        let pair = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| NoKey);
        (0..digits.len()).step_by(2).map(pair).collect::<Result<_, _>>().map(Self)
    }
}

/// A key as a command takes it: as text where that is what it would be read as, and can be copied from a terminal.
pub(crate) fn key_shown(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.starts_with(HEX) && escaped(text) == text => text.to_owned(),
        _ => format!("{HEX}{}", hex(key)),
    }
}

/// Bytes in hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_as_it_is_shown() {
        let keys: [(&[u8], &str); 6] = [
            (b"customer-7", "customer-7"),
            ("Grüße".as_bytes(), "Grüße"),
            (b"", ""),
            (b"\x00\xff", "hex:00ff"),
            (b"a\x1b[2J", "hex:611b5b324a"),
            (b"hex:00", "hex:6865783a3030"),
        ];
        for (bytes, shown) in keys {
            assert_eq!(key_shown(bytes), shown);
            assert_eq!(shown.parse::<Key>().unwrap().0, bytes, "{shown}");
        }
        assert_eq!("hex:00FF".parse(), Ok(Key(vec![0, 255])));
        for bad in ["hex:0", "hex:0g", "hex:+1", "hex:ä"] {
            assert_eq!(bad.parse::<Key>(), Err(NoKey), "{bad}");
        }
    }
}

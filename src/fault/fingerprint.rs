//! What faults of one kind share, so that ten thousand of them are one line in a log.

use uuid::Uuid;

use super::NAMESPACE;
use crate::error::Class;

/// 16 hexadecimal digits that are the same for faults of one kind: same class, stage and error type,
/// and the same message but for numbers, ids and quoted parts.
///
/// A word with a digit in it counts as a number or id, and so does one of eight or more hexadecimal
/// letters; runs of them (`10.0.0.7:443`, `1.5`) count as one.
///
/// ```
/// use streambreaker::error::Class;
/// use streambreaker::fault::fingerprint;
///
/// let of = |message| fingerprint(Class::Fault, "call", "NotFound", message);
/// assert_eq!(of("order 17 of 'Smith' not found"), of("order 4711 of 'O Neill' not found"));
/// assert_ne!(of("order 17 not found"), of("customer 17 not found"));
/// ```
pub fn fingerprint(class: Class, stage: &str, name: &str, message: &str) -> String {
    let mut hashed = Vec::with_capacity(64 + message.len());
    let message = skeleton(message);
    for part in [class.as_str(), stage, name, &message] {
        hashed.extend_from_slice(&(part.len() as u64).to_be_bytes());
        hashed.extend_from_slice(part.as_bytes());
    }
    let id = Uuid::new_v5(&NAMESPACE, &hashed).simple().to_string();
    id[..16].to_owned()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

fn is_id(word: &str) -> bool {
    word.bytes().any(|b| b.is_ascii_digit())
        || (word.len() >= 8 && word.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-'))
}

/// The message with `#` for numbers and ids and `?` for quoted parts. Linear.
fn skeleton(message: &str) -> String {
    let bytes = message.as_bytes();
    let mut out = String::with_capacity(message.len());
    // a quote that is never closed is looked for once
    let mut unclosed = [false; 3];
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if is_word(byte) {
            let end = bytes[at..].iter().position(|b| !is_word(*b)).map_or(bytes.len(), |n| at + n);
            let word = &message[at..end];
            if is_id(word) {
                // `1.5` and `1` are both a number
                let trimmed = out.trim_end_matches(['.', ',', ':', '+', '/']).len();
                if out[..trimmed].ends_with('#') {
                    out.truncate(trimmed);
                } else {
                    out.push('#');
                }
            } else {
                out.push_str(word);
            }
            at = end;
            continue;
        }
        let quote = [b'\'', b'"', b'`'].iter().position(|quote| *quote == byte);
        if let Some(kind) = quote {
            // an apostrophe stands behind a letter
            let opens = at == 0 || !bytes[at - 1].is_ascii_alphanumeric();
            if opens && !unclosed[kind] {
                match closing(bytes, at) {
                    Some(end) => {
                        out.push('?');
                        at = end + 1;
                        continue;
                    }
                    None => unclosed[kind] = true,
                }
            }
        }
        let next = (at + 1..bytes.len()).find(|n| message.is_char_boundary(*n));
        let next = next.unwrap_or(bytes.len());
        out.push_str(&message[at..next]);
        at = next;
    }
    out
}

/// Where the quote that opens at `open` closes: the next one that is no apostrophe.
fn closing(bytes: &[u8], open: usize) -> Option<usize> {
    (open + 1..bytes.len()).find(|at| {
        bytes[*at] == bytes[open] && !bytes.get(at + 1).is_some_and(u8::is_ascii_alphanumeric)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn skeletons_are_what_is_left() {
        for (message, left) in [
            ("connect to 10.0.0.7:443 failed after 1,500.25 ms", "connect to # failed after # ms"),
            ("can't find 'it's me' in \"x\"", "can't find ? in ?"),
            ("id deadbeef-cafe-babe of cus_8Fa2", "id # of #"),
            ("key 'unclosed", "key 'unclosed"),
            ("größe -5 ≠ 7", "größe # ≠ #"),
            ("a decade", "a decade"),
        ] {
            assert_eq!(skeleton(message), left);
        }
    }

    #[test]
    fn class_stage_type_and_words_matter() {
        let base = fingerprint(Class::Fault, "a", "b", "c");
        assert_eq!(base.len(), 16);
        assert_ne!(base, fingerprint(Class::Panic, "a", "b", "c"));
        assert_ne!(base, fingerprint(Class::Fault, "A", "b", "c"));
        assert_ne!(base, fingerprint(Class::Fault, "a", "B", "c"));
        assert_ne!(base, fingerprint(Class::Fault, "a", "b", "C"));
        assert_ne!(base, fingerprint(Class::Fault, "ab", "", "c"));
    }

    proptest! {
        #[test]
        fn numbers_ids_and_quoted_parts_do_not_change_it(
            n in any::<i64>(), f in -1e9f64..1e9, id in any::<u128>(), text in "[a-z ]{0,20}",
        ) {
            let of = |n: i64, f: f64, id: u128, text: &str| {
                let id = Uuid::from_u128(id);
                let message = format!("order {n} ({f}) of {id}/{} said '{text}'", id.simple());
                fingerprint(Class::Fault, "call", "E", &message)
            };
            prop_assert_eq!(of(n, f, id, &text), of(1, 1.0, 1, ""));
        }

        #[test]
        fn any_text_has_one(message in "\\PC*") {
            prop_assert_eq!(fingerprint(Class::Fault, "", "", &message).len(), 16);
        }
    }
}

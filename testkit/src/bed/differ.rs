//! What differs between two values, for a person who reads a failed test.

use std::fmt::Debug;

/// How many differing lines are shown.
const SHOWN: usize = 20;

/// The lines in which two values differ, as `Debug` prints them.
pub(super) fn difference(expected: &impl Debug, found: &impl Debug) -> String {
    let (expected, found) = (format!("{expected:#?}"), format!("{found:#?}"));
    let (a, b): (Vec<_>, Vec<_>) = (expected.lines().collect(), found.lines().collect());
    let before = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let shorter = a.len().min(b.len()) - before;
    let behind =
        a.iter().rev().zip(b.iter().rev()).take(shorter).take_while(|(a, b)| a == b).count();
    let lines = |sign: char, lines: &[&str]| {
        let mut shown: Vec<String> =
            lines.iter().take(SHOWN).map(|line| format!("  {sign} {line}")).collect();
        if lines.len() > SHOWN {
            shown.push(format!("  {sign} … {} more lines", lines.len() - SHOWN));
        }
        shown
    };
    let mut all = Vec::new();
    // a line before it says where it is
    all.extend(before.checked_sub(1).map(|last| format!("    {}", a[last])));
    all.extend(lines('-', &a[before..a.len() - behind]));
    all.extend(lines('+', &b[before..b.len() - behind]));
    all.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shows_the_lines_that_differ_and_no_others() {
        let text = difference(&[1, 2, 3, 4], &[1, 2, 9, 4]);
        assert_eq!(text, "        2,\n  -     3,\n  +     9,");
        let text = difference(&[1, 1], &[1, 1, 1]);
        assert!(text.contains("+     1,") && !text.contains('-'), "{text}");
        assert_eq!(difference(&1, &2), "  - 1\n  + 2");
        assert!(difference(&[0; 1], &[7; 100]).contains("more lines"));
    }
}

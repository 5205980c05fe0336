//! How long the texts of a fault event may get. Its records are never cut.

use super::event::FaultEvent;

/// The most that error name, message, stack and derived value take together, in bytes: 64 KiB.
pub const TEXT_CAP: usize = 64 * 1024;

/// The shares in which the message and the stack may use of it; the derived value gets what is left.
const NAME: usize = 1024;
const MESSAGE: usize = 16 * 1024;
const STACK: usize = 16 * 1024;

/// Far above the cap: what a scrubber sees at most. A handler may format a payload of 64 MiB into its
/// error, and looking for secrets in all of it would stall the lane.
const PRECUT: usize = 4 * TEXT_CAP;

/// Cuts `text` to at most `max` bytes, at the boundary of a character, and says so at its end.
pub(super) fn cut(text: &mut String, max: usize) {
    if text.len() <= max {
        return;
    }
    let marker = format!("…[cut from {} bytes]", text.len());
    let room = max.saturating_sub(marker.len());
    // `str::floor_char_boundary` is younger than the oldest supported compiler
    let at = (0..=room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.truncate(at);
    if marker.len() <= max {
        text.push_str(&marker);
    }
    text.shrink_to_fit();
}

pub(super) fn precut(event: &mut FaultEvent) {
    let err = &mut event.err;
    for text in [&mut err.message, &mut err.stack].into_iter().chain(&mut event.derived) {
        cut(text, PRECUT);
    }
}

pub(super) fn cap(event: &mut FaultEvent) {
    let err = &mut event.err;
    cut(&mut err.name, NAME);
    cut(&mut err.message, MESSAGE);
    cut(&mut err.stack, STACK);
    let left = TEXT_CAP - err.name.len() - err.message.len() - err.stack.len();
    if let Some(derived) = &mut event.derived {
        cut(derived, left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;
    use crate::fault::Scrub;
    use proptest::prelude::*;

    #[test]
    fn all_texts_together_stay_within_the_cap() {
        let mut fault = FaultEvent::new("p", "q", "r", Class::Fault, vec![]);
        fault.err.name = "n".repeat(1 << 20);
        fault.err.message = "ü".repeat(1 << 20);
        fault.err.stack = "at\n".repeat(1 << 20);
        fault.derived = Some("{}".repeat(1 << 20));
        let fault = fault.finish(&Scrub);
        let derived = fault.derived.expect("a derived value");
        let err = fault.err;
        let all = err.name.len() + err.message.len() + err.stack.len() + derived.len();
        assert!(all <= TEXT_CAP && all > TEXT_CAP - 16, "{all}");
        assert!(derived.ends_with(" bytes]"));
    }

    proptest! {
        #[test]
        fn a_cut_is_short_enough_and_valid(text in "\\PC{0,80}", max in 0usize..100) {
            let mut short = text.clone();
            cut(&mut short, max);
            prop_assert!(short.len() <= max);
            if text.len() <= max {
                prop_assert_eq!(short, text);
            }
        }
    }
}

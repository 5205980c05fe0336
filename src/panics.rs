//! What the standard library prints of a panic, before anybody can catch it.

use std::panic;

/// Keeps the messages of panics off the terminal: prints where it happened, and not what it said.
///
/// A panic in a handler is a fault of its unit, and its message is in the fault event, scrubbed. But before this
/// crate catches it the standard panic hook has written the message to stderr, which is a log wherever a
/// component runs in a container; and `assert_eq!` on a payload quotes the payload. A library does not replace a
/// hook unasked, so `main` of a component that handles secrets calls this first.
///
/// It is for the whole process, and replaces a hook that was there. A backtrace is printed as before, if
/// `RUST_BACKTRACE` asks for one.
///
/// ```
/// streambreaker::hide_panic_messages();
/// ```
pub fn hide_panic_messages() {
    panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("<unnamed>").escape_debug().to_string();
        let place = info.location().map_or_else(|| "somewhere".to_owned(), ToString::to_string);
        let backtrace = std::backtrace::Backtrace::capture();
        let backtrace = match backtrace.status() {
            std::backtrace::BacktraceStatus::Captured => format!("\n{backtrace}"),
            _ => String::new(),
        };
        eprintln!("thread '{name}' panicked at {place}; its message is withheld{backtrace}");
    }));
}

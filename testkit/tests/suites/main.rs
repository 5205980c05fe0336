//! A suite is worth nothing if it cannot fail: a transport that breaks a rule is caught by the test of that rule.

#![allow(clippy::unwrap_used)] // a test may

mod sinks;
mod sources;
mod stages;

/// Whether a rule panics. The message is hidden: it is expected.
fn fails(rule: impl FnOnce()) -> bool {
    let quiet = std::sync::LazyLock::force(&QUIET);
    let _ = quiet;
    EXPECTED.set(true);
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(rule)).is_err();
    EXPECTED.set(false);
    failed
}

thread_local! {
    static EXPECTED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

static QUIET: std::sync::LazyLock<()> = std::sync::LazyLock::new(|| {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !EXPECTED.get() {
            print(panic);
        }
    }));
});

//! A suite is worth nothing if it cannot fail: a transport that breaks a rule is caught by the test of that rule.

#![allow(clippy::unwrap_used)] // a test may

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

mod sinks;
mod sources;
mod stages;

/// Whether a rule panics. The message is hidden: it is expected.
fn fails(rule: impl FnOnce()) -> bool {
    LazyLock::force(&QUIET);
    EXPECTED.set(true);
    let failed = catch_unwind(AssertUnwindSafe(rule)).is_err();
    EXPECTED.set(false);
    failed
}

thread_local! {
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

static QUIET: LazyLock<()> = LazyLock::new(|| {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !EXPECTED.get() {
            print(panic);
        }
    }));
});

//! What of a panic reaches the terminal.

use std::process::Command;

const CHILD: &str = "STREAMBREAKER_TEST_PANICS";

/// Not a test by itself: panics in a process of its own, where the test below asks for it.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_some() {
        streambreaker::hide_panic_messages();
        let _ = std::panic::catch_unwind(|| panic!("canary {}", "7f3a91"));
        eprintln!("went on");
    }
}

#[test]
fn l12_the_message_of_a_panic_is_withheld_and_its_place_is_not() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("panicked at tests/panics.rs:"), "{text}");
    assert!(text.contains("went on") && !text.contains("canary"), "{text}");
}

//! The simulator's own test: bugs that are planted in the core must be seen.
//!
//! Needs a core that is built with `--cfg sim_bug`: `scripts/planted-bugs` does that. Each bug is looked for in
//! a process of its own, because the bug that lives is a property of the process.

use std::process::Command;

use streambreaker_testkit::sim::{Case, Scenario, run};

/// Seeds a scenario within which a bug must have been seen.
const SEEDS: u64 = 60;

/// A bug, the scenarios in each of which it must be seen, and the rules that may tell.
type Planted = (&'static str, &'static [Scenario], &'static [&'static str]);

const BUGS: &[Planted] = &[
    ("commit-before-done", &[Scenario::Plain], &["I1", "O7"]),
    ("fault-not-awaited", &[Scenario::Plain], &["I1"]),
    ("first-record-only", &[Scenario::Grouped], &["F2", "I1"]),
    ("last-group-dropped", &[Scenario::Grouped], &["I1"]),
    ("no-timeout", ATTEMPTS, &["T3"]),
    ("exhausted-is-done", &[Scenario::Plain], &["I1"]),
    ("key-released-during-retry", &[Scenario::Keyed], &["O1"]),
    ("permit-leaked-on-cancel", &[Scenario::Rate], &["I4", "I7"]),
    ("accepted-sent-again", &[Scenario::Bulk], &["K2"]),
    ("returned-lost-on-restart", &[Scenario::Plain], &["I4", "S5"]),
    ("lost-wake-up", &[Scenario::Plain], &["I4", "T3"]),
    ("neighbour-cancelled", &[Scenario::Plain], &["O12"]),
    ("settled-not-in-flight", &[Scenario::Plain], &["O7"]),
];

/// Every way to call a handler, a sink or a ledger: no attempt is without a timeout.
const ATTEMPTS: &[Scenario] = &[
    Scenario::Plain,
    Scenario::Call,
    Scenario::Keyed,
    Scenario::Grouped,
    Scenario::Bulk,
    Scenario::Split,
    Scenario::Compact,
    Scenario::Publish,
    Scenario::Dedupe,
];

/// Looks for the bug that lives in this process.
#[test]
#[ignore = "looks for a bug that is planted in this process; see scripts/planted-bugs"]
fn look() {
    let Ok(bug) = std::env::var("SIM_BUG") else { return };
    let (_, scenarios, rules) = BUGS.iter().find(|(name, ..)| *name == bug).expect("a known bug");
    for scenario in *scenarios {
        let mut cases = (0..SEEDS).map(|seed| Case::new(*scenario, seed));
        let seen = cases.find_map(|case| run(&case).failure.map(|failure| (case, failure)));
        let Some((case, failure)) = seen else {
            panic!("{bug}: not seen in {SEEDS} seeds of {scenario:?}");
        };
        assert!(rules.contains(&failure.rule), "seen by another rule: {failure} ({case})");
        println!("{bug}: seen at {case}: {failure}");
    }
}

#[test]
#[ignore = "needs a core with planted bugs: scripts/planted-bugs"]
fn every_planted_bug_is_seen() {
    if std::env::var_os("SIM_BUG").is_some() {
        return;
    }
    let only = std::env::var("SIM_PLANTED").unwrap_or_else(|_| "all".to_owned());
    let me = std::env::current_exe().expect("this test has a path");
    let mut missed = Vec::new();
    let mut looked = 0;
    for (bug, ..) in BUGS.iter().filter(|(bug, ..)| only == "all" || only == *bug) {
        looked += 1;
        let output = Command::new(&me)
            .args(["--exact", "look", "--ignored", "--nocapture"])
            .env("SIM_BUG", bug)
            .output()
            .expect("this test can be started again");
        let said = String::from_utf8_lossy(&output.stdout);
        match said.lines().rfind(|line| line.contains(": seen at ")) {
            Some(line) if output.status.success() => println!("{line}"),
            _ => missed.push(format!("{bug}\n{said}{}", String::from_utf8_lossy(&output.stderr))),
        }
    }
    assert!(looked > 0, "there is no bug `{only}`");
    assert!(missed.is_empty(), "{} of {looked} not seen:\n{}", missed.len(), missed.join("\n"));
}

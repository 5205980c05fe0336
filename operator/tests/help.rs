//! The help of every command, as it is printed: `STREAMBREAKER_BLESS=1 cargo test -p streambreaker-operator --test help` writes
//! `tests/help.txt` anew.

use clap::{CommandFactory, Parser};
use streambreaker_operator::Command;

#[derive(Parser)]
#[command(name = "orders", about = "A component")]
struct Line {
    #[command(subcommand)]
    #[allow(dead_code)] // it is the words that are looked at
    command: Command,
}

fn every(command: &clap::Command, path: &str, found: &mut Vec<(String, String)>) {
    let mut shown = command.clone().bin_name(path);
    found.push((path.to_owned(), shown.render_long_help().to_string()));
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        every(sub, &format!("{path} {}", sub.get_name()), found);
    }
}

fn helps() -> Vec<(String, String)> {
    let mut found = Vec::new();
    every(&Line::command(), "orders", &mut found);
    found
}

#[test]
fn the_help_of_every_command_is_as_written_down() {
    let text: String = helps()
        .iter()
        .map(|(path, help)| format!("==== {path} --help\n{}\n\n", help.trim_end()))
        .collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/help.txt");
    if std::env::var_os("STREAMBREAKER_BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap_or_default();
    let differs = text.lines().zip(golden.lines()).find(|(now, then)| now != then);
    assert!(
        text == golden,
        "the help has changed, first at {differs:?}: see the head of this file"
    );
}

#[test]
fn every_command_has_examples_and_takes_json() {
    let helps = helps();
    for (path, help) in &helps {
        // what only has words below it has no options
        let is_leaf = !helps.iter().any(|(other, _)| other.starts_with(&format!("{path} ")));
        if is_leaf {
            assert!(help.contains("Examples:\n  $0 ") && help.contains("--json"), "{path}: {help}");
        }
    }
    assert!(helps.len() > 20);
}

#[test]
fn what_changes_something_asks_why() {
    for (path, help) in helps() {
        let changes = [
            "replay",
            "repair",
            "resubmit",
            "dismiss",
            "forget",
            "pause",
            "resume",
            "breaker",
            "skip",
            "siphon o",
            "flood-guard o",
        ];
        if changes.iter().any(|word| path.contains(word)) {
            assert!(help.contains("--why") && help.contains("--who"), "{path}");
        }
    }
}

//! Says what `cargo test` alone does not run: packages whose tests need more than Rust.
//!
//! A program and not a test, because what a test prints is not shown when it passes.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

/// The value of `key = "value"`, wherever it stands.
fn value<'a>(manifest: &'a str, key: &str) -> Option<&'a str> {
    let value =
        manifest.lines().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix('='))?;
    Some(value.trim().trim_matches('"'))
}

fn main() -> ExitCode {
    let adapters = Path::new(env!("CARGO_MANIFEST_DIR")).join("adapters");
    // a package by itself, as it is published, has none
    let Ok(folders) = fs::read_dir(&adapters) else { return ExitCode::SUCCESS };
    let mut not_run = Vec::new();
    for folder in folders.flatten() {
        let Ok(manifest) = fs::read_to_string(folder.path().join("Cargo.toml")) else { continue };
        match (value(&manifest, "name"), value(&manifest, "needs")) {
            (Some(name), Some(needs)) => not_run.push(format!("{name} (needs {needs})")),
            _ => {
                eprintln!(
                    "{}: say under [package.metadata.streambreaker] what its tests need, as `needs = \"packages\"`",
                    folder.path().display()
                );
                return ExitCode::FAILURE;
            }
        }
    }
    not_run.sort();
    let all = std::env::var("STREAMBREAKER_TESTS").is_ok_and(|tests| tests == "all");
    if !all && !not_run.is_empty() {
        println!("\nnot run by `cargo test` alone: {}", not_run.join(", "));
        println!("scripts/test installs what they need, and runs everything\n");
    }
    ExitCode::SUCCESS
}

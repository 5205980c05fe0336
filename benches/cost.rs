//! What an event costs in the whole chain: instructions, counted by callgrind, and allocations.
//!
//! `scripts/cost` runs it. Every figure is the difference of two runs, of N and 2N events, divided by N, so
//! that start-up and shut-down cancel out; the making of the records lies outside of what is counted.
//!
//! Each variant is counted twice: while nobody listens to logs and metrics, and while a subscriber takes every line and a
//! recorder every metric. What lies between the two is what an event costs because somebody listens. What it costs that
//! somebody might is less than that, and is in the first figure: the code is always compiled in.

#[path = "chain/mod.rs"]
mod chain;
#[path = "../tests/heard/mod.rs"]
mod heard;

use std::alloc::System;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use chain::Handler;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Events of the shorter run: many batches, and many turns of the window of the breaker.
const EVENTS: u64 = 50_000;

/// A variant of the chain, and how many instructions an event may cost.
struct Variant {
    name: &'static str,
    handler: Handler,
    /// What it must not exceed: what it costs now, and a little, as compilers differ.
    limit: f64,
}

const VARIANTS: [Variant; 2] = [
    Variant { name: "ready", handler: Handler::Ready, limit: 430.0 },
    Variant { name: "yields", handler: Handler::Yields, limit: 750.0 },
];

/// What an event may cost more while somebody listens.
const HEARD: f64 = 5.0;

/// Allocations of 1,000 events: those of batches, turns and commits; one an event would be 1,000.
const ALLOCATIONS: f64 = 50.0;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        // what callgrind is given to count
        ["run", variant, events, who] => {
            let events = events.parse().expect("a number of events");
            match who {
                "heard" => listen(),
                _ => assert_eq!(who, "unheard"),
            }
            chain::run(&chain::runtime(), events, variant_named(variant).handler);
            ExitCode::SUCCESS
        }
        ["check"] => check(),
        _ => {
            allocations();
            println!("instructions an event: run scripts/cost");
            ExitCode::SUCCESS
        }
    }
}

fn variant_named(name: &str) -> &'static Variant {
    VARIANTS.iter().find(|variant| variant.name == name).expect("ready or yields")
}

fn check() -> ExitCode {
    let good = allocations();
    let Some(instructions) = VARIANTS
        .iter()
        .map(|variant| {
            let name = variant.name;
            Some((variant, instructions(name, "unheard")?, instructions(name, "heard")?))
        })
        .collect::<Option<Vec<_>>>()
    else {
        eprintln!(
            "instructions are counted by valgrind, which is not there: install the package `valgrind`"
        );
        return ExitCode::from(2);
    };
    let mut good = good;
    for (Variant { name, limit, .. }, found, heard) in instructions {
        let kept = verdict(found, *limit);
        println!("{name:<7} {found:>8.1} instructions an event, limit {limit} {kept}");
        let more = heard - found;
        let kept = verdict(more, HEARD);
        println!(
            "{name:<7} {more:>+8.1} while a subscriber and a recorder take all of it, limit {HEARD} {kept}"
        );
        good &= found <= *limit && more <= HEARD;
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn verdict(found: f64, limit: f64) -> &'static str {
    if found <= limit { "(kept)" } else { "(EXCEEDED)" }
}

/// Prints what 1,000 events allocate; whether that is within the limit.
fn allocations() -> bool {
    let count = |handler, events| {
        let runtime = chain::runtime();
        let (processor, _) = chain::processor(events, handler);
        let region = Region::new(ALLOCATOR);
        let report = chain::measured_run(&runtime, &processor);
        let change = region.change();
        assert_eq!(report.pipelines["all"].done, events);
        ((change.allocations + change.reallocations) as f64, change.bytes_allocated as f64)
    };
    VARIANTS.iter().fold(true, |good, variant| {
        let once = count(variant.handler, EVENTS);
        let twice = count(variant.handler, 2 * EVENTS);
        let a_thousand = EVENTS as f64 / 1_000.0;
        let (number, bytes) = ((twice.0 - once.0) / a_thousand, (twice.1 - once.1) / a_thousand);
        let verdict = verdict(number, ALLOCATIONS);
        println!(
            "{:<7} {number:>8.1} allocations ({bytes:.0} bytes) 1,000 events, limit {ALLOCATIONS} {verdict}",
            variant.name
        );
        good && number <= ALLOCATIONS
    })
}

/// Takes every line of the log, with its fields, and keeps every metric.
fn listen() {
    tracing::subscriber::set_global_default(heard::Heard::default()).expect("the first");
    metrics_util::debugging::DebuggingRecorder::new().install().expect("the first");
}

/// Instructions an event; `None` if there is no valgrind.
fn instructions(variant: &str, who: &str) -> Option<f64> {
    let once = callgrind(variant, EVENTS, who)?;
    let twice = callgrind(variant, 2 * EVENTS, who)?;
    Some((twice as f64 - once as f64) / EVENTS as f64)
}

fn callgrind(variant: &str, events: u64, who: &str) -> Option<u64> {
    let out = output(variant, events, who);
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*measured_run*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe().expect("a program knows its own path"))
        .args(["run", variant, &events.to_string(), who])
        .output();
    let run = match run {
        Ok(run) => run,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => panic!("valgrind does not start: {error}"),
    };
    let text = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "the run under callgrind failed:\n{text}");
    let total = total(&out).unwrap_or_else(|| panic!("no count in {}:\n{text}", out.display()));
    assert!(total > events, "callgrind counted nothing: is `measured_run` inlined?\n{text}");
    Some(total)
}

/// Where the profile stays, for `callgrind_annotate`.
fn output(variant: &str, events: u64, who: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_TMPDIR").map(PathBuf::from);
    let folder = target.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).to_owned());
    std::fs::create_dir_all(&folder).expect("a folder below target/");
    folder.join(format!("callgrind.{variant}.{who}.{events}"))
}

fn total(profile: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(profile).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("totals:").or(line.strip_prefix("summary:")))?;
    line.split_whitespace().next()?.parse().ok()
}

//! Runs the simulator: kept cases, random seeds of every scenario, and every kill point of small ones.
//!
//! `SIM_SEEDS=n` runs `n` seeds a scenario; `SIM_SEED=n` (with `SIM_SCENARIO=name`, or all) runs one and prints
//! the end of its trace; `SIM_CASE='…'` runs a case as a failure prints it; `SIM_GO_ON=1` does not stop at
//! the first failure; `SIM_EXHAUSTIVE=n` tries every pair of kill points, for `n` seeds. `scripts/simulate` runs all
//! this optimised.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use streambreaker_testkit::sim::{Case, Outcome, Scenario, run, shrink};

/// Seeds a scenario, unless told: few, because a plain `cargo test` runs them without optimisation.
const SEEDS: u64 = 6;

/// From so many seeds a scenario on, a run must have seen everything that is to be seen.
const ENOUGH: u64 = 40;

/// Scenarios of hours, which take seconds: they get one seed in so many.
const LONG: [Scenario; 3] = [Scenario::Outage, Scenario::FaultOutage, Scenario::Flood];
const LONG_EVERY: usize = 12;

/// A run that takes longer is named: such a seed is a finding too.
const SLOW: Duration = Duration::from_secs(5);

/// What some run has to see, or the simulator has become too tame.
const SOMETIMES: &[&str] = &[
    "breaker opened",
    "host answered",
    "paused",
    "calm",
    "circuit open",
    "commit lost",
    "compacted",
    "compacted unit faulted",
    "crash loop",
    "drain cut off",
    "extended",
    "fatal",
    "fault sink failed",
    "fenced",
    "flood guard tripped",
    "gap",
    "group faulted",
    "killed",
    "lease ran out",
    "left out",
    "lost",
    "no parts",
    "outage",
    "panic",
    "part faulted",
    "partial bulk",
    "published",
    "redelivered",
    "restart",
    "revoked",
    "skipped",
    "stolen",
    "timeout",
];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

fn kept() -> Vec<Case> {
    include_str!("../seeds.txt")
        .lines()
        .filter_map(|line| line.split('#').next())
        .filter(|line| !line.trim().is_empty())
        .map(|line| line.parse().expect("a line of seeds.txt is a case"))
        .collect()
}

/// Runs cases on all cores. The first that fails is shrunk, printed, and ends everything; with `SIM_GO_ON=1` the
/// others run all the same, and each that fails is named.
fn run_all(cases: &[Case]) -> BTreeMap<&'static str, u64> {
    let go_on = std::env::var("SIM_GO_ON").is_ok_and(|text| text == "1");
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<Case>> = Mutex::new(None);
    let sometimes: Mutex<BTreeMap<&'static str, u64>> = Mutex::default();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while go_on || failed.lock().unwrap().is_none() {
                    let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                    let began = std::time::Instant::now();
                    let outcome = run(case);
                    if began.elapsed() > SLOW {
                        eprintln!("slow: {:?} for {case}", began.elapsed());
                    }
                    if let Some(failure) = outcome.failure {
                        if go_on {
                            eprintln!("fails: SIM_CASE='{case}' {failure}");
                        }
                        failed.lock().unwrap().get_or_insert(case.clone());
                    }
                    let mut all = sometimes.lock().unwrap();
                    for (what, count) in outcome.sometimes {
                        *all.entry(what).or_default() += count;
                    }
                }
            });
        }
    });
    if let Some(case) = failed.into_inner().unwrap() {
        let (small, outcome) = shrink(&case);
        fail(&case, &small, &outcome);
    }
    sometimes.into_inner().unwrap()
}

fn fail(case: &Case, small: &Case, outcome: &Outcome) -> ! {
    for line in &outcome.lines {
        eprintln!("{line}");
    }
    let failure = outcome.failure.as_ref().expect("a failed outcome has a failure");
    panic!(
        "\n{failure}\nSIM_SEED={} SIM_SCENARIO={}\nsmallest: SIM_CASE='{small}'\n",
        case.seed,
        case.scenario.name()
    );
}

#[test]
fn every_scenario_holds_under_every_seed() {
    if let Ok(text) = std::env::var("SIM_CASE") {
        let case: Case = text.parse().expect("SIM_CASE is a case");
        let outcome = run(&case);
        if outcome.failure.is_some() {
            fail(&case, &case, &outcome);
        }
        return eprintln!("{} holds; {:?}", case, outcome.sometimes);
    }
    let only = std::env::var("SIM_SCENARIO").ok();
    let scenarios: Vec<Scenario> = Scenario::ALL
        .iter()
        .copied()
        .filter(|scenario| only.as_ref().is_none_or(|only| only == scenario.name()))
        .collect();
    assert!(!scenarios.is_empty(), "SIM_SCENARIO is none of {:?}", Scenario::ALL);
    let seeds: Vec<u64> = match number("SIM_SEED") {
        Some(seed) => vec![seed],
        None => {
            let from = number("SIM_FROM").unwrap_or(0);
            (from..from + number("SIM_SEEDS").unwrap_or(SEEDS)).collect()
        }
    };
    let mut cases = kept();
    for (nth, seed) in seeds.iter().enumerate() {
        let of_now = |scenario: &&Scenario| nth % LONG_EVERY == 0 || !LONG.contains(scenario);
        cases.extend(scenarios.iter().filter(of_now).map(|scenario| Case::new(*scenario, *seed)));
    }
    let seen = run_all(&cases);
    eprintln!("{} cases; seen: {seen:?}", cases.len());
    if only.is_none() && seeds.len() as u64 >= ENOUGH {
        let seen: BTreeSet<&str> = seen.keys().copied().collect();
        let missed: Vec<_> = SOMETIMES.iter().filter(|what| !seen.contains(**what)).collect();
        assert!(missed.is_empty(), "no run saw {missed:?}: the simulator has become too tame");
    }
}

const TINY: [Scenario; 8] = [
    Scenario::Tiny,
    Scenario::TinyGrouped,
    Scenario::TinyBulk,
    Scenario::TinyEach,
    Scenario::TinySplit,
    Scenario::TinyCompact,
    Scenario::TinyPublish,
    Scenario::TinyDedupe,
];

#[test]
fn s6_a_kill_at_every_await_and_every_pair_of_awaits_loses_nothing() {
    let full = number("SIM_EXHAUSTIVE");
    let mut cases = Vec::new();
    for scenario in TINY {
        for seed in 0..full.unwrap_or(1) {
            let calm = Case::new(scenario, seed).calm();
            let awaits = run(&calm).awaits[0];
            assert!(awaits > 10, "{scenario:?} has only {awaits} kill points");
            for first in 1..=awaits {
                let single = calm.clone().killed_at([first]);
                let second = run(&single).awaits[1];
                cases.push(single);
                let step = if full.is_some() { 1 } else { 6 };
                for second in (1..=second).skip(first as usize % step).step_by(step) {
                    cases.push(calm.clone().killed_at([first, second]));
                }
            }
        }
    }
    run_all(&cases);
    eprintln!("{} cases", cases.len());
}

fn traces() -> Vec<String> {
    let scenarios = Scenario::ALL.iter();
    let seeds = |scenario: &Scenario| if LONG.contains(scenario) { 0..1 } else { 0..3 };
    let cases =
        scenarios.flat_map(|scenario| seeds(scenario).map(|seed| Case::new(*scenario, seed)));
    cases.map(|case| format!("trace of {case}: {:x}", run(&case).trace)).collect()
}

/// The other process of the test below.
#[test]
#[ignore = "prints, for another test to read"]
fn print_traces() {
    for line in traces() {
        println!("{line}");
    }
}

#[test]
fn the_same_case_gives_the_same_trace_in_another_process() {
    let me = std::env::current_exe().expect("this test has a path");
    let other = std::process::Command::new(me)
        .args(["--exact", "print_traces", "--ignored", "--nocapture"])
        .output()
        .expect("this test can be started again");
    let printed = String::from_utf8_lossy(&other.stdout);
    let theirs: Vec<&str> =
        printed.lines().filter_map(|line| line.find("trace of").map(|at| &line[at..])).collect();
    let ours = traces();
    assert_eq!(theirs.len(), ours.len(), "{printed}");
    for (theirs, ours) in theirs.iter().zip(&ours) {
        assert_eq!(theirs, ours);
    }
}

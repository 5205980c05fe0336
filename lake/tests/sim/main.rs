//! The lake in a world where everything goes wrong that can, by a seed: it stores a stream, is looked at, replays it and
//! sends faults again, over an object store that throttles, times out, loses replies, ends answers in the middle, lists late
//! and twice and holds what nobody of us wrote; and the process dies at any gate before or after each effect.
//!
//! `SIM_SEEDS=n` runs `n` seeds (from `SIM_FROM`), `SIM_SEED=n` one, and prints the end of its trace if it fails;
//! `SIM_EXHAUSTIVE=n` tries every pair of kill points for `n` seeds, not every single one and some pairs of one.

mod looks;
mod replay;
mod resubmit;
mod store;
mod writer;

use std::collections::BTreeMap;
use std::time::Duration;

use streambreaker::{Position, Record, Timestamp};
use streambreaker_testkit::sim::Gates;

/// Seeds of a scenario, unless told.
const SEEDS: u64 = 12;
/// From so many on, everything that is to be seen must have been seen.
const ENOUGH: u64 = 12;
/// What a life may take, in virtual time: a hang is a failure.
const PATIENCE: Duration = Duration::from_secs(3 * 3_600);

/// A scenario, of gates and their seed. Where the gates are named at which lives are killed, nothing else goes wrong. Comes
/// back with how many gates each life has passed.
type Scenario = fn(&Gates, u64, Option<&[u64]>) -> Vec<u64>;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// Runs a case, and says what to repeat if it fails.
fn run(
    name: &str,
    scenario: Scenario,
    seed: u64,
    kills: Option<&[u64]>,
) -> (Vec<u64>, BTreeMap<&'static str, u64>) {
    let gates = Gates::new(seed);
    let ran =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scenario(&gates, seed, kills)));
    match ran {
        Ok(awaits) => (awaits, gates.noted()),
        Err(panic) => {
            for line in gates.lines() {
                eprintln!("{line}");
            }
            eprintln!("{name} fails: SIM_SEED={seed}, kills {kills:?}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Random seeds of a scenario; each of `sometimes` must have been seen by some.
fn random(name: &str, scenario: Scenario, sometimes: &[&str]) {
    let seeds: Vec<u64> = match number("SIM_SEED") {
        Some(seed) => vec![seed],
        None => {
            let from = number("SIM_FROM").unwrap_or(0);
            (from..from + number("SIM_SEEDS").unwrap_or(SEEDS)).collect()
        }
    };
    let mut seen: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in &seeds {
        for (what, count) in run(name, scenario, *seed, None).1 {
            *seen.entry(what).or_default() += count;
        }
    }
    eprintln!("{name}: {} seeds; seen: {seen:?}", seeds.len());
    let missed: Vec<_> = sometimes.iter().filter(|what| !seen.contains_key(**what)).collect();
    assert!(
        missed.is_empty() || (seeds.len() as u64) < ENOUGH,
        "no seed saw {missed:?}: the simulation is too tame"
    );
}

/// Every gate as the place where the process dies, and pairs of gates; nothing else goes wrong.
fn exhaustive(name: &str, scenario: Scenario) {
    let full = number("SIM_EXHAUSTIVE");
    let mut cases = 0;
    for seed in 0..full.unwrap_or(1) {
        let (awaits, _) = run(name, scenario, seed, Some(&[]));
        assert!(awaits[0] >= 3, "{name} has only {} gates", awaits[0]);
        for first in 1..=awaits[0] {
            let (lives, _) = run(name, scenario, seed, Some(&[first]));
            cases += 1;
            let step = if full.is_some() { 1 } else { 7 };
            let from = 1 + if full.is_some() { 0 } else { first as usize % step };
            for second in (from as u64..=lives[1]).step_by(step) {
                run(name, scenario, seed, Some(&[first, second]));
                cases += 1;
            }
        }
    }
    eprintln!("{name}: {cases} cases");
}

/// How the lives of a case end: those that are named, or some by the seed.
fn kills(gates: &Gates, named: Option<&[u64]>) -> Vec<u64> {
    match named {
        Some(named) => {
            gates.heal();
            named.to_vec()
        }
        None => {
            let lives = gates.below(5);
            (0..lives).map(|_| 1 + gates.below(60)).collect()
        }
    }
}

/// 2013-01-01T10:00:00Z.
const TEN: Timestamp = Timestamp::from_millis(1_357_034_400_000);

/// Record `n` of a shard: an event a minute; some are no events.
fn record(shard: usize, n: u64) -> Record {
    let payload = match n % 7 {
        5 => b"\xff not JSON".to_vec(),
        _ => format!(r#"{{"id":"{shard}-{n}","type":"t{}","n":{n}}}"#, n % 3).into_bytes(),
    };
    Record::new("orders", shard.to_string(), Position::from(n), payload)
        .with_key(format!("k{}", n % 4))
        .with_header("n", n.to_string())
        .with_arrival(TEN.plus(Duration::from_secs(60 * n)))
}

/// What is in the stream; little, where every gate is tried.
fn log(gates: &Gates, named: Option<&[u64]>) -> Vec<Record> {
    let (shards, most) = match named {
        None => (1 + gates.below(2), 6 + gates.below(60)),
        Some(_) => (1, 10),
    };
    (0..shards as usize).flat_map(|shard| (0..most).map(move |n| record(shard, n))).collect()
}

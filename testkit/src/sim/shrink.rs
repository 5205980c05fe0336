//! Makes a failing case smaller, for as long as it fails by the same rule.

use super::case::Case;
use super::run::{Outcome, run};

/// Runs that shrinking may take.
const TRIES: usize = 300;

/// The smallest case found that breaks the same rule, and how it ended.
///
/// Takes away what went wrong, a kind at a time; then kills, shards and records. Each attempt is a whole run.
pub fn shrink(case: &Case) -> (Case, Outcome) {
    let mut best = (case.clone(), run(case));
    let Some(rule) = best.1.failure.as_ref().map(|failure| failure.rule) else { return best };
    let mut tries = 0;
    loop {
        let mut smaller = false;
        for candidate in candidates(&best.0, &best.1) {
            if tries == TRIES {
                return best;
            }
            tries += 1;
            let outcome = run(&candidate);
            if outcome.failure.as_ref().is_some_and(|failure| failure.rule == rule) {
                best = (candidate, outcome);
                smaller = true;
                break;
            }
        }
        if !smaller {
            return best;
        }
    }
}

fn candidates(case: &Case, outcome: &Outcome) -> Vec<Case> {
    let mut all = Vec::new();
    let mut add = |change: &dyn Fn(&mut Case)| {
        let mut smaller = case.clone();
        change(&mut smaller);
        if smaller != *case {
            all.push(smaller);
        }
    };
    let n = outcome.records;
    for fewer in [0, 1, n / 4, n / 2, n.saturating_sub(n / 4), n.saturating_sub(1)] {
        if fewer < n {
            add(&|case| case.records = Some(fewer));
        }
    }
    if outcome.shards > 1 {
        add(&|case| case.shards = Some(1));
        add(&|case| case.shards = Some(outcome.shards - 1));
    }
    if outcome.awaits.len() > 1 && case.lives.as_ref().is_none_or(|lives| !lives.is_empty()) {
        add(&|case| case.lives = Some(Vec::new()));
        for without in 0..outcome.kills.len() {
            let mut kills = outcome.kills.clone();
            kills.remove(without);
            add(&|case| case.lives = Some(kills.clone()));
        }
    }
    for act in &outcome.acts {
        add(&|case| case.off.push(act.clone()));
    }
    all
}

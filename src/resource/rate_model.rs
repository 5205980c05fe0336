//! The rate limiter as a state machine, against R1 as it reads: over the list of all starts, and no level.
//!
//! A start is due if, from every earlier start on, the burst and what the rate has allowed since cover all of them
//! and this one. The rate is known but for the moment at which a share that rose again is taken up: so a throttled
//! limiter is held between two bounds, and any other to the nanosecond.

use std::time::Duration;

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use tokio::time::Instant;

use super::Rate;
use super::rate::RateState;

const SECOND: u64 = 1_000_000_000;
const FULL: u128 = 1_000_000;

#[derive(Clone, Debug)]
enum Step {
    /// So many ask for a start.
    Admit(u8),
    /// Nanoseconds pass.
    Wait(u64),
    /// As long as the last refusal said, less so many nanoseconds.
    WaitAsTold(u64),
    /// The dependency asks to be left alone for so long.
    Throttle(Duration),
}

/// What comes, and nothing of what it leads to: the ledger is with the limiter.
#[derive(Clone, Debug)]
struct Plan(Option<Rate>);

impl ReferenceStateMachine for Plan {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        (0u8..8, 1u32..60, 1u64..3_000, proptest::option::of(1u32..20))
            .prop_map(|(unlimited, n, per_ms, burst)| {
                Self((unlimited > 0).then(|| Rate { n, per: Duration::from_millis(per_ms), burst }))
            })
            .boxed()
    }

    fn transitions(plan: &Self) -> BoxedStrategy<Step> {
        let period = plan.0.map_or(SECOND, |rate| rate.per.as_nanos() as u64);
        prop_oneof![
            16 => (1u8..6).prop_map(Step::Admit),
            4 => (0..period / 8 + 1).prop_map(Step::Wait),
            1 => (0..period * 2).prop_map(Step::Wait),
            1 => (0..4 * SECOND).prop_map(Step::Wait),
            8 => (0u64..2).prop_map(Step::WaitAsTold),
            1 => (0u64..2_000).prop_map(|ms| Step::Throttle(Duration::from_millis(ms))),
        ]
        .boxed()
    }

    fn apply(plan: Self, _: &Step) -> Self {
        plan
    }
}

struct Limiter {
    rate: Option<Rate>,
    state: RateState,
    start: Instant,
    now: u64,
    told: u64,
    /// When attempts started.
    starts: Vec<u64>,
    held_until: u64,
    /// Moments of a throttle, and the share from then on, in millionths.
    shares: Vec<(u64, u128)>,
    /// When the share fell last, and rose last.
    fell: Option<u64>,
    rose: u64,
}

impl Limiter {
    fn now(&self) -> Instant {
        self.start + Duration::from_nanos(self.now)
    }

    /// The share by now: 5 % a second more than after the last throttle.
    fn share(&self) -> u128 {
        let (_, share) = self.shares.last().copied().unwrap_or((0, FULL));
        let seconds = (self.now - self.rose) / SECOND;
        (share + u128::from(seconds) * FULL / 20).min(FULL)
    }

    /// Whether a start at `at` is due, if since each start the rate was this share.
    fn is_due(&self, at: u64, share: impl Fn(u64) -> u128) -> bool {
        let Some(rate) = self.rate else { return true };
        let cost = rate.per.as_nanos() * FULL;
        // all but a hair of one more token than the burst
        let most = cost * u128::from(rate.allowed_burst() + 1) - 1;
        self.starts.iter().rev().zip(2u128..).all(|(from, count)| {
            let paid = u128::from(at - from) * u128::from(rate.n) * share(*from);
            count * cost <= most + paid
        })
    }

    /// The least share between a moment and now.
    fn least(&self, from: u64) -> u128 {
        let before = self.shares.iter().rev().find(|(at, _)| *at <= from);
        let since = self.shares.iter().filter(|(at, _)| *at > from);
        before.into_iter().chain(since).map(|(_, share)| *share).min().unwrap_or(FULL)
    }

    fn admit(&mut self) {
        let answer = self.state.admit(self.now());
        if self.held_until > self.now {
            let left = Duration::from_nanos(self.held_until - self.now);
            assert_eq!(answer, Err(left), "the dependency wants to be left alone");
        } else if answer.is_ok() {
            assert!(self.is_due(self.now, |_| FULL), "R1: more starts than the rate allows");
        } else {
            assert!(!self.is_due(self.now, |from| self.least(from)), "R2: a start is withheld");
        }
        match answer {
            Ok(()) => self.starts.push(self.now),
            Err(wait) => {
                assert!(!wait.is_zero(), "whoever is refused has to wait");
                self.told = u64::try_from(wait.as_nanos()).expect("within the test");
                if self.shares.is_empty() && self.held_until <= self.now {
                    assert!(self.is_due(self.now + self.told, |_| FULL), "told too short a wait");
                    assert!(!self.is_due(self.now + self.told - 1, |_| FULL), "or too long a one");
                }
            }
        }
    }

    fn throttle(&mut self, after: Duration) {
        self.state.throttled(self.now(), after);
        self.held_until = self.held_until.max(self.now + after.as_nanos() as u64);
        if self.rate.is_none() || self.fell.is_some_and(|at| self.now - at < SECOND) {
            return;
        }
        let share = (self.share() / 100 * 70).max(FULL / 20);
        self.shares.push((self.now, share));
        (self.fell, self.rose) = (Some(self.now), self.now);
    }
}

impl StateMachineTest for Limiter {
    type SystemUnderTest = Self;
    type Reference = Plan;

    fn init_test(plan: &Plan) -> Self {
        let start = Instant::now();
        Self {
            rate: plan.0,
            state: RateState::new(plan.0, start),
            start,
            now: 0,
            told: 0,
            starts: Vec::new(),
            held_until: 0,
            shares: Vec::new(),
            fell: None,
            rose: 0,
        }
    }

    fn apply(mut limiter: Self, _: &Plan, step: Step) -> Self {
        match step {
            Step::Admit(n) => (0..n).for_each(|_| limiter.admit()),
            Step::Wait(nanos) => limiter.now += nanos,
            Step::WaitAsTold(less) => {
                limiter.now += limiter.told.saturating_sub(less);
                limiter.told = 0;
            }
            Step::Throttle(after) => limiter.throttle(after),
        }
        limiter
    }

    fn check_invariants(limiter: &Self, _: &Plan) {
        let (state, now) = (&limiter.state, limiter.now());
        let held = limiter.held_until.saturating_sub(limiter.now);
        assert_eq!(state.held(now), (held > 0).then(|| Duration::from_nanos(held)));
        assert_eq!(state.is_active(), limiter.rate.is_some() || held > 0);
        let share = limiter.share() as f64 / FULL as f64;
        assert!((state.share(now) - share).abs() < 1e-9, "{} is not {share}", state.share(now));
    }
}

prop_state_machine! {
    /// Under waits of any length, exact ones, and a dependency that throttles.
    #[test]
    fn r1_r2_a_start_is_admitted_when_it_is_due(sequential 1..150 => Limiter);
}

//! The breaker as a state machine, against the rules as they read: every result is kept with its time, and
//! there are no atomics.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use tokio::time::Instant;

use super::{Breaker, BreakerControl, BreakerState, Circuit, OnOpen, Pass};

/// The window slides in so many steps.
const SLOTS: u64 = 16;

#[derive(Clone, Debug)]
enum Step {
    Admit,
    /// A call that runs ends: well, badly, or without a word.
    End(usize, Option<bool>),
    /// Nanoseconds pass.
    Wait(u64),
    Open,
    Close,
    Auto,
}

/// A call that was admitted.
#[derive(Clone, Copy, Debug)]
struct Call {
    generation: u32,
    probe: bool,
}

#[derive(Clone, Debug)]
struct Model {
    settings: Breaker,
    state: BreakerState,
    control: BreakerControl,
    generation: u32,
    now: u64,
    results: Vec<(u64, bool)>,
    running: Vec<Call>,
    /// The answer to the last step, if that asked for admission.
    admitted: Option<Option<bool>>,
    out: u32,
    good: u32,
    probes_at: u64,
    opened: u64,
}

impl Model {
    fn slot(&self) -> u64 {
        self.settings.window.as_nanos() as u64 / SLOTS
    }

    /// Calls in the window, and failures among them.
    fn counts(&self) -> (usize, usize) {
        let recent = |then: u64| self.now / self.slot() - then / self.slot() < SLOTS;
        let seen = || self.results.iter().filter(|result| recent(result.0));
        (seen().count(), seen().filter(|result| !result.1).count())
    }

    fn may_probe(&self) -> bool {
        self.control == BreakerControl::Auto && self.now >= self.probes_at
    }

    fn has_room(&self) -> bool {
        self.out + self.good < self.settings.half_open
    }

    fn gate(&self) -> bool {
        match self.state {
            BreakerState::Closed => true,
            BreakerState::HalfOpen => self.has_room(),
            BreakerState::Open => self.may_probe(),
        }
    }

    fn admit(&mut self) {
        if self.state == BreakerState::Open && self.may_probe() {
            self.turn(BreakerState::HalfOpen);
        }
        let probe = self.state == BreakerState::HalfOpen;
        let admitted = self.gate().then_some(probe);
        if admitted.is_some() {
            self.out += u32::from(probe);
            self.running.push(Call { generation: self.generation, probe });
        }
        self.admitted = Some(admitted);
    }

    fn end(&mut self, call: Call, good: Option<bool>) {
        if call.generation != self.generation {
            return;
        }
        if call.probe {
            self.out -= 1;
            match good {
                Some(true) => {
                    self.good += 1;
                    if self.good == self.settings.half_open {
                        self.turn(BreakerState::Closed);
                    }
                }
                Some(false) => self.trip(),
                None => {}
            }
        } else if let Some(good) = good {
            self.results.push((self.now, good));
            let (calls, failures) = self.counts();
            let bad = failures > 0 && failures as f64 / calls as f64 >= self.settings.ratio;
            if bad
                && calls >= self.settings.min_calls as usize
                && self.control == BreakerControl::Auto
            {
                self.trip();
            }
        }
    }

    fn trip(&mut self) {
        self.probes_at = self.now + self.settings.cool_down.as_nanos() as u64;
        self.turn(BreakerState::Open);
    }

    fn control(&mut self, control: BreakerControl, state: BreakerState) {
        self.control = control;
        if self.state != state {
            self.turn(state);
        }
    }

    fn turn(&mut self, to: BreakerState) {
        (self.state, self.out, self.good) = (to, 0, 0);
        self.generation += 1;
        self.opened += u64::from(to == BreakerState::Open);
        if to == BreakerState::Closed {
            self.results.clear();
        }
    }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        let ratio = prop_oneof![Just(0.07), Just(0.5), Just(1.0), 0.01f64..1.0];
        (ratio, 1u32..12, 1u32..5, 16u64..2_000, 1u64..1_500)
            .prop_map(|(ratio, min_calls, half_open, window, cool_down)| Self {
                settings: Breaker::failure_ratio(ratio)
                    .min_calls(min_calls)
                    .half_open(half_open)
                    .window(Duration::from_millis(window))
                    .cool_down(Duration::from_millis(cool_down))
                    .on_open(OnOpen::Pause),
                state: BreakerState::Closed,
                control: BreakerControl::Auto,
                generation: 0,
                now: 0,
                results: Vec::new(),
                running: Vec::new(),
                admitted: None,
                out: 0,
                good: 0,
                probes_at: 0,
                opened: 0,
            })
            .boxed()
    }

    fn transitions(model: &Self) -> BoxedStrategy<Step> {
        let end = prop_oneof![4 => Just(Some(true)), 4 => Just(Some(false)), 1 => Just(None)];
        // often the very moment at which something changes
        let moments = [
            model.probes_at.saturating_sub(model.now),
            model.probes_at.saturating_sub(model.now + 1),
            model.slot() - model.now % model.slot(),
            model.settings.window.as_nanos() as u64,
        ];
        let wait =
            prop_oneof![1 => 0u64..700_000_000, 2 => proptest::sample::select(moments.to_vec())];
        let mut steps = vec![
            (16, Just(Step::Admit).boxed()),
            (8, wait.prop_map(Step::Wait).boxed()),
            (1, Just(Step::Open).boxed()),
            (1, Just(Step::Close).boxed()),
            (2, Just(Step::Auto).boxed()),
        ];
        if !model.running.is_empty() {
            let ends = (0..model.running.len(), end).prop_map(|(n, end)| Step::End(n, end));
            steps.push((16, ends.boxed()));
        }
        proptest::strategy::Union::new_weighted(steps).boxed()
    }

    fn preconditions(model: &Self, step: &Step) -> bool {
        !matches!(step, Step::End(n, _) if *n >= model.running.len())
    }

    fn apply(mut model: Self, step: &Step) -> Self {
        model.admitted = None;
        match *step {
            Step::Admit => model.admit(),
            Step::End(n, good) => {
                let call = model.running.swap_remove(n);
                model.end(call, good);
            }
            Step::Wait(nanos) => model.now += nanos,
            Step::Open => model.control(BreakerControl::HeldOpen, BreakerState::Open),
            Step::Close => model.control(BreakerControl::HeldClosed, BreakerState::Closed),
            Step::Auto => {
                if model.control == BreakerControl::HeldOpen {
                    model.turn(BreakerState::HalfOpen);
                }
                model.control = BreakerControl::Auto;
            }
        }
        model
    }
}

struct Real {
    start: Instant,
    circuit: &'static Circuit,
    running: Vec<Pass<'static>>,
}

impl Real {
    fn now(&self, model: &Model) -> Instant {
        self.start + Duration::from_nanos(model.now)
    }
}

impl StateMachineTest for Real {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(model: &Model) -> Self {
        let start = Instant::now();
        // leaked, for the calls that run borrow it
        let circuit = Box::leak(Box::new(Circuit::new(Arc::from("db"), model.settings, start)));
        Self { start, circuit, running: Vec::new() }
    }

    fn apply(mut real: Self, model: &Model, step: Step) -> Self {
        let now = real.now(model);
        match step {
            Step::Admit => {
                let pass = real.circuit.admit(now).ok();
                let admitted = pass.as_ref().map(Pass::is_probe);
                assert_eq!(Some(admitted), model.admitted);
                real.running.extend(pass);
            }
            Step::End(n, good) => {
                let pass = real.running.swap_remove(n);
                match good {
                    Some(true) => pass.success(now),
                    Some(false) => pass.failure(now),
                    None => drop(pass),
                }
            }
            Step::Wait(_) => {}
            Step::Open => real.circuit.open(),
            Step::Close => real.circuit.close(),
            Step::Auto => real.circuit.auto(),
        }
        real
    }

    fn check_invariants(real: &Self, model: &Model) {
        let now = real.now(model);
        assert_eq!(real.circuit.state(), model.state);
        let gate = real.circuit.gate(now);
        assert_eq!(gate.is_ok(), model.gate());
        if let Err(refused) = gate {
            let timed = model.state == BreakerState::Open && model.control == BreakerControl::Auto;
            let until = timed.then(|| real.start + Duration::from_nanos(model.probes_at));
            assert_eq!((refused.on_open, refused.until), (OnOpen::Pause, until));
        }
        let status = real.circuit.status(now);
        let (calls, failures) = match model.state {
            BreakerState::HalfOpen => (u64::from(model.out + model.good), 0),
            _ => (model.counts().0 as u64, model.counts().1 as u64),
        };
        assert_eq!((status.calls, status.failures), (calls, failures));
        assert_eq!((status.control, status.opened), (model.control, model.opened));
        let timed = model.state == BreakerState::Open && model.control == BreakerControl::Auto;
        let left = Duration::from_nanos(model.probes_at.saturating_sub(model.now));
        assert_eq!(status.probes_in_seconds, timed.then_some(left.as_secs_f64()));
    }
}

prop_state_machine! {
    /// Under results of any order, cancelled calls, and an operator.
    #[test]
    fn b1_b2_b3_the_breaker_does_what_the_rules_say(sequential 1..200 => Real);
}

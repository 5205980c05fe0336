//! Gates for fakes of one's own: where a process may die, and where things may go wrong, by a seed.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::rng::Rng;

/// Lines of the trace that are kept.
const KEPT: usize = 200;

/// What the simulator's fakes are made of, for fakes of something else: an object store, a database, a queue.
///
/// A fake passes a gate before and after each of its effects. A gate is counted, and a process can die at any of
/// them: its runtime is dropped at that await, and the next [`live`](Self::live) begins with what the fakes hold as
/// durable. Between the gates it asks whether [something goes wrong](Self::happens). One seed decides all of it, and
/// time is paused: the same seed gives the same run. A handle: clones are the same gates.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use std::time::Duration;
/// use streambreaker_testkit::sim::{Gates, Life};
///
/// /// A counter somewhere else: its reply may be lost.
/// async fn count(gates: &Gates, stored: &AtomicU64) -> Result<(), &'static str> {
///     gates.pass("count before").await;
///     stored.fetch_add(1, Ordering::Relaxed);
///     gates.pass("count after").await;
///     if gates.happens("reply lost", 0.3) { Err("reply lost") } else { Ok(()) }
/// }
///
/// let stored = AtomicU64::new(0);
/// for at in 1..=2 {
///     let gates = Gates::new(7);
///     let life = gates.live(Some(at), Duration::from_secs(60), async || count(&gates, &stored).await);
///     assert_eq!(life, Life::Killed);
/// }
/// // dead before its effect, and after it
/// assert_eq!(stored.load(Ordering::Relaxed), 1);
/// ```
#[derive(Clone, Debug)]
pub struct Gates(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    rng: Rng,
    awaits: u64,
    kill_at: Option<u64>,
    /// The process is dead: nobody passes any more.
    dead: bool,
    stop: Arc<Notify>,
    healed: bool,
    noted: BTreeMap<&'static str, u64>,
    lines: VecDeque<String>,
}

/// How a life ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Life<T> {
    /// By itself.
    Ended(T),
    /// It was killed at the gate that was named.
    Killed,
    /// It did not end in the time it was given: a failure, mostly.
    Hung,
}

impl Gates {
    /// The gates of this seed.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng: Rng::new(seed, 100),
            awaits: 0,
            kill_at: None,
            dead: false,
            stop: Arc::default(),
            healed: false,
            noted: BTreeMap::new(),
            lines: VecDeque::new(),
        })))
    }

    // nothing in here panics, so nothing is ever half changed
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a gate: counts it, and stays there for ever if the process dies here, or is dead.
    ///
    /// # Cancel safety
    /// A gate that is dropped has been counted.
    pub async fn pass(&self, what: &str) {
        let passes = {
            let mut state = self.lock();
            if !state.dead {
                state.awaits += 1;
                let line = format!("{} {what}", state.awaits);
                state.keep(line);
                if state.kill_at == Some(state.awaits) {
                    state.dead = true;
                    state.keep("KILLED".to_owned());
                    state.stop.notify_one();
                }
            }
            !state.dead
        };
        if !passes {
            std::future::pending().await
        }
    }

    /// Whether this goes wrong now, with this chance; never once [all is well](Self::heal). It is noted if it does.
    pub fn happens(&self, what: &'static str, chance: f64) -> bool {
        let mut state = self.lock();
        // drawn in any case: a kill changes nothing of what comes before it
        let happens = state.rng.chance(chance) && !state.healed && !state.dead;
        if happens {
            state.keep(format!("-- {what}"));
            *state.noted.entry(what).or_default() += 1;
        }
        happens
    }

    /// A number below `n` by the seed; 0 where `n` is 0.
    pub fn below(&self, n: u64) -> u64 {
        self.lock().rng.below(n)
    }

    /// From now on nothing goes wrong any more.
    pub fn heal(&self) {
        self.lock().healed = true;
    }

    /// Notes that something was seen, which [some run must have seen](Self::noted).
    pub fn note(&self, what: &'static str) {
        *self.lock().noted.entry(what).or_default() += 1;
    }

    /// How often each thing was noted, or went wrong.
    pub fn noted(&self) -> BTreeMap<&'static str, u64> {
        self.lock().noted.clone()
    }

    /// The last gates that were passed, and what went wrong there.
    pub fn lines(&self) -> Vec<String> {
        self.lock().lines.iter().cloned().collect()
    }

    /// How many gates the present life has passed, or the last one did.
    pub fn awaits(&self) -> u64 {
        self.lock().awaits
    }

    /// One life of a process, in a runtime of its own with one thread and paused time: until it ends, or dies at gate
    /// `kill_at`, counted from 1. What it spawned is dead when this returns.
    ///
    /// # Panics
    /// If `life` does, or if it is called within a runtime.
    pub fn live<T, F>(&self, kill_at: Option<u64>, within: Duration, life: F) -> Life<T>
    where
        F: AsyncFnOnce() -> T,
    {
        let stop = {
            let mut state = self.lock();
            (state.awaits, state.kill_at, state.dead) = (0, kill_at, false);
            state.stop = Arc::default();
            state.keep(format!("LIFE {kill_at:?}"));
            state.stop.clone()
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing of the system");
        let ended = runtime.block_on(async {
            let ended = self.until(&stop, tokio::time::timeout(within, life())).await;
            // what is dropped from here on is dropped by the death of the process
            self.lock().dead = true;
            ended
        });
        drop(runtime);
        match ended {
            None => Life::Killed,
            Some(Err(_)) => Life::Hung,
            Some(Ok(value)) => Life::Ended(value),
        }
    }

    async fn until<T>(&self, stop: &Notify, life: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = stop.notified() => None,
            ended = life => Some(ended),
        }
    }
}

impl State {
    fn keep(&mut self, line: String) {
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_process_dies_at_the_gate_that_is_named_and_takes_its_tasks_along() {
        let gates = Gates::new(1);
        let (inner, reached) = (gates.clone(), Arc::new(Mutex::new(Vec::new())));
        let seen = reached.clone();
        let life = gates.live(Some(3), HOUR, async move || {
            let (beside, theirs) = (inner.clone(), seen.clone());
            let task = tokio::spawn(async move {
                for n in 0..5 {
                    beside.pass("beside").await;
                    theirs.lock().unwrap().push(n);
                }
            });
            inner.pass("first").await;
            task.await.unwrap();
        });
        assert_eq!((life, gates.awaits()), (Life::Killed, 3));
        assert_eq!(*reached.lock().unwrap(), [0]);
        assert_eq!(Arc::strong_count(&reached), 1, "its task is gone");
        // and the next one lives
        assert_eq!(gates.live(None, HOUR, async || 7), Life::Ended(7));
    }

    #[test]
    fn what_hangs_is_told_and_what_is_healed_goes_wrong_no_more() {
        let gates = Gates::new(1);
        assert!(gates.happens("always", 1.0));
        assert_eq!(gates.live::<(), _>(None, HOUR, std::future::pending::<()>), Life::Hung);
        assert!(!gates.happens("always", 1.0), "nothing happens to the dead");
        gates.heal();
        assert!(!gates.happens("always", 1.0));
        assert_eq!(gates.noted(), BTreeMap::from([("always", 1)]));
    }

    #[test]
    fn a_seed_draws_the_same_whether_it_is_killed_or_not() {
        let drawn = |dead: bool| {
            let gates = Gates::new(3);
            gates.lock().dead = dead;
            gates.happens("something", 0.5);
            gates.below(1_000)
        };
        assert_eq!(drawn(false), drawn(true));
    }
}

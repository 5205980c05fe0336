//! The world outside the processor, which outlives it: the log, the checkpoints, the durable faults, the
//! effects; and the ledger that judges every step.
//!
//! Nothing here is told by the code under test. A record counts as decided when the *world* answered for it:
//! a handler returned `Ok`, a sink noted it done, a fault sink noted its event stored. What a processor
//! believes shows in what it commits, and that is held against the ledger, on every commit.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use streambreaker::{ShardId, Timestamp};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::done;
use super::gate::{SITES, Site};
use super::ledger::{position, shard_name};
use super::plan::{Plan, Shape};
use super::rng::Rng;

/// The wall clock of the world at its beginning, in seconds.
const EPOCH: i64 = 1_700_000_000;
/// Lines of the trace that are kept to be printed.
const KEPT: usize = 200;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The handler does it.
    Good,
    /// A filter keeps it out.
    Skip,
    /// The handler refuses it, for good.
    Poison,
    /// It is no JSON.
    Garbled,
    /// It kills the process that works on it.
    Killer,
    /// The handler never does it, and never says that it will not.
    Stuck,
}

impl Kind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Kind::Good => "good",
            Kind::Skip => "skip",
            Kind::Poison => "poison",
            Kind::Garbled => "garbled",
            Kind::Killer => "killer",
            Kind::Stuck => "stuck",
        }
    }
}

/// A record of the log.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: u64,
    pub(crate) kind: Kind,
    pub(crate) payload: Bytes,
    pub(crate) arrival: Timestamp,
    /// The stream keeps it no longer.
    pub(crate) gone: bool,
    /// Over all lives.
    pub(crate) deliveries: u32,
    /// Where records are acknowledged one by one.
    pub(crate) ack: AckState,
    /// Given back in this life, one by one; in an earlier one.
    pub(crate) given_back: (bool, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AckState {
    /// To be delivered, not before this time.
    Free(u64),
    /// Delivered to this generation, and to somebody else after this time.
    Leased { term: u64, until: u64 },
    /// Not to be delivered again.
    Acked,
}

/// A shard of the log.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) entries: Vec<Entry>,
    /// Counts ownerships: what an older one commits is refused.
    pub(crate) term: u64,
    pub(crate) owner: usize,
    /// Records below this index are committed.
    pub(crate) committed: usize,
    /// Where the present ownership began to read.
    pub(crate) start: usize,
    /// It is being taken away, gracefully.
    pub(crate) revoking: bool,
    pub(crate) released: bool,
    /// Nobody has it yet, in this life.
    fresh: bool,
    /// A commit is under way, of this generation.
    pub(crate) committing: BTreeSet<u64>,
}

/// A record by its place: shard and index.
pub(crate) type At = (usize, usize);

/// A part of a record; part 0 of one that is not split.
pub(crate) type Part = (At, u32);

/// What the world answered for a part of a record, in one pipeline and one ownership.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Answers {
    pub(crate) done: u32,
    pub(crate) faulted: u32,
    /// The handler refused it for good: a fault must follow.
    pub(crate) refused: bool,
    /// So much of the shard was delivered when the attempt began that did it.
    pub(crate) seen: usize,
}

/// A durable fault event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    pub(crate) pipe: usize,
    pub(crate) stage: String,
    pub(crate) class: String,
    pub(crate) records: Vec<At>,
    /// The part of each of them.
    pub(crate) paths: Vec<Vec<u32>>,
}

/// An attempt that runs.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) process: usize,
    pub(crate) pipe: usize,
    pub(crate) shard: usize,
    pub(crate) term: u64,
    pub(crate) keys: Vec<u64>,
    pub(crate) began: u64,
}

/// A change of ownership on its way to a process.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    Assign { shard: usize, term: u64 },
    Revoke { shard: usize, grace: Duration },
    Lose { shard: usize },
}

/// What of a process the world knows.
#[derive(Debug, Default)]
pub(crate) struct Process {
    pub(crate) orders: VecDeque<Order>,
    pub(crate) news: Arc<Notify>,
    /// When attempts began in this life, in microseconds: for the rate.
    pub(crate) starts: Vec<u64>,
    /// Faults that the sink confirmed in this life.
    pub(crate) confirmed_faults: u64,
    /// Gaps that were told in this life.
    pub(crate) gaps: usize,
    pub(crate) draining: bool,
    /// A shard of it was given to somebody.
    pub(crate) moved: bool,
}

/// A rule that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The rule's number, as in the list of invariants.
    pub rule: &'static str,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// Everything outside the processor.
pub(crate) struct World {
    pub(crate) shards: Vec<Shard>,
    pub(crate) processes: Vec<Process>,
    pub(crate) rngs: BTreeMap<Site, Rng>,
    /// How often each record was delivered to an ownership.
    pub(crate) delivered: BTreeMap<(At, u64), u32>,
    pub(crate) answers: BTreeMap<(usize, Part, u64), Answers>,
    pub(crate) effects: BTreeMap<(usize, Part), u32>,
    pub(crate) faults: BTreeMap<Uuid, Stored>,
    pub(crate) faults_of: BTreeMap<(usize, Part), BTreeSet<Uuid>>,
    /// What each published event was made of, by its id.
    pub(crate) published: BTreeMap<Uuid, (usize, At)>,
    /// The pipelines that ask a ledger, and what it calls a record.
    pub(crate) dedupes: Vec<usize>,
    pub(crate) in_ledger: BTreeMap<Uuid, (usize, At)>,
    /// What the ledger has as done, and in which ownership of the shard it was told.
    pub(crate) recorded: BTreeMap<(usize, At), u64>,
    /// What an operator had skipped, by process; that of this life, and that of all lives.
    pub(crate) skipped: (BTreeSet<(usize, At)>, BTreeSet<At>),
    /// The highest index that was delivered to an ownership, and one.
    pub(crate) seen: BTreeMap<(usize, u64), usize>,
    /// Units that a handler was called with, by pipeline and ownership.
    pub(crate) units: BTreeSet<(usize, u64, Vec<At>)>,
    pub(crate) attempts: BTreeMap<u64, Attempt>,
    next_attempt: u64,
    /// Lanes in which something was unhandled: their flows are dropped at once.
    pub(crate) fatal: BTreeSet<(usize, usize, u64)>,
    /// Whether anything was injected so far.
    pub(crate) injected: bool,
    pub(crate) chaos: bool,
    pub(crate) closed: bool,
    /// More in the log, or a change of any kind.
    pub(crate) more: Arc<Notify>,
    /// Awaits passed in this life.
    pub(crate) awaits: u64,
    pub(crate) kill_at: Option<u64>,
    /// The process has been killed, or a rule broken: the world stands still.
    pub(crate) frozen: bool,
    pub(crate) killed_by: Option<At>,
    pub(crate) stop: Arc<Notify>,
    pub(crate) failure: Option<Failure>,
    pub(crate) sometimes: BTreeMap<&'static str, u64>,
    life_began: Option<Instant>,
    before: u64,
    hash: u64,
    pub(crate) lines: VecDeque<String>,
}

impl World {
    pub(crate) fn new(plan: &Plan) -> Self {
        let shards = (0..plan.shards)
            .map(|_| Shard {
                entries: Vec::new(),
                term: 0,
                owner: 0,
                committed: 0,
                start: 0,
                revoking: false,
                released: false,
                fresh: true,
                committing: BTreeSet::new(),
            })
            .collect();
        Self {
            shards,
            processes: (0..plan.processes).map(|_| Process::default()).collect(),
            rngs: SITES.iter().map(|s| (*s, Rng::new(plan.seed, 10 + *s as u64))).collect(),
            delivered: BTreeMap::new(),
            answers: BTreeMap::new(),
            effects: BTreeMap::new(),
            faults: BTreeMap::new(),
            faults_of: BTreeMap::new(),
            published: BTreeMap::new(),
            dedupes: plan.dedupes(),
            in_ledger: BTreeMap::new(),
            recorded: BTreeMap::new(),
            skipped: (BTreeSet::new(), BTreeSet::new()),
            seen: BTreeMap::new(),
            units: BTreeSet::new(),
            attempts: BTreeMap::new(),
            next_attempt: 0,
            fatal: BTreeSet::new(),
            injected: false,
            chaos: false,
            closed: false,
            more: Arc::default(),
            awaits: 0,
            kill_at: None,
            frozen: false,
            killed_by: None,
            stop: Arc::default(),
            failure: None,
            sometimes: BTreeMap::new(),
            life_began: None,
            before: 0,
            // the offset basis of FNV-1a
            hash: 0xcbf2_9ce4_8422_2325,
            lines: VecDeque::new(),
        }
    }

    /// Microseconds since the world began, over all lives.
    pub(crate) fn now(&self) -> u64 {
        let life = self.life_began.map_or(Duration::ZERO, |began| began.elapsed());
        self.before + u64::try_from(life.as_micros()).unwrap_or(u64::MAX)
    }

    pub(crate) fn clock(&self) -> Timestamp {
        let now = i64::try_from(self.now()).unwrap_or(i64::MAX);
        Timestamp::from_micros((EPOCH * 1_000_000).saturating_add(now))
    }

    /// A life begins, inside its runtime.
    pub(crate) fn begin_life(&mut self, kill_at: Option<u64>) {
        self.life_began = Some(Instant::now());
        self.awaits = 0;
        self.kill_at = kill_at;
        self.frozen = false;
        self.killed_by = None;
        self.stop = Arc::default();
        self.more = Arc::default();
        self.attempts.clear();
        self.skipped.0.clear();
        for process in &mut self.processes {
            *process = Process::default();
        }
        for shard in &mut self.shards {
            shard.committing.clear();
            for entry in &mut shard.entries {
                let (now, before) = entry.given_back;
                entry.given_back = (false, now || before);
            }
            shard.fresh = true;
        }
    }

    /// Its runtime is about to be dropped, or has been.
    pub(crate) fn end_life(&mut self) {
        self.before = self.now();
        self.life_began = None;
    }

    /// A rule does not hold; the first such is kept, and the run ends.
    pub(crate) fn fail(&mut self, rule: &'static str, what: impl fmt::Display) {
        if self.failure.is_none() && !self.frozen {
            let what = what.to_string();
            self.trace(format_args!("FAILED {rule}: {what}"));
            self.failure = Some(Failure { rule, what });
        }
        self.frozen = true;
        self.stop.notify_one();
    }

    pub(crate) fn check(&mut self, rule: &'static str, holds: bool, what: impl fmt::Display) {
        if !holds {
            self.fail(rule, what);
        }
    }

    pub(crate) fn sometimes(&mut self, what: &'static str) {
        *self.sometimes.entry(what).or_default() += 1;
    }

    pub(crate) fn trace(&mut self, line: fmt::Arguments<'_>) {
        let line = format!("{:>12} {line}", self.now());
        for byte in line.as_bytes() {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// Of all that was traced.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn rng(&mut self, site: Site) -> &mut Rng {
        self.rngs.get_mut(&site).expect("every site has a stream")
    }

    pub(crate) fn append(&mut self, shard: usize, key: u64, kind: Kind) {
        let arrival = self.clock();
        let entries = &mut self.shards[shard].entries;
        let n = entries.len();
        let payload = match kind {
            Kind::Garbled => Bytes::from(format!("{{\"n\":{n},")),
            _ => Bytes::from(format!("{{\"n\":{n},\"key\":{key},\"kind\":\"{}\"}}", kind.as_str())),
        };
        entries.push(Entry {
            key,
            kind,
            payload,
            arrival,
            gone: false,
            deliveries: 0,
            ack: AckState::Free(0),
            given_back: (false, false),
        });
        for pipe in self.dedupes.clone() {
            match done::id_of(pipe, ShardId::new(shard_name(shard)), position(n)) {
                Some(id) => drop(self.in_ledger.insert(id, (pipe, (shard, n)))),
                None => self.fail("build", "no ledger was asked for a record"),
            }
        }
        self.more.notify_waiters();
    }

    /// Wakes whoever waits for news; there will be none any more, if the source ends here.
    pub(crate) fn close(&mut self, ends: bool) {
        self.closed = ends;
        self.more.notify_waiters();
        self.processes.iter().for_each(|process| process.news.notify_one());
    }

    /// Gives a shard to a process; whoever had it is stale from now on.
    pub(crate) fn assign(&mut self, shard: usize, to: usize) {
        let now = self.now();
        let before = self.shards[shard].owner;
        self.processes[before].moved |= !self.shards[shard].fresh;
        let own = &mut self.shards[shard];
        own.fresh = false;
        own.term += 1;
        own.owner = to;
        own.start = own.committed;
        own.revoking = false;
        own.released = false;
        let term = own.term;
        for entry in &mut own.entries {
            if matches!(entry.ack, AckState::Leased { .. }) {
                entry.ack = AckState::Free(now);
            }
        }
        self.processes[to].orders.push_back(Order::Assign { shard, term });
        self.processes[to].news.notify_one();
        self.more.notify_waiters();
        self.trace(format_args!("assign s{shard} to p{to} g{term}"));
    }

    pub(crate) fn is_current(&self, shard: usize, term: u64) -> bool {
        self.shards[shard].term == term
    }

    pub(crate) fn delivered(&self, at: At, term: u64) -> u32 {
        self.delivered.get(&(at, term)).copied().unwrap_or(0)
    }

    pub(crate) fn answers(&self, pipe: usize, part: Part, term: u64) -> Answers {
        self.answers.get(&(pipe, part, term)).copied().unwrap_or_default()
    }

    pub(crate) fn answer(&mut self, pipe: usize, part: Part, term: u64) -> &mut Answers {
        self.answers.entry((pipe, part, term)).or_default()
    }

    pub(crate) fn entry(&self, (shard, index): At) -> &Entry {
        &self.shards[shard].entries[index]
    }

    /// Whether a record has a fate in every pipeline, so far as the world has been told in this ownership.
    pub(crate) fn undecided(&self, at: At, term: u64, shapes: &[Shape]) -> Option<usize> {
        let entry = self.entry(at);
        if entry.gone || entry.kind == Kind::Skip {
            return None;
        }
        (0..shapes.len()).find(|pipe| !self.is_decided(*pipe, shapes[*pipe], at, term))
    }

    fn is_decided(&self, pipe: usize, shape: Shape, at: At, term: u64) -> bool {
        let told = |part: u32| {
            let answers = self.answers(pipe, (at, part), term);
            // what the handler did counts only when the ledger has it
            let done = answers.done > 0 && !matches!(shape, Shape::Dedupe { .. });
            done || answers.faulted > 0
        };
        (0..shape.parts(at.1, self.entry(at).kind)).all(told)
            || self.recorded.contains_key(&(pipe, at))
            || self.newer(shape, at).any(|newer| {
                let answers = self.answers(pipe, ((at.0, newer), 0), term);
                answers.done > 0 && answers.seen > at.1
            })
    }

    /// Whether a fault of a record, or of a part of it, is durable and confirmed in this ownership.
    pub(crate) fn is_faulted(&self, pipe: usize, at: At, term: u64) -> bool {
        let first = (pipe, (at, 0), term);
        let own =
            self.answers.range(first..).take_while(|((p, (a, _), _), _)| (*p, *a) == (pipe, at));
        own.into_iter().any(|((_, _, t), answers)| *t == term && answers.faulted > 0)
    }

    /// The records whose fate one may share, because they are newer ones of its key.
    pub(crate) fn newer(&self, shape: Shape, (shard, older): At) -> impl Iterator<Item = usize> {
        let entries = &self.shards[shard].entries;
        // most pipelines have none
        let most = if matches!(shape, Shape::Compact { .. }) { entries.len() } else { 0 };
        (0..most).filter(move |newer| {
            entries[*newer].key == entries[older].key && shape.supersedes(*newer, older)
        })
    }

    /// The first index of a shard that is not decided, from where the present ownership began.
    pub(crate) fn settled_prefix(&self, shard: usize, term: u64, shapes: &[Shape]) -> usize {
        let own = &self.shards[shard];
        (own.start..own.entries.len())
            .find(|index| self.undecided((shard, *index), term, shapes).is_some())
            .unwrap_or(own.entries.len())
    }

    pub(crate) fn begin_attempt(&mut self, attempt: Attempt) -> u64 {
        self.next_attempt += 1;
        self.attempts.insert(self.next_attempt, attempt);
        self.next_attempt
    }

    /// Whether all of the log is committed.
    pub(crate) fn at_rest(&self, each: bool) -> bool {
        self.shards.iter().all(|shard| match each {
            true => shard.entries.iter().all(|e| e.gone || e.ack == AckState::Acked),
            false => shard.entries.iter().skip(shard.committed).all(|entry| entry.gone),
        })
    }
}

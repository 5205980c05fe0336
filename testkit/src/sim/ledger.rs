//! What the fakes of handlers and sinks tell the world, and what it checks as they do.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use streambreaker::flow::Publication;
use streambreaker::{Position, Record};

use super::gate::Sim;
use super::plan::Shape;
use super::source::STREAM;
use super::world::{At, Attempt, Kind, Part, World};

/// The header that says in which ownership a record was delivered.
pub(crate) const TERM: &str = "sim-term";

/// Positions are sparse: a gap in the numbers is no event.
const STEP: u64 = 3;

/// A deadline may be late by a millisecond and a turn; timers of a paused runtime count in milliseconds.
const LATE: u64 = 3_000;

pub(crate) fn position(index: usize) -> Position {
    Position::from(index as u64 * STEP + 1)
}

pub(crate) fn index(position: &Position) -> Option<usize> {
    let number = position.as_u64()?;
    (number % STEP == 1).then_some(usize::try_from(number / STEP).ok()?)
}

pub(crate) fn shard_name(shard: usize) -> String {
    format!("s{shard}")
}

pub(crate) fn pipe_name(pipe: usize) -> String {
    format!("p{pipe}")
}

/// What a payload says.
#[derive(Debug, Deserialize)]
pub(crate) struct Body {
    pub(crate) n: usize,
    pub(crate) key: u64,
    pub(crate) kind: String,
}

/// A record as the world knows it, or a part of one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub(crate) at: At,
    /// 0 where it is not split.
    pub(crate) part: u32,
    pub(crate) term: u64,
    pub(crate) key: u64,
    pub(crate) kind: Kind,
}

impl Item {
    /// Finds a record in the log, where it must be, byte for byte (I5).
    pub(crate) fn of(sim: &Sim, record: &Record) -> Option<Self> {
        let mut world = sim.world();
        let at = record
            .shard()
            .as_str()
            .strip_prefix('s')
            .and_then(|shard| shard.parse::<usize>().ok())
            .zip(index(record.position()));
        let term = record
            .header(TERM)
            .and_then(|term| std::str::from_utf8(term).ok())
            .and_then(|term| term.parse().ok());
        let entry = at.and_then(|(shard, index)| world.shards.get(shard)?.entries.get(index));
        let (Some(at), Some(term), Some(entry)) = (at, term, entry) else {
            world.fail("I5", format_args!("{record:?} is no record of the log"));
            return None;
        };
        let same = record.payload() == &entry.payload
            && record.arrival() == entry.arrival
            && record.key().is_some_and(|key| key == entry.key.to_string().as_bytes())
            && record.headers().len() == 1;
        let (key, kind) = (entry.key, entry.kind);
        world.check("I5", same, format_args!("{at:?} is not what the log has"));
        Some(Self { at, part: 0, term, key, kind })
    }

    /// One part of it, in a pipeline of this shape.
    pub(crate) fn part(self, part: u32, shape: Shape) -> Self {
        Self { part, kind: shape.part_kind(self.at.1, part, self.kind), ..self }
    }

    pub(crate) const fn place(&self) -> Part {
        (self.at, self.part)
    }

    /// Finds the record in the log that an event was published for, which must tell of it truly.
    pub(crate) fn of_published(sim: &Sim, pipe: usize, event: &Publication) -> Option<Self> {
        let mut world = sim.world();
        let tag = |name: &str| event.tags.get(name)?.parse::<usize>().ok();
        let found = tag("shard").zip(tag("n")).zip(tag(TERM));
        let found = found.filter(|((shard, n), _)| {
            world.shards.get(*shard).is_some_and(|own| *n < own.entries.len())
        });
        let Some((at, term)) = found else {
            world.fail("I5", format_args!("{event:?} was made of no record of the log"));
            return None;
        };
        let entry = world.entry(at);
        let cause = format!("{STREAM}/{}/{}", shard_name(at.0), position(at.1));
        let same = event.causation == [cause]
            && event.time == entry.arrival
            && event.body == entry.payload
            && event.key.as_deref() == Some(&*entry.key.to_string());
        let (key, kind) = (entry.key, entry.kind);
        world.check("I5", same, format_args!("{event:?} is not what was made of {at:?}"));
        let known = *world.published.entry(event.id).or_insert((pipe, at));
        let what = format_args!("{} names the events of {known:?} and {at:?}", event.id);
        world.check("F4", known == (pipe, at), what);
        let ids = world.published.values().filter(|of| **of == (pipe, at)).count();
        world.check("F4", ids == 1, format_args!("{at:?} is published under {ids} ids"));
        world.sometimes("published");
        Some(Self { at, part: 0, term: term as u64, key, kind })
    }
}

/// How an attempt ended, so far as the world is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Done,
    Retryable,
    Refused,
    Fatal,
}

/// An attempt that runs; dropping it before `end` is a cancellation.
pub(crate) struct Running {
    sim: Arc<Sim>,
    id: u64,
    pipe: usize,
    items: Vec<Item>,
    /// So much of the shard was delivered when it began.
    seen: usize,
    ended: bool,
}

impl Running {
    /// An attempt begins. Checks what must hold of it at that moment.
    pub(crate) fn begin(sim: &Arc<Sim>, process: usize, pipe: usize, items: Vec<Item>) -> Self {
        let plan = &sim.plan;
        let shape = plan.shapes[pipe];
        let mut world = sim.world();
        let now = world.now();
        let (shard, term) = items.first().map_or((0, 0), |item| (item.at.0, item.term));
        let bulk = matches!(shape, Shape::Bulk { .. } | Shape::Publish { .. });
        let dedupes = matches!(shape, Shape::Dedupe { .. });
        world.trace(format_args!(
            "begin p{pipe} s{shard} t{term} {:?}",
            items.iter().map(|item| item.at.1).collect::<Vec<_>>()
        ));

        // one lane, one ownership: a unit mixes neither
        let alike = items.iter().all(|item| item.at.0 == shard && item.term == term);
        world.check("I3", alike, format_args!("a unit of several lanes: {items:?}"));

        let lane = |attempt: &Attempt| {
            (attempt.process, attempt.pipe, attempt.shard, attempt.term)
                == (process, pipe, shard, term)
        };
        let beside = world.attempts.values().filter(|a| lane(a)).count();
        let width = shape.width();
        world.check("O8", beside < width, format_args!("{beside} run already, of {width}"));
        if let Some(permits) = plan.guards.concurrency {
            let taken = world.attempts.values().filter(|a| a.process == process).count();
            let what = format_args!("{taken} attempts run already, of {permits}");
            world.check("O8", taken < permits, what);
        }

        if let Some((n, per, burst)) = plan.guards.rate {
            let most = n as usize + burst as usize;
            let starts = &mut world.processes[process].starts;
            starts.push(now);
            let earlier = starts.len().checked_sub(most + 1).map(|at| starts[at]);
            let span = u64::try_from(per.as_micros()).unwrap_or(u64::MAX);
            if let Some(earlier) = earlier.filter(|earlier| now - earlier < span) {
                let spent = now - earlier;
                world.fail("R1", format_args!("{} starts within {spent} us", most + 1));
            }
        }

        if shape.keeps_keys() {
            let keys: Vec<u64> = items.iter().map(|item| item.key).collect();
            let twice = world
                .attempts
                .values()
                .any(|a| lane(a) && a.keys.iter().any(|key| keys.contains(key)));
            world.check("O1", !twice, format_args!("two at once of a key, of {keys:?}"));
            let mut unique = keys.clone();
            unique.sort_unstable();
            unique.dedup();
            let one_each = unique.len() == keys.len();
            world.check("K4", one_each, format_args!("a key twice in a request: {keys:?}"));
        }
        // a unit that is faulted for want of an answer is decided too, and no handler has said so
        let guards = &plan.guards;
        let told = !guards.fault_when_exhausted && guards.return_limit.is_none();
        let in_order = (shape.keeps_keys() || shape == Shape::Call) && !plan.each && told;
        for item in &items {
            if in_order {
                let (shard, index) = item.at;
                let earlier = (world.shards[shard].start..index).find(|before| {
                    let at = (shard, *before);
                    let entry = world.entry(at);
                    let counts = matches!(entry.kind, Kind::Good | Kind::Poison);
                    let mine = shape == Shape::Call || entry.key == item.key;
                    let answers = world.answers(pipe, (at, 0), item.term);
                    counts
                        && mine
                        && world.is_current(shard, item.term)
                        && world.delivered(at, item.term) > 0
                        && answers.done == 0
                        && !answers.refused
                        && !world.skipped.1.contains(&at)
                });
                if let Some(earlier) = earlier {
                    let what = format!("{index} begins before {earlier} is decided, in p{pipe}");
                    world.fail("O1", what);
                }
            }
            let once = world.delivered(item.at, item.term) == 1;
            let calm = !world.fatal.contains(&(pipe, item.at.0, item.term));
            let answers = world.answers(pipe, item.place(), item.term);
            // what was done and could not be recorded is done again; so is what is part of a record that is returned
            // for another part
            let alone = shape.parts(item.at.1, item.kind) == 1;
            if once && calm && answers.done > 0 && !dedupes && alone {
                let rule = if bulk { "K2" } else { "I3" };
                world.fail(rule, format!("{:?} was confirmed, and is tried again", item.at));
            }
            if once && calm && answers.faulted > 0 {
                world.fail("F1", format!("{:?} is faulted, and is tried again", item.place()));
            }
            if once && calm && answers.refused && plan.flood.is_none() {
                world.fail("T4", format!("{:?} was refused, and is tried again", item.at));
            }
            let kind = !matches!(item.kind, Kind::Skip | Kind::Garbled);
            world.check("I3", kind, format_args!("{:?} is no event for a handler", item.at));
            if let Some(told) = world.recorded.get(&(pipe, item.at)).copied() {
                // an owner from before may have recorded it after this one has looked
                let what =
                    format!("{:?} is done, as the ledger knows, and is tried again", item.at);
                world.check("I3", told >= item.term, what);
            }
        }
        let unit: Vec<At> = items.iter().map(|item| item.at).collect();
        // what is given back one by one comes again in any order
        if once_each(&unit) && !plan.each {
            let once = items.iter().all(|item| world.delivered(item.at, item.term) == 1);
            let sorted = unit.is_sorted() || !once;
            world.check("F2", sorted, format_args!("out of order: {unit:?}"));
        }
        let seen = world.seen.get(&(shard, term)).copied().unwrap_or(0);
        world.units.insert((pipe, term, unit));
        let keys = items.iter().map(|item| item.key).collect();
        let id = world.begin_attempt(Attempt { process, pipe, shard, term, keys, began: now });
        drop(world);
        Self { sim: sim.clone(), id, pipe, items, seen, ended: false }
    }

    /// The effect on the world of these items.
    pub(crate) fn apply(&self, items: &[Item]) {
        let mut world = self.sim.world();
        for item in items {
            *world.effects.entry((self.pipe, item.place())).or_default() += 1;
        }
    }

    /// The caller has been told that these are done.
    pub(crate) fn confirm(&self, items: &[Item]) {
        let mut world = self.sim.world();
        let shape = self.sim.plan.shapes[self.pipe];
        for item in items {
            let once = world.delivered(item.at, item.term) == 1;
            let alone = shape.parts(item.at.1, item.kind) == 1;
            let answers = world.answer(self.pipe, item.place(), item.term);
            answers.done += 1;
            answers.seen = answers.seen.max(self.seen);
            if once && answers.faulted > 0 && alone {
                world.fail("I3", format_args!("{:?} is done, and was faulted before", item.at));
            }
        }
    }

    /// The caller has been told that these are refused for good.
    pub(crate) fn refuse(&self, items: &[Item]) {
        let mut world = self.sim.world();
        for item in items {
            world.answer(self.pipe, item.place(), item.term).refused = true;
        }
    }

    pub(crate) fn items(&self) -> &[Item] {
        &self.items
    }

    /// The attempt is over, and its caller gets to know in the same instant.
    pub(crate) fn end(mut self, how: Ended) {
        match how {
            Ended::Done => self.confirm(&self.items),
            Ended::Refused => self.refuse(&self.items),
            Ended::Retryable => {}
            Ended::Fatal => self.note_fatal(),
        }
        self.close(how);
    }

    /// The attempt is over; its items have ended one by one.
    pub(crate) fn over(mut self) {
        self.close(Ended::Retryable);
    }

    pub(crate) fn note_fatal(&self) {
        let mut world = self.sim.world();
        world.sometimes("fatal");
        if let Some(item) = self.items.first() {
            world.fatal.insert((self.pipe, item.at.0, item.term));
        }
    }

    fn close(&mut self, how: Ended) {
        self.ended = true;
        let mut world = self.sim.world();
        let now = world.now();
        if let Some(attempt) = world.attempts.remove(&self.id) {
            world.trace(format_args!("end {} {how:?}", self.id));
            let took = now - attempt.began;
            let most = micros(self.sim.plan.guards.timeout) + LATE;
            world.check("T3", took <= most, format_args!("answered after {took} us"));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let mut world = self.sim.world();
        let Some(attempt) = world.attempts.remove(&self.id) else { return };
        if world.frozen {
            return;
        }
        let took = world.now() - attempt.began;
        world.trace(format_args!("dropped {} after {took}", self.id));
        let timeout = micros(self.sim.plan.guards.timeout);
        let shard = &world.shards[attempt.shard];
        let excused = shard.term != attempt.term
            || shard.revoking
            || world.processes[attempt.process].draining
            || world.fatal.contains(&(attempt.pipe, attempt.shard, attempt.term));
        if took > timeout + LATE {
            world.fail("T3", format_args!("dropped after {took} us, at a timeout of {timeout}"));
        } else if took < timeout && !excused {
            world.fail(
                "O12",
                format_args!(
                    "cancelled after {took} us, at a timeout of {timeout}, without a reason"
                ),
            );
        } else if took >= timeout {
            world.sometimes("timeout");
        }
    }
}

/// Fails where an attempt has not been ended that is over its time.
pub(crate) fn over_time(world: &mut World, timeout: Duration) {
    let (now, most) = (world.now(), micros(timeout) + LATE);
    let late = world.attempts.values().map(|attempt| now - attempt.began).find(|ran| *ran > most);
    if let Some(ran) = late {
        world.fail("T3", format_args!("runs for {ran} us, at a timeout of {timeout:?}"));
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn once_each(unit: &[At]) -> bool {
    let mut sorted = unit.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).all(|pair| pair[0] != pair[1])
}

//! What one seed decides before anything runs: the log, the shape of the processor, what may go wrong and how
//! often, and when the process dies.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use streambreaker::resource::OnOpen;
use streambreaker::source::Acknowledge;

use super::case::Case;
use super::gate::{Act, Site};
use super::rng::Rng;
use super::world::Kind;

/// What a pipeline does with its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One at a time, in order.
    Call,
    /// So many at once.
    Parallel(usize),
    /// So many keys at once, each in order.
    ByKey(usize),
    /// Groups of up to so many of a key, so many groups at once.
    Grouped { items: usize, width: usize },
    /// Bulk requests of up to so many, so many at once; each key in order, or not.
    Bulk { items: usize, requests: usize, ordered: bool },
    /// Each record in parts, so many parts at once.
    Split { width: usize },
    /// Only the newest of a key within up to so many goes on, by position or by rank; so many at once.
    Compact { items: usize, width: usize, by_rank: bool },
    /// An event is published for each record, in requests of up to so many, so many at once.
    Publish { items: usize, requests: usize },
    /// What a ledger has as done is left out; so many at once.
    Dedupe { width: usize },
}

impl Shape {
    pub(crate) const fn keeps_keys(self) -> bool {
        matches!(self, Shape::ByKey(_) | Shape::Bulk { ordered: true, .. })
    }

    /// How many attempts a lane may have running.
    pub(crate) const fn width(self) -> usize {
        match self {
            Shape::Call => 1,
            Shape::Parallel(n) | Shape::ByKey(n) => n,
            Shape::Grouped { width, .. } | Shape::Split { width } => width,
            Shape::Compact { width, .. } | Shape::Dedupe { width } => width,
            Shape::Bulk { requests, .. } | Shape::Publish { requests, .. } => requests,
        }
    }

    /// Into how many parts the record at this index goes; some go into none.
    pub(crate) const fn parts(self, index: usize, kind: Kind) -> u32 {
        match (self, kind) {
            // what is no JSON never comes so far
            (_, Kind::Garbled) => 1,
            (Shape::Split { .. }, _) => (index as u32 + 1) % 4,
            _ => 1,
        }
    }

    /// What a part of a record is: of a bad one only the last part is bad.
    pub(crate) const fn part_kind(self, index: usize, part: u32, kind: Kind) -> Kind {
        match kind {
            Kind::Poison if part + 1 < self.parts(index, kind) => Kind::Good,
            _ => kind,
        }
    }
}

/// Which of a key is newest, where a pipeline does not go by position.
pub(crate) const fn rank(index: usize) -> u64 {
    index as u64 * 7 % 5
}

impl Shape {
    /// Whether of two records of a key the first goes on, and the second shares its fate.
    pub(crate) fn supersedes(self, newer: usize, older: usize) -> bool {
        match self {
            Shape::Compact { by_rank: true, .. } => (rank(newer), newer) > (rank(older), older),
            Shape::Compact { by_rank: false, .. } => newer > older,
            _ => false,
        }
    }
}

/// A time in which a site does not work at all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outage {
    pub(crate) site: Site,
    /// In microseconds since the world began.
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// How often it hangs instead of failing.
    pub(crate) hangs: f64,
}

impl Outage {
    pub(crate) const fn covers(&self, now: u64) -> bool {
        self.from <= now && now < self.to
    }
}

/// How a life of the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It dies at this await.
    Kill(u64),
    /// It is told to drain at this time, while things go on going wrong.
    Drain(Duration),
    /// From this time on nothing goes wrong any more; it must come to rest, and end.
    Heal(Duration),
}

/// The guards of the dependency.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guards {
    pub(crate) timeout: Duration,
    pub(crate) attempts: u32,
    pub(crate) rate: Option<(u32, Duration, u32)>,
    pub(crate) concurrency: Option<usize>,
    pub(crate) breaker: Option<OnOpen>,
    pub(crate) fault_when_exhausted: bool,
    pub(crate) return_limit: Option<u32>,
}

/// All that a seed decides beforehand.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) shards: usize,
    pub(crate) processes: usize,
    pub(crate) each: bool,
    /// A record's deadline, where records are acknowledged one by one.
    pub(crate) deadline: Duration,
    pub(crate) shapes: Vec<Shape>,
    /// The log: shard, key and kind of each record.
    pub(crate) log: Vec<(usize, u64, Kind)>,
    /// How many of them are there from the beginning; the others come one by one.
    pub(crate) at_once: usize,
    pub(crate) latency: f64,
    menus: BTreeMap<Site, Vec<(Act, f64)>>,
    pub(crate) outages: Vec<Outage>,
    pub(crate) lives: Vec<Ending>,
    pub(crate) guards: Guards,
    pub(crate) in_flight: usize,
    pub(crate) read_most: usize,
    pub(crate) commit_every: Duration,
    pub(crate) commit_records: u64,
    pub(crate) flood: Option<(f64, u32)>,
    pub(crate) max_deliveries: Option<u32>,
    /// Somebody plays with the switches of the handle.
    pub(crate) switches: bool,
    /// Somebody has single records skipped: those that are returned again and again, and some others.
    pub(crate) skips: bool,
    /// Records are given a batch at a time, by a host.
    pub(crate) host: bool,
    /// Ends by a signal, or because the source ends.
    pub(crate) ends_by_signal: bool,
    pub(crate) drain: Duration,
}

/// A chance that is nothing half of the time, and mostly small.
fn often(rng: &mut Rng, most: f64) -> f64 {
    if rng.chance(0.5) {
        return 0.0;
    }
    let x = rng.below(1_001) as f64 / 1_000.0;
    x * x * most
}

impl Plan {
    pub(crate) fn acknowledge(&self) -> Acknowledge {
        if self.each { Acknowledge::Each } else { Acknowledge::Prefix }
    }

    /// The pipelines that ask a ledger.
    pub(crate) fn dedupes(&self) -> Vec<usize> {
        let dedupes = |pipe: &usize| matches!(self.shapes[*pipe], Shape::Dedupe { .. });
        (0..self.shapes.len()).filter(dedupes).collect()
    }

    /// What may happen at a site, and how likely each is.
    pub(crate) fn menu(&self, site: Site) -> &[(Act, f64)] {
        self.menus.get(&site).map_or(&[], Vec::as_slice)
    }

    /// Draws the plan of a case.
    pub(crate) fn draw(case: &Case) -> Self {
        let rng = &mut Rng::new(case.seed, 1);
        let mut plan = Self {
            seed: case.seed,
            shards: rng.pick(&[1, 1, 2, 3]),
            processes: 1,
            each: rng.chance(0.25),
            deadline: Duration::from_secs(3600),
            shapes: vec![Shape::Parallel(rng.pick(&[1, 2, 4, 16]))],
            log: Vec::new(),
            at_once: 0,
            latency: rng.pick(&[0.0, 0.1, 0.5]),
            menus: BTreeMap::new(),
            outages: Vec::new(),
            lives: Vec::new(),
            guards: Guards {
                timeout: rng.pick(&[50, 400, 2_000].map(Duration::from_millis)),
                attempts: rng.pick(&[1, 2, 4]),
                rate: None,
                concurrency: if rng.chance(0.3) { Some(rng.pick(&[1, 2, 5])) } else { None },
                breaker: None,
                fault_when_exhausted: rng.chance(0.2),
                return_limit: if rng.chance(0.1) { Some(3) } else { None },
            },
            in_flight: rng.pick(&[1, 3, 8, 30, 1_000]),
            read_most: rng.pick(&[1, 4, 100]),
            commit_every: rng.pick(&[10, 200, 1_000].map(Duration::from_millis)),
            commit_records: rng.pick(&[1, 5, 10_000]),
            flood: None,
            max_deliveries: None,
            switches: false,
            skips: false,
            host: false,
            ends_by_signal: rng.chance(0.5),
            drain: Duration::from_secs(rng.pick(&[1, 5, 20])),
        };
        plan.draw_menus(&mut Rng::new(case.seed, 2));
        let records = rng.pick(&[0, 1, 2, 10, 40, 120]);
        plan.draw_log(&mut Rng::new(case.seed, 3), records);
        plan.draw_lives(&mut Rng::new(case.seed, 4));
        case.scenario.tune(&mut plan, &mut Rng::new(case.seed, 5));
        plan.apply(case);
        plan
    }

    fn draw_menus(&mut self, rng: &mut Rng) {
        if rng.chance(0.1) {
            // nothing at all goes wrong: then much more can be asked
            return;
        }
        let handler = [
            (Act::Slow, 0.3),
            (Act::Fail, 0.5),
            (Act::Lost, 0.3),
            (Act::Hang, 0.2),
            (Act::HangAfter, 0.2),
            (Act::Panic, 0.1),
            (Act::PanicAfter, 0.1),
            (Act::Throttle, 0.3),
            (Act::Reject, 0.1),
            (Act::Fatal, 0.05),
        ];
        let bulk = [
            (Act::Mixed, 1.0),
            (Act::Silent, 0.3),
            (Act::Fail, 0.3),
            (Act::Lost, 0.3),
            (Act::Hang, 0.2),
            (Act::HangAfter, 0.2),
            (Act::Panic, 0.1),
            (Act::PanicAfter, 0.1),
            (Act::Throttle, 0.2),
            (Act::Fatal, 0.03),
        ];
        let faults = [
            (Act::Mixed, 0.5),
            (Act::Silent, 0.2),
            (Act::Fail, 0.3),
            (Act::Lost, 0.3),
            (Act::Hang, 0.2),
            (Act::HangAfter, 0.2),
            (Act::Panic, 0.1),
            (Act::PanicAfter, 0.1),
            (Act::Reject, 0.1),
            (Act::Throttle, 0.1),
        ];
        let commit = [
            (Act::Slow, 0.2),
            (Act::Fail, 0.4),
            (Act::Lost, 0.4),
            (Act::Hang, 0.1),
            (Act::HangAfter, 0.1),
            (Act::Fence, 0.1),
        ];
        let read = [
            (Act::Slow, 0.2),
            (Act::Fail, 0.3),
            (Act::Empty, 0.2),
            (Act::Stall, 0.1),
            (Act::Again, 0.15),
            (Act::Twice, 0.2),
            (Act::Gap, 0.03),
        ];
        let tables: [(Site, &[(Act, f64)]); 7] = [
            (Site::Handler, &handler),
            (Site::Bulk, &bulk),
            (Site::Faults, &faults),
            (Site::Commit, &commit),
            (Site::Read, &read),
            (Site::Next, &[(Act::Fail, 0.3)]),
            (Site::Release, &[(Act::Fail, 0.3), (Act::Hang, 0.2)]),
        ];
        for (site, table) in tables {
            let menu = table.iter().map(|(act, most)| (*act, often(rng, *most))).collect();
            self.menus.insert(site, menu);
        }
        let extend = vec![(Act::Fail, often(rng, 0.5)), (Act::Hang, often(rng, 0.2))];
        self.menus.insert(Site::Extend, extend);
        if rng.chance(0.2) {
            let acts = [Act::Revoke, Act::Lose, Act::Steal];
            self.menus.insert(Site::Owner, acts.map(|act| (act, 0.1 + often(rng, 0.3))).into());
        }
        let ledger = [
            (Act::Slow, 0.2),
            (Act::Fail, 0.3),
            (Act::Lost, 0.4),
            (Act::Hang, 0.2),
            (Act::HangAfter, 0.2),
            (Act::Panic, 0.05),
            (Act::PanicAfter, 0.05),
            (Act::Throttle, 0.2),
        ];
        let ledger = ledger.map(|(act, most)| (act, often(rng, most)));
        self.menus.insert(Site::Ledger, ledger.into());
    }

    /// Makes one act likelier; it keeps its place.
    pub(crate) fn raise(&mut self, site: Site, act: Act, chance: f64) {
        let menu = self.menus.entry(site).or_default();
        match menu.iter_mut().find(|(known, _)| *known == act) {
            Some((_, own)) => *own = chance.max(*own),
            None => menu.push((act, chance)),
        }
    }

    /// Takes some acts out, everywhere.
    pub(crate) fn without(&mut self, acts: &[Act]) {
        for menu in self.menus.values_mut() {
            menu.retain(|(act, _)| !acts.contains(act));
        }
    }

    pub(crate) fn draw_log(&mut self, rng: &mut Rng, records: usize) {
        let keys = rng.pick(&[1, 3, 20]);
        let poison = often(rng, 0.4);
        let skip = often(rng, 0.5);
        let garbled = often(rng, 0.2);
        self.log = (0..records)
            .map(|_| {
                let shard = rng.index(self.shards);
                let key = rng.below(keys);
                let kind = if rng.chance(poison) {
                    Kind::Poison
                } else if rng.chance(skip) {
                    Kind::Skip
                } else if rng.chance(garbled) {
                    Kind::Garbled
                } else {
                    Kind::Good
                };
                (shard, key, kind)
            })
            .collect();
        self.at_once = if rng.chance(0.5) { records } else { rng.index(records + 1) };
    }

    fn draw_lives(&mut self, rng: &mut Rng) {
        let lives = rng.pick(&[0, 0, 1, 1, 2, 4]);
        self.lives = (0..lives)
            .map(|_| match rng.chance(0.85) {
                true => {
                    let most = rng.pick(&[10, 60, 400]);
                    Ending::Kill(rng.between(1, most))
                }
                false => Ending::Drain(rng.millis(1, 5_000)),
            })
            .collect();
        self.lives.push(Ending::Heal(rng.millis(0, 60_000)));
    }

    /// What a shrunk case takes away.
    fn apply(&mut self, case: &Case) {
        if let Some(records) = case.records {
            self.log.truncate(records);
            self.at_once = self.at_once.min(records);
        }
        if let Some(shards) = case.shards {
            self.shards = self.shards.min(shards.max(1));
            let shards = self.shards;
            self.log.iter_mut().for_each(|(shard, ..)| *shard %= shards);
        }
        if let Some(lives) = &case.lives {
            let heal = self.lives.pop();
            self.lives = lives.iter().map(|at| Ending::Kill(*at)).collect();
            self.lives.extend(heal);
        }
        let off: BTreeSet<&str> = case.off.iter().map(String::as_str).collect();
        for menu in self.menus.values_mut() {
            menu.retain(|(act, chance)| *chance > 0.0 && !off.contains(act.name().as_str()));
        }
        if off.contains("latency") {
            self.latency = 0.0;
        }
        if off.contains("poison") {
            for (_, _, kind) in &mut self.log {
                if matches!(kind, Kind::Poison | Kind::Garbled | Kind::Skip) {
                    *kind = Kind::Good;
                }
            }
        }
        if off.contains("outage") {
            self.outages.clear();
        }
        if case.calm {
            self.menus.clear();
            self.outages.clear();
            self.latency = 0.0;
        }
    }

    /// Whether nothing can go wrong.
    pub(crate) fn is_calm(&self) -> bool {
        // gates that take their time may use up a short timeout
        let in_time = self.latency == 0.0 || self.guards.timeout > Duration::from_millis(200);
        in_time
            && self.outages.is_empty()
            && self.menus.values().all(|menu| menu.iter().all(|(_, chance)| *chance == 0.0))
            && self.lives.len() == 1
            && !self.switches
            && !self.skips
            && !self.host
            && !self.log.iter().any(|(_, _, kind)| *kind == Kind::Killer)
    }

    /// The acts that can happen, by name.
    pub(crate) fn acts(&self) -> BTreeSet<String> {
        let acts = self.menus.values().flatten().filter(|(_, chance)| *chance > 0.0);
        let mut names: BTreeSet<String> = acts.map(|(act, _)| act.name()).collect();
        if self.latency > 0.0 {
            names.insert("latency".into());
        }
        if !self.outages.is_empty() {
            names.insert("outage".into());
        }
        let stays = |kind: &Kind| matches!(kind, Kind::Good | Kind::Killer | Kind::Stuck);
        if self.log.iter().any(|(_, _, kind)| !stays(kind)) {
            names.insert("poison".into());
        }
        names
    }
}

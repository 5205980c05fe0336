//! The scenarios: what kind of processor runs, and what it goes through.

use std::time::Duration;

use streambreaker::resource::OnOpen;

use super::gate::{Act, Site};
use super::plan::{Ending, Outage, Plan, Shape};
use super::rng::Rng;
use super::world::Kind;

macro_rules! scenarios {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What a simulation is of.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Scenario {
            $($(#[$doc])* $name,)*
        }

        impl Scenario {
            /// All of them.
            pub const ALL: &'static [Scenario] = &[$(Scenario::$name,)*];

            /// Its name in a case.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Scenario::$name => $text,)*
                }
            }

            /// The scenario of this name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|scenario| scenario.name() == name)
            }
        }
    };
}

scenarios! {
    /// One handler, several at once.
    Plain = "plain",
    /// The same, one at a time.
    Call = "call",
    /// The same, on a source that acknowledges one by one and gives records to others after a deadline.
    Each = "each",
    /// Groups by key.
    Grouped = "grouped",
    /// Each key in order.
    Keyed = "keyed",
    /// A bulk API.
    Bulk = "bulk",
    /// A bulk API, each key in order.
    BulkOrdered = "bulk-ordered",
    /// Several pipelines over one source.
    Pipelines = "pipelines",
    /// A circuit breaker before a dependency that fails much.
    Breaker = "breaker",
    /// A rate and permits for the whole process.
    Rate = "rate",
    /// The fault sink is down for long, and much is refused.
    FaultOutage = "fault-outage",
    /// The dependency is down for an hour.
    Outage = "outage",
    /// Two processors, and shards that move between them.
    Rebalance = "rebalance",
    /// Drains while things go wrong.
    Drain = "drain",
    /// A record that kills the process each time.
    CrashLoop = "crash-loop",
    /// Nearly all is refused, and the flood guard is on.
    Flood = "flood",
    /// An operator who pauses pipelines and holds breakers.
    Switches = "switches",
    /// A host that gives records a batch at a time, and waits for their fates.
    Host = "host",
    /// Records in parts.
    Split = "split",
    /// Only the newest of a key goes on.
    Compact = "compact",
    /// Events that are published.
    Publish = "publish",
    /// What has been done is left out.
    Dedupe = "dedupe",
    /// Records that are returned for ever, until an operator has them skipped.
    Skip = "skip",
    /// Any pipelines at all, over any source; shards move, and processes drain.
    Mixed = "mixed",
    /// A few records and one shard, for every kill point there is.
    Tiny = "tiny",
    /// The same in groups.
    TinyGrouped = "tiny-grouped",
    /// The same with a bulk API.
    TinyBulk = "tiny-bulk",
    /// The same by key, acknowledged one by one.
    TinyEach = "tiny-each",
    /// The same in parts.
    TinySplit = "tiny-split",
    /// The same, only the newest of a key.
    TinyCompact = "tiny-compact",
    /// The same, published.
    TinyPublish = "tiny-publish",
    /// The same, without what has been done.
    TinyDedupe = "tiny-dedupe",
}

impl Scenario {
    /// Changes what the seed has drawn into what the scenario is about.
    pub(crate) fn tune(self, plan: &mut Plan, rng: &mut Rng) {
        let width = rng.pick(&[1, 2, 4, 16]);
        match self {
            Scenario::Plain => {}
            Scenario::Call => plan.shapes = vec![Shape::Call],
            Scenario::Each => {
                plan.each = true;
                plan.deadline = rng.pick(&[30, 300].map(Duration::from_secs));
                plan.guards.timeout = plan.guards.timeout.min(Duration::from_millis(400));
                if rng.chance(0.4) {
                    // nobody gets more time, and faults wait for their sink: leases run out
                    plan.deadline = Duration::from_secs(30);
                    plan.raise(Site::Extend, Act::Fail, 1.0);
                    plan.raise(Site::Faults, Act::Fail, 0.95);
                    plan.raise(Site::Handler, Act::Reject, 0.2);
                    heal_at(plan, Duration::from_secs(120));
                }
            }
            Scenario::Grouped => {
                plan.shapes = vec![Shape::Grouped { items: rng.pick(&[1, 2, 5, 50]), width }];
            }
            Scenario::Keyed => plan.shapes = vec![Shape::ByKey(width)],
            Scenario::Bulk | Scenario::BulkOrdered => {
                let requests = rng.pick(&[1, 2, 4]);
                let ordered = self == Scenario::BulkOrdered;
                plan.shapes = vec![Shape::Bulk { items: rng.pick(&[1, 3, 20]), requests, ordered }];
            }
            Scenario::Pipelines => {
                plan.shapes = vec![
                    Shape::Parallel(width),
                    Shape::ByKey(rng.pick(&[1, 3])),
                    Shape::Bulk { items: 5, requests: 2, ordered: false },
                    Shape::Grouped { items: 3, width: 2 },
                ];
                plan.shapes.rotate_left(rng.index(4));
                plan.shapes.truncate(rng.pick(&[2, 3, 4]));
            }
            Scenario::Breaker => {
                plan.guards.breaker =
                    Some(rng.pick(&[OnOpen::Fault, OnOpen::Pause, OnOpen::Siphon]));
                plan.raise(Site::Handler, Act::Fail, 0.4);
                plan.draw_log(rng, 120);
            }
            Scenario::Rate => {
                let n = rng.pick(&[1, 5, 50]);
                let per = rng.pick(&[100, 1_000].map(Duration::from_millis));
                plan.guards.rate = Some((n, per, rng.pick(&[1, 3, 10])));
                plan.guards.concurrency = Some(rng.pick(&[1, 3]));
            }
            Scenario::FaultOutage => {
                let minutes = rng.between(1, 60);
                plan.outages.push(Outage {
                    site: Site::Faults,
                    from: 0,
                    to: minutes * 60_000_000,
                    hangs: 0.2,
                });
                plan.draw_log(rng, 60);
                for (index, (_, _, kind)) in plan.log.iter_mut().enumerate() {
                    if index % 2 == 0 {
                        *kind = Kind::Poison;
                    }
                }
                heal_at(plan, Duration::from_secs(minutes * 60 + 10));
            }
            Scenario::Outage => {
                let from = rng.between(0, 2_000_000);
                plan.outages.push(Outage {
                    site: Site::Handler,
                    from,
                    to: from + 3_600_000_000,
                    hangs: rng.pick(&[0.0, 0.3, 1.0]),
                });
                plan.guards.fault_when_exhausted = false;
                plan.guards.return_limit = None;
                heal_at(plan, Duration::from_secs(3_610));
            }
            Scenario::Rebalance => {
                plan.processes = 2;
                plan.shards = rng.pick(&[1, 2, 4]);
                let shards = plan.shards;
                plan.log.iter_mut().enumerate().for_each(|(i, (shard, ..))| *shard = i % shards);
                for act in [Act::Revoke, Act::Lose, Act::Steal] {
                    plan.raise(Site::Owner, act, 0.25);
                }
                plan.raise(Site::Commit, Act::Fence, 0.03);
                plan.shapes = vec![rng.pick(&[Shape::Parallel(4), Shape::ByKey(3)])];
                plan.at_once /= 2;
            }
            Scenario::Drain => {
                let heal = plan.lives.pop();
                plan.lives = (0..rng.between(1, 3))
                    .map(|_| Ending::Drain(rng.millis(0, 3_000)))
                    .chain(heal)
                    .collect();
                plan.shapes = vec![rng.pick(&[
                    Shape::Parallel(4),
                    Shape::ByKey(2),
                    Shape::Grouped { items: 50, width: 2 },
                    Shape::Bulk { items: 20, requests: 2, ordered: false },
                ])];
            }
            Scenario::CrashLoop => {
                // at 2 nothing is left in which a suspect could run alone
                plan.max_deliveries = Some(rng.pick(&[3, 4, 6]));
                plan.without(&[Act::Fence, Act::Again, Act::Twice, Act::Gap, Act::Stall]);
                plan.without(&[Act::Revoke, Act::Lose, Act::Steal]);
                plan.draw_log(rng, 30);
                let killer = rng.index(plan.log.len());
                plan.log[killer].2 = Kind::Killer;
                plan.at_once = plan.log.len();
                // it dies of the record alone, life after life, until the record is given up
                plan.lives = vec![Ending::Heal(rng.millis(0, 20_000))];
            }
            Scenario::Flood => {
                plan.commit_every = Duration::from_secs(1);
                plan.flood = Some((0.5, rng.pick(&[5, 20])));
                plan.draw_log(rng, 120);
                for (index, (_, _, kind)) in plan.log.iter_mut().enumerate() {
                    if index % 10 != 0 {
                        *kind = Kind::Poison;
                    }
                }
                plan.guards.return_limit = None;
            }
            Scenario::Switches => {
                plan.switches = true;
                plan.shapes = vec![rng.pick(&[
                    Shape::Parallel(4),
                    Shape::ByKey(2),
                    Shape::Grouped { items: 3, width: 2 },
                    Shape::Bulk { items: 5, requests: 2, ordered: false },
                ])];
                if matches!(plan.shapes[0], Shape::Parallel(_)) {
                    plan.shapes.push(Shape::Call);
                    plan.guards.breaker = Some(rng.pick(&[OnOpen::Fault, OnOpen::Pause]));
                    plan.guards.fault_when_exhausted = true;
                }
            }
            Scenario::Host => {
                plan.host = true;
                plan.each = true;
                plan.shapes = vec![rng.pick(&[
                    Shape::Call,
                    Shape::Parallel(width),
                    Shape::ByKey(width),
                    Shape::Grouped { items: 3, width: 2 },
                    Shape::Bulk { items: 5, requests: 2, ordered: false },
                ])];
            }
            Scenario::Split => plan.shapes = vec![Shape::Split { width }],
            Scenario::Compact => plan.shapes = vec![compact(rng, width)],
            Scenario::Publish => plan.shapes = vec![publish(rng)],
            Scenario::Dedupe => plan.shapes = vec![Shape::Dedupe { width }],
            Scenario::Skip => {
                plan.skips = true;
                plan.guards.fault_when_exhausted = false;
                plan.guards.return_limit = None;
                plan.draw_log(rng, 40);
                for _ in 0..rng.between(1, 3) {
                    let stuck = rng.index(plan.log.len());
                    plan.log[stuck].2 = Kind::Stuck;
                }
                let mut shapes = any_shapes(rng, width);
                // only those where one can see from outside what has become of whom
                shapes
                    .retain(|shape| !matches!(shape, Shape::Compact { .. } | Shape::Dedupe { .. }));
                plan.shapes = vec![rng.pick(&shapes)];
            }
            Scenario::Mixed => {
                let shapes = any_shapes(rng, width);
                plan.shapes = (0..rng.between(1, 4)).map(|_| rng.pick(&shapes)).collect();
                plan.processes = rng.pick(&[1, 1, 2]);
                if plan.processes == 2 {
                    for act in [Act::Revoke, Act::Lose, Act::Steal] {
                        plan.raise(Site::Owner, act, 0.15);
                    }
                }
                if rng.chance(0.3) {
                    plan.guards.breaker = Some(rng.pick(&[OnOpen::Fault, OnOpen::Pause]));
                    plan.guards.fault_when_exhausted = true;
                }
                if rng.chance(0.5) {
                    plan.lives.insert(0, Ending::Drain(rng.millis(0, 3_000)));
                }
            }
            _ => self.shrink_plan(plan),
        }
    }

    fn shrink_plan(self, plan: &mut Plan) {
        plan.shards = 1;
        plan.each = self == Scenario::TinyEach;
        plan.guards.concurrency = Some(2);
        plan.guards.return_limit = None;
        plan.in_flight = 3;
        plan.read_most = 2;
        plan.commit_records = 1;
        plan.latency = 0.0;
        plan.log = vec![(0, 0, Kind::Good), (0, 1, Kind::Poison), (0, 0, Kind::Good)];
        plan.at_once = 3;
        plan.ends_by_signal = false;
        plan.shapes = vec![match self {
            Scenario::TinyGrouped => Shape::Grouped { items: 2, width: 2 },
            Scenario::TinyBulk => Shape::Bulk { items: 2, requests: 2, ordered: false },
            Scenario::TinyEach => Shape::ByKey(2),
            Scenario::TinySplit => Shape::Split { width: 2 },
            Scenario::TinyCompact => Shape::Compact { items: 2, width: 2, by_rank: false },
            Scenario::TinyPublish => Shape::Publish { items: 2, requests: 2 },
            Scenario::TinyDedupe => Shape::Dedupe { width: 2 },
            _ => Shape::Parallel(2),
        }];
        plan.lives = vec![Ending::Heal(Duration::ZERO)];
    }
}

fn compact(rng: &mut Rng, width: usize) -> Shape {
    Shape::Compact { items: rng.pick(&[1, 2, 5, 50]), width, by_rank: rng.chance(0.5) }
}

fn publish(rng: &mut Rng) -> Shape {
    Shape::Publish { items: rng.pick(&[1, 3, 20]), requests: rng.pick(&[1, 2, 4]) }
}

/// One of each kind.
fn any_shapes(rng: &mut Rng, width: usize) -> Vec<Shape> {
    vec![
        Shape::Call,
        Shape::Parallel(width),
        Shape::ByKey(width),
        Shape::Grouped { items: rng.pick(&[1, 3, 20]), width },
        Shape::Bulk { items: rng.pick(&[1, 3, 20]), requests: 2, ordered: rng.chance(0.5) },
        Shape::Split { width },
        compact(rng, width),
        publish(rng),
        Shape::Dedupe { width },
    ]
}

fn heal_at(plan: &mut Plan, at: Duration) {
    // the processor's own tick goes by it: hours of it would be most of the run
    plan.commit_every = Duration::from_secs(1);
    if let Some(last) = plan.lives.last_mut() {
        *last = Ending::Heal(at);
    }
}

//! The gates: where the simulator may hurt a run.
//!
//! Everything that a fake does to the world passes a gate before and after its effect. A gate is an await
//! that is counted: a kill parks the run at await `n`, and the runtime is dropped there. So each effect has
//! two points at which a process can die: it has not happened, or it has and nobody was told.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use streambreaker::Timestamp;
use streambreaker::clock::Clock;

use super::plan::Plan;
use super::world::World;

/// Where something can be injected. Each has its own stream of randomness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Site {
    /// A handler calls its dependency.
    Handler,
    /// A bulk request.
    Bulk,
    /// A write to the fault sink.
    Faults,
    /// A commit, or acknowledgements.
    Commit,
    /// A read of a shard.
    Read,
    /// Asking for changes of ownership.
    Next,
    /// Giving a shard back.
    Release,
    /// Asking for more time.
    Extend,
    /// Who owns what.
    Owner,
    /// The ledger of what has been done.
    Ledger,
}

pub(crate) const SITES: [Site; 10] = [
    Site::Handler,
    Site::Bulk,
    Site::Faults,
    Site::Commit,
    Site::Read,
    Site::Next,
    Site::Release,
    Site::Extend,
    Site::Owner,
    Site::Ledger,
];

/// Awaits after which a life leads nowhere; one that comes to rest has a hundredth of them.
const MOST_AWAITS: u64 = 300_000;

/// What happens at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Act {
    /// It works.
    Ok,
    /// It works, but takes a while.
    Slow,
    /// Fails before it has any effect.
    Fail,
    /// Has its effect; the reply is lost.
    Lost,
    /// Never answers, and has no effect.
    Hang,
    /// Has its effect, and never answers.
    HangAfter,
    /// Panics before it has any effect.
    Panic,
    /// Panics after its effect.
    PanicAfter,
    /// Asks for less.
    Throttle,
    /// Refuses for good.
    Reject,
    /// Fails in a way that nobody handles.
    Fatal,
    /// A bulk request whose items end one by one, in any shape.
    Mixed,
    /// A bulk request that succeeds without a word on its items.
    Silent,
    /// The shard is someone else's by now.
    Fence,
    /// Nothing new.
    Empty,
    /// No answer for a while.
    Stall,
    /// A suffix of what was delivered comes again.
    Again,
    /// A record comes twice in a batch.
    Twice,
    /// Records are gone before they were read.
    Gap,
    /// A shard is taken away, with notice.
    Revoke,
    /// A shard is taken away, without notice, and the owner is told.
    Lose,
    /// A shard is given to someone, and the owner is not told.
    Steal,
}

impl Act {
    /// Its name in a case, to be switched off.
    pub(crate) fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// What a run shares: its plan, and the world.
pub(crate) struct Sim {
    pub(crate) plan: Plan,
    world: Mutex<World>,
}

impl Sim {
    pub(crate) fn new(plan: Plan) -> Arc<Self> {
        let world = Mutex::new(World::new(&plan));
        Arc::new(Self { plan, world })
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        // a panic of ours inside would be a failure of the run already
        self.world.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Passes a gate: is counted, may be where the process dies, may take a while.
    pub(crate) async fn gate(&self, site: Site, what: String) {
        let latency = {
            let mut world = self.world();
            if self.passes(&mut world, site, what) {
                let p = self.plan.latency;
                let rng = world.rng(site);
                if rng.chance(p) { Some(rng.millis(1, 30)) } else { None }
            } else {
                Some(Duration::MAX)
            }
        };
        match latency {
            None => {}
            Some(Duration::MAX) => std::future::pending().await,
            Some(latency) => tokio::time::sleep(latency).await,
        }
        self.alive().await;
    }

    /// A gate that takes no time, where the future may be dropped and made anew at any moment.
    pub(crate) async fn quick_gate(&self, site: Site, what: String) {
        let passes = self.passes(&mut self.world(), site, what);
        if !passes {
            std::future::pending().await
        }
    }

    fn passes(&self, world: &mut World, site: Site, what: String) -> bool {
        if world.frozen {
            return false;
        }
        world.awaits += 1;
        let awaits = world.awaits;
        if awaits == MOST_AWAITS {
            world.fail("S6", "goes round in circles");
            return false;
        }
        world.trace(format_args!("{awaits} {site:?} {what}"));
        if world.kill_at == Some(awaits) {
            world.frozen = true;
            world.sometimes("killed");
            world.trace(format_args!("KILLED"));
            world.stop.notify_one();
            return false;
        }
        true
    }

    /// Pending for ever once the process is dead: nobody works on in a world that stands still.
    pub(crate) async fn alive(&self) {
        if self.world().frozen {
            std::future::pending().await
        }
    }

    /// What happens at a site.
    pub(crate) fn draw(&self, site: Site) -> Act {
        let mut world = self.world();
        if !world.chaos {
            return Act::Ok;
        }
        let now = world.now();
        if let Some(outage) = self.plan.outages.iter().find(|o| o.site == site && o.covers(now)) {
            world.injected = true;
            world.sometimes("outage");
            let hangs = outage.hangs;
            return if world.rng(site).chance(hangs) { Act::Hang } else { Act::Fail };
        }
        let rng = world.rng(site);
        let mut left = (rng.u64() >> 11) as f64 / (1u64 << 53) as f64;
        let mut drawn = Act::Ok;
        for (act, chance) in self.plan.menu(site) {
            left -= chance;
            if left < 0.0 {
                drawn = *act;
                break;
            }
        }
        if drawn != Act::Ok {
            world.injected = true;
            world.trace(format_args!("{site:?} gets {drawn:?}"));
        }
        drawn
    }
}

/// The wall clock of the world.
pub(crate) struct SimClock(pub(crate) Arc<Sim>);

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.0.world().clock()
    }
}

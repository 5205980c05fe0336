//! Settlement as a state machine, against a model that knows neither words nor batches.

use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

use super::{Batch, LaneState, PipelineInfo};
use crate::clock::SystemClock;
use crate::envelope::JsonEnvelope;
use crate::fault::{FaultList, FloodGuard, Floodgate};
use crate::record::{Position, Record, ShardId};

mod machine;
mod model;

/// What the lanes of one shard share, and they themselves: one a pipeline.
pub(crate) struct Shared {
    pub(crate) lanes: Vec<Arc<LaneState>>,
    #[cfg_attr(not(shuttle), expect(dead_code, reason = "for `threads`"))]
    pub(crate) faults: Arc<FaultList>,
    #[cfg_attr(not(shuttle), expect(dead_code, reason = "for `threads`"))]
    pub(crate) signal: Arc<Notify>,
}

impl Shared {
    pub(crate) fn new(lanes: usize) -> Self {
        let faults = Arc::new(FaultList::default());
        let signal = Arc::new(Notify::new());
        let lane = |index| {
            let info = PipelineInfo {
                name: format!("q{index}"),
                index,
                processor: "p".to_owned(),
                formerly: Vec::new(),
                stages: OnceLock::new(),
                flood: Floodgate::new(FloodGuard::off(), "p", "q"),
                restarts: Default::default(),
                paused: Default::default(),
                settings: OnceLock::new(),
                lines: Default::default(),
            };
            LaneState::new(
                Arc::new(info),
                "s".into(),
                ShardId::new("0"),
                faults.clone(),
                Arc::new(SystemClock),
                signal.clone(),
            )
        };
        Self { lanes: (0..lanes).map(lane).collect(), faults, signal }
    }
}

pub(crate) fn batch(from: u64, n: usize) -> Arc<Batch> {
    let records =
        (from..from + n as u64).map(|at| Record::new("s", "0", Position::from(at), "x")).collect();
    Batch::new(records, Arc::new(JsonEnvelope::new()), None, false)
}

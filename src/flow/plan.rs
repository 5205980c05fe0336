//! What a flow says about itself while it is built: the names of its stages and their share of the time
//! budget.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::resource::Resource;
use crate::settle::StageInfo;

/// One stage, as its combinator described it.
#[derive(Clone, Debug)]
pub(crate) struct StagePlan {
    pub(crate) combinator: &'static str,
    pub(crate) name: Option<String>,
    /// How long a unit may be held to wait for others.
    pub(crate) linger: Duration,
    pub(crate) resource: Option<Resource>,
    /// How many units or requests it works on at once.
    pub(crate) width: Option<usize>,
}

impl StagePlan {
    pub(crate) fn new(combinator: &'static str) -> Self {
        Self { combinator, name: None, linger: Duration::ZERO, resource: None, width: None }
    }

    pub(crate) fn calls(mut self, resource: &Resource, width: usize) -> Self {
        self.resource = Some(resource.clone());
        self.width = Some(width);
        self
    }

    pub(crate) fn lingers(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }
}

/// The names that the stages have: their own, or the combinator's with a number from the second on.
pub(crate) fn named_stages(plan: &[StagePlan]) -> Vec<StageInfo> {
    let mut seen = BTreeMap::new();
    plan.iter()
        .map(|stage| {
            let count = seen.entry(stage.combinator).and_modify(|n| *n += 1).or_insert(1);
            let name = match (&stage.name, *count) {
                (Some(name), _) => name.clone(),
                (None, 1) => stage.combinator.to_owned(),
                (None, n) => format!("{}#{n}", stage.combinator),
            };
            StageInfo { name, resource: stage.resource.as_ref().map(|r| r.name().to_owned()) }
        })
        .collect()
}

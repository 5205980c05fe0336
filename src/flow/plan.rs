//! What a flow says about itself while it is built: the names of its stages and their share of the time
//! budget.

use std::collections::BTreeMap;
use std::time::Duration;

use super::gather::Window;
use crate::resource::{Rate, Resource};
use crate::settle::StageInfo;

/// One stage, as its combinator described it.
#[derive(Clone, Debug)]
pub(crate) struct StagePlan {
    pub(crate) combinator: &'static str,
    pub(crate) name: Option<String>,
    /// What it gathers before it hands on.
    pub(crate) window: Option<Window>,
    /// How many units it lets through in a time.
    pub(crate) rate: Option<Rate>,
    pub(crate) resource: Option<Resource>,
    /// How many units or requests it works on at once.
    pub(crate) width: Option<usize>,
    /// The fields of a [`StageConfig`](crate::config::StageConfig) that change something in it.
    pub(crate) settings: &'static [&'static str],
}

impl StagePlan {
    pub(crate) fn new(combinator: &'static str) -> Self {
        Self {
            combinator,
            name: None,
            window: None,
            rate: None,
            resource: None,
            width: None,
            settings: &[],
        }
    }

    pub(crate) fn calls(mut self, resource: &Resource, width: usize) -> Self {
        self.resource = Some(resource.clone());
        self.width = Some(width);
        self
    }

    /// What may be configured of it.
    pub(crate) fn takes(mut self, settings: &'static [&'static str]) -> Self {
        self.settings = settings;
        self
    }

    pub(crate) fn gathers(mut self, window: Window) -> Self {
        self.window = Some(window);
        self
    }

    pub(crate) fn lets_through(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// How long a unit may be held to wait for others.
    pub(crate) fn linger(&self) -> Duration {
        self.window.map_or(Duration::ZERO, |window| window.linger)
    }

    /// Its settings in words, behind its name.
    pub(crate) fn describe(&self, name: &str) -> String {
        let width = self.width.map(|n| format!("{n} at once"));
        let window = self.window.map(Window::describe);
        let rate = self.rate.map(Rate::describe);
        let resource = self.resource.as_ref().map(|resource| format!("`{}`", resource.name()));
        let all: Vec<String> = [width, window, rate, resource].into_iter().flatten().collect();
        if all.is_empty() { name.to_owned() } else { format!("{name} ({})", all.join(", ")) }
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

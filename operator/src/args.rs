//! What several commands take: which faults, which records, who and why, how to print.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::Args;
use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;
use serde::{Deserialize, de};
use streambreaker::{By, Class, Position, Timestamp};
use streambreaker_lake::{FaultSelection, Selection};
use uuid::Uuid;

use crate::failure::Failure;
use crate::key::Key;
use crate::time::Moment;

/// How to print.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct Output {
    /// Print JSON, and nothing else, on standard output
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

/// Where the lake is.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LakeAt {
    /// The lake: a directory, instead of the component's own
    #[arg(long, value_name = "DIR", help_heading = "Where")]
    pub(crate) lake: Option<PathBuf>,
}

/// Where the faults are.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct FaultsAt {
    /// A file of faults, one a line, instead of the component's own place for them
    #[arg(long, value_name = "FILE", help_heading = "Where")]
    pub(crate) faults: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) lake: LakeAt,
}

/// Which faults.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct FaultArgs {
    /// Of this stream's records [default: of every stream]
    #[arg(long, help_heading = "Which faults")]
    pub(crate) stream: Option<String>,
    /// The fault of this id; may be repeated
    #[arg(long, value_name = "UUID", help_heading = "Which faults")]
    pub(crate) id: Vec<Uuid>,
    /// Of this kind, as `faults group` lists them
    #[arg(long, help_heading = "Which faults")]
    pub(crate) fingerprint: Option<String>,
    /// Of this class: fault, transient, panic, circuit_open and so on
    #[arg(long, value_parser = class, help_heading = "Which faults")]
    pub(crate) class: Option<Class>,
    /// Refused by this stage
    #[arg(long, help_heading = "Which faults")]
    pub(crate) stage: Option<String>,
    /// Refused by this pipeline
    #[arg(long, help_heading = "Which faults")]
    pub(crate) pipeline: Option<String>,
    /// Of stages that call this resource
    #[arg(long, help_heading = "Which faults")]
    pub(crate) resource: Option<String>,
    /// Of this release of the component
    #[arg(long, help_heading = "Which faults")]
    pub(crate) release: Option<String>,
    /// That faulted at this time or later: 2026-11-26T08:00:00Z, 2026-11-26, or 2h ago as 2h
    #[arg(long, value_name = "TIME", help_heading = "Which faults")]
    pub(crate) since: Option<Moment>,
    /// That faulted before this time
    #[arg(long, value_name = "TIME", help_heading = "Which faults")]
    pub(crate) until: Option<Moment>,
}

impl FaultArgs {
    /// Of this stream, where it lies in a lake; of this processor, whose faults are not others' business.
    pub(crate) fn selection(
        &self,
        stream: &str,
        processor: &str,
        now: Timestamp,
    ) -> FaultSelection {
        let mut selection = FaultSelection::of(stream).processor(processor);
        selection = self.id.iter().fold(selection, |selection, id| selection.id(*id));
        if let Some(fingerprint) = &self.fingerprint {
            selection = selection.fingerprint(fingerprint);
        }
        if let Some(class) = self.class {
            selection = selection.class(class);
        }
        if let Some(stage) = &self.stage {
            selection = selection.stage(stage);
        }
        if let Some(pipeline) = &self.pipeline {
            selection = selection.pipeline(pipeline);
        }
        if let Some(resource) = &self.resource {
            selection = selection.resource(resource);
        }
        if let Some(release) = &self.release {
            selection = selection.release(release);
        }
        if let Some(since) = self.since {
            selection = selection.since(since.before(now));
        }
        if let Some(until) = self.until {
            selection = selection.until(until.before(now));
        }
        selection
    }

    /// # Errors
    /// When no fault can be of such a time.
    pub(crate) fn check(&self, now: Timestamp) -> Result<(), Failure> {
        check(self.since, self.until, now)
    }

    /// Whether anything was selected by.
    pub(crate) fn is_narrowed(&self) -> bool {
        !self.id.is_empty()
            || self.stream.is_some()
            || self.fingerprint.is_some()
            || self.class.is_some()
            || self.stage.is_some()
            || self.pipeline.is_some()
            || self.resource.is_some()
            || self.release.is_some()
            || self.since.is_some()
            || self.until.is_some()
    }
}

fn class(text: &str) -> Result<Class, String> {
    let text: StrDeserializer<'_, de::value::Error> = text.into_deserializer();
    // it says which ones there are
    Class::deserialize(text).map_err(|error| error.to_string())
}

/// Which records.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RecordArgs {
    /// Of this stream [default: the component's, or the only one that there is]
    #[arg(long, help_heading = "Which records")]
    pub(crate) stream: Option<String>,
    /// Of this shard; may be repeated
    #[arg(long, help_heading = "Which records")]
    pub(crate) shard: Vec<String>,
    /// That arrived at this time or later: 2026-11-26T08:00:00Z, 2026-11-26, or 2h ago as 2h
    #[arg(long, value_name = "TIME", help_heading = "Which records")]
    pub(crate) since: Option<Moment>,
    /// That arrived before this time
    #[arg(long, value_name = "TIME", help_heading = "Which records")]
    pub(crate) until: Option<Moment>,
    /// From this position on
    #[arg(long, value_name = "POSITION", help_heading = "Which records")]
    pub(crate) first: Option<Position>,
    /// Up to and with this position
    #[arg(long, value_name = "POSITION", help_heading = "Which records")]
    pub(crate) last: Option<Position>,
    /// Events of this type; may be repeated
    #[arg(long = "type", value_name = "TYPE", help_heading = "Which records")]
    pub(crate) kind: Vec<String>,
    /// Of this key of the transport: a text, or bytes as hex:00ff; may be repeated
    #[arg(long, help_heading = "Which records")]
    pub(crate) key: Vec<Key>,
    /// The event of this id; may be repeated
    #[arg(long, help_heading = "Which records")]
    pub(crate) id: Vec<String>,
}

/// That a span of time holds something.
fn check(since: Option<Moment>, until: Option<Moment>, now: Timestamp) -> Result<(), Failure> {
    match (since, until) {
        (Some(since), Some(until)) if since.before(now) >= until.before(now) => {
            Err(Failure::unusable("--since is not before --until: nothing can be of such a time"))
        }
        _ => Ok(()),
    }
}

impl RecordArgs {
    /// # Errors
    /// When no record can be of such a time.
    pub(crate) fn selection(&self, stream: &str, now: Timestamp) -> Result<Selection, Failure> {
        check(self.since, self.until, now)?;
        let mut selection = Selection::of(stream);
        selection = self.shard.iter().fold(selection, |s, shard| s.shard(shard.as_str()));
        selection = self.kind.iter().fold(selection, |s, kind| s.kind(kind));
        selection = self.key.iter().fold(selection, |s, key| s.key(key.0.clone()));
        selection = self.id.iter().fold(selection, |s, id| s.id(id));
        if let Some(since) = self.since {
            selection = selection.from(since.before(now));
        }
        if let Some(until) = self.until {
            selection = selection.until(until.before(now));
        }
        if let Some(first) = &self.first {
            selection = selection.first(first.clone());
        }
        if let Some(last) = &self.last {
            selection = selection.last(last.clone());
        }
        Ok(selection)
    }

    /// The times that were given as so long ago, as options that mean the same later: a run is resumed with what it was begun.
    pub(crate) fn at_fixed_times(&self, now: Timestamp) -> String {
        let times = [("--since", self.since), ("--until", self.until)];
        let fixed = times.into_iter().filter_map(|(option, moment)| match moment {
            Some(ago @ Moment::Ago(_)) => Some(format!(" {option} {}", ago.before(now))),
            _ => None,
        });
        fixed.collect()
    }
}

/// Who does it, and why.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Who {
    /// Why: it stands in the audit line
    #[arg(long, value_name = "TEXT", help_heading = "Audit")]
    pub(crate) why: Option<String>,
    /// Who does it [default: the user of this session]
    #[arg(long, value_name = "NAME", help_heading = "Audit")]
    pub(crate) who: Option<String>,
}

impl Who {
    /// # Errors
    /// When there is no why, or nobody.
    pub(crate) fn by(&self) -> Result<By, Failure> {
        let why = self.why.as_deref().map(str::trim).unwrap_or_default();
        if why.is_empty() {
            return Err(Failure::unusable(
                "say why: --why \"the mapping has the new field\"; it stands in the audit line",
            ));
        }
        let user =
            || ["USER", "LOGNAME", "USERNAME"].iter().find_map(|name| std::env::var(name).ok());
        let who = self.who.clone().or_else(user).unwrap_or_default();
        match who.trim() {
            "" => {
                Err(Failure::unusable("say who you are: --who NAME; it stands in the audit line"))
            }
            who => Ok(By::new(who, why)),
        }
    }
}

/// How fast.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct Pace {
    /// At most so many a second
    #[arg(long, value_name = "N", help_heading = "How")]
    pub(crate) rate: Option<NonZeroU32>,
}

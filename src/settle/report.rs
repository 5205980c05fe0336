//! The report: every record accounted for.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Tally;
use crate::error::Class;
use crate::record::{Position, ShardId};

/// What became of every record that a processor read in this life.
///
/// Records are counted once a pipeline, by their last fate:
/// `read = done + filtered + faulted + returned + open`. How often something was tried again stands beside.
///
/// `Display` prints a table that ends with where the faults are and what to do next; it holds no text of any
/// error. It serialises to `{"pipelines": {"<name>": {"read": …}}, …}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The processor.
    pub processor: String,
    /// The pipelines by name.
    pub pipelines: BTreeMap<String, PipelineReport>,
    /// Fault events that the fault sink confirmed.
    pub faults_stored: u64,
    /// Fault events that it had not confirmed when the processor ended; their records are returned.
    pub faults_unconfirmed: u64,
    /// Where the faults are, as the component describes its fault sink.
    pub faults_in: Option<String>,
    /// The kinds of faults, the most frequent first; the first hundred.
    pub kinds: Vec<FaultKind>,
    /// Ranges that the source had lost before they were read: stream, shard, from, to.
    pub gaps: Vec<Gap>,
    /// Commits that the source confirmed.
    pub commits: u64,
    /// How long the processor ran.
    #[serde(serialize_with = "as_secs")]
    pub elapsed: Duration,
    /// Whether the drain came to its end within its limit.
    pub drained: bool,
    /// Whether it was told to stop; otherwise the source came to its end, or there was an error.
    pub stopped: bool,
    /// Why the processor ended by itself, where it did: the class and type of an error.
    pub error: Option<String>,
}

fn as_secs<S: serde::Serializer>(elapsed: &Duration, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_f64(elapsed.as_secs_f64())
}

/// A range of positions that was never read, and is gone.
///
/// It reads back from the JSON of a [`Report`], so that another process can repair it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Gap {
    /// The stream.
    pub stream: String,
    /// The shard.
    pub shard: String,
    /// The first position that is missing.
    pub from: String,
    /// The first position that is there again.
    pub to: String,
}

impl Gap {
    /// Of this shard, from the first position that is missing up to the first that is there again.
    pub fn new(
        stream: impl Into<String>,
        shard: impl fmt::Display,
        from: impl fmt::Display,
        to: impl fmt::Display,
    ) -> Self {
        Self {
            stream: stream.into(),
            shard: shard.to_string(),
            from: from.to_string(),
            to: to.to_string(),
        }
    }
}

/// A range of positions that went by a pipeline that is disabled.
///
/// It reads back from the JSON of a [`Report`], as a [`Gap`] does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PassedBy {
    /// The stream.
    pub stream: String,
    /// The shard.
    pub shard: String,
    /// The first position that went by.
    pub first: String,
    /// The last one.
    pub last: String,
}

impl PassedBy {
    pub(crate) fn new(stream: &str, shard: &ShardId, first: &Position, last: &Position) -> Self {
        let (shard, first, last) = (shard.to_string(), first.to_string(), last.to_string());
        Self { stream: stream.to_owned(), shard, first, last }
    }
}

/// What became of the records in one pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PipelineReport {
    /// Records that it took from the source.
    pub read: u64,
    /// Went through to the end.
    pub done: u64,
    /// Kept out by a filter.
    pub filtered: u64,
    /// Set aside; their fault events are stored.
    pub faulted: u64,
    /// Given back to the stream, and not settled here since.
    pub returned: u64,
    /// Without a fate when the report was made.
    pub open: u64,
    /// Deliveries of records that had been settled here before; not counted above.
    pub redelivered: u64,
    /// How often a lane was built anew after a unit was returned.
    pub restarts: u64,
    /// Whether the pipeline ran. One that is disabled takes no part in commits.
    pub enabled: bool,
    /// For a disabled pipeline: what the stream had for it that went by. Not what was replayed or resubmitted to others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub passed_by: Vec<PassedBy>,
}

impl PipelineReport {
    pub(crate) fn of(tally: &Tally) -> Self {
        Self {
            read: tally.read,
            done: tally.done,
            filtered: tally.filtered,
            faulted: tally.faulted,
            returned: tally.returned,
            open: tally.open(),
            redelivered: tally.redelivered,
            restarts: 0,
            enabled: true,
            passed_by: Vec::new(),
        }
    }
}

/// Faults that share a fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FaultKind {
    /// What they share.
    pub fingerprint: String,
    /// How many there are.
    pub count: u64,
    /// Their class.
    pub class: Class,
    /// The pipeline that refused the units.
    pub pipeline: String,
    /// The stage that refused them.
    pub stage: String,
    /// The type of their error.
    pub error: String,
}

impl FaultKind {
    pub(crate) fn new(
        fingerprint: String,
        class: Class,
        pipeline: String,
        stage: String,
        error: String,
    ) -> Self {
        Self { fingerprint, count: 0, class, pipeline, stage, error }
    }
}

impl Report {
    /// Records that are neither settled nor read by anybody: returned or open, over all pipelines.
    pub fn unsettled(&self) -> u64 {
        self.pipelines.values().map(|p| p.returned + p.open).sum()
    }

    /// What a process should end with: 0 if every record it read is settled (done, filtered, or faulted with
    /// its fault stored), 1 if the processor ended with an error, 3 if records were left for the next life.
    ///
    /// Faults alone do not make a process fail: setting them aside is what it is for.
    pub fn exit_code(&self) -> u8 {
        if self.error.is_some() {
            1
        } else if self.unsettled() > 0 || self.faults_unconfirmed > 0 {
            3
        } else {
            0
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.elapsed.as_secs_f64();
        writeln!(
            f,
            "{} ran for {secs:.1} s, {} commits",
            printable(&self.processor),
            self.commits
        )?;
        let width = self
            .pipelines
            .keys()
            .map(|n| printable(n).len())
            .max()
            .unwrap_or(0)
            .max("pipeline".len());
        writeln!(
            f,
            "{:<width$} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "pipeline", "read", "done", "filtered", "faulted", "returned", "open"
        )?;
        for (name, p) in &self.pipelines {
            write!(
                f,
                "{:<width$} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
                printable(name),
                p.read,
                p.done,
                p.filtered,
                p.faulted,
                p.returned,
                p.open
            )?;
            if p.restarts > 0 {
                write!(f, "   {} restarts", p.restarts)?;
            }
            if p.redelivered > 0 {
                write!(f, "   {} redelivered", p.redelivered)?;
            }
            if !p.enabled {
                write!(f, "   disabled")?;
            }
            writeln!(f)?;
            for PassedBy { stream, shard, first, last } in &p.passed_by {
                writeln!(
                    f,
                    "  {}/{}: {} to {} went by without it",
                    printable(stream),
                    printable(shard),
                    printable(first),
                    printable(last)
                )?;
            }
        }
        for gap in &self.gaps {
            writeln!(
                f,
                "gap in {}/{}: {} up to {} was lost before it was read; replay it from the lake",
                printable(&gap.stream),
                printable(&gap.shard),
                printable(&gap.from),
                printable(&gap.to)
            )?;
        }
        if let Some(error) = &self.error {
            writeln!(f, "ended with an error: {}", printable(error))?;
        }
        if !self.drained {
            writeln!(f, "the drain ran into its limit: what was unfinished is not committed")?;
        }
        if self.unsettled() > 0 {
            writeln!(f, "{} records are left to the next run: start it again", self.unsettled())?;
        }
        if self.faults_unconfirmed > 0 {
            writeln!(
                f,
                "{} faults were not stored: their records are returned; mend the fault sink",
                self.faults_unconfirmed
            )?;
        }
        if self.faults_stored == 0 {
            return write!(f, "no faults");
        }
        let place = self.faults_in.as_deref().unwrap_or("the fault sink");
        write!(f, "{} faults in {}", self.faults_stored, printable(place))?;
        for kind in self.kinds.iter().take(3) {
            write!(
                f,
                "\n  {:>8} x {}  {} in {}/{} ({})",
                kind.count,
                printable(&kind.fingerprint),
                kind.class,
                printable(&kind.pipeline),
                printable(&kind.stage),
                printable(&kind.error)
            )?;
        }
        if self.kinds.len() > 3 {
            let more = self.kinds.len() - 3;
            write!(f, "\n  and {more} {} more", if more == 1 { "kind" } else { "kinds" })?;
        }
        write!(f, "\nnext: read them there by fingerprint, mend the cause, resubmit them")
    }
}

/// What is printed to a terminal has its control characters escaped.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escape: Box<dyn Iterator<Item = char>> = if c.is_control() {
                Box::new(c.escape_default())
            } else {
                Box::new(std::iter::once(c))
            };
            escape
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let tally =
            Tally { read: 10, done: 6, filtered: 1, faulted: 2, returned: 0, redelivered: 0 };
        Report {
            processor: "p".into(),
            pipelines: [("totals".to_owned(), PipelineReport::of(&tally))].into(),
            faults_stored: 2,
            faults_in: Some("faults.ndjson".into()),
            drained: true,
            kinds: (0..4)
                .map(|n| FaultKind {
                    count: 9 - n,
                    ..FaultKind::new(
                        format!("f{n}"),
                        Class::Fault,
                        "totals".into(),
                        "json".into(),
                        "Bad\u{1b}[31m".into(),
                    )
                })
                .collect(),
            ..Report::default()
        }
    }

    #[test]
    fn read_is_the_sum_of_all_fates_and_open() {
        let p = &report().pipelines["totals"];
        assert_eq!(p.read, p.done + p.filtered + p.faulted + p.returned + p.open);
        assert_eq!(p.open, 1);
    }

    #[test]
    fn l12_it_ends_with_where_the_faults_are_and_escapes_control_characters() {
        let text = report().to_string();
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(text.contains("2 faults in faults.ndjson"), "{text}");
        assert!(text.contains("f0") && text.contains("f2") && !text.contains("f3"), "{text}");
        assert!(text.ends_with("resubmit them"), "{text}");
        // where they are, the first three fingerprints, how many more, what to do next
        let end: Vec<&str> = text.lines().rev().take(6).collect();
        let place = end[5].trim();
        assert_eq!((place, end[1]), ("2 faults in faults.ndjson", "  and 1 kind more"), "{text}");
        assert!(end[4].contains("9 x f0") && end[2].contains("7 x f2"), "{text}");
    }

    #[test]
    fn exit_codes_tell_errors_from_leftovers() {
        let mut r = report();
        assert_eq!(r.exit_code(), 3);
        r.pipelines.values_mut().for_each(|p| p.open = 0);
        assert_eq!(r.exit_code(), 0, "faults alone do not make it fail");
        r.faults_unconfirmed = 1;
        assert_eq!(r.exit_code(), 3);
        assert!(r.to_string().contains("1 faults were not stored"), "{r}");
        r.error = Some("fatal".into());
        assert_eq!(r.exit_code(), 1);
    }

    #[test]
    fn it_serialises_by_pipeline() {
        let json = serde_json::to_value(report()).expect("serialises");
        assert_eq!(json["pipelines"]["totals"]["read"], 10);
    }

    #[test]
    fn a_gap_reads_back_from_the_json_of_a_report() {
        let gap = Gap::new("orders", "0", 3, 9);
        let report = Report { gaps: vec![gap.clone()], ..report() };
        let json = serde_json::to_value(&report).unwrap();
        let read: Vec<Gap> = serde_json::from_value(json["gaps"].clone()).unwrap();
        assert_eq!(read, [gap]);
    }
}

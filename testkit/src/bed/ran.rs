//! What became of what was fed.

use std::collections::BTreeMap;
use std::fmt;

use streambreaker::memory::Stream;
use streambreaker::{Fate, FaultEvent, Report};

use super::tap::Reached;
use crate::suite::source::Message;

/// What a run of a [`TestBed`](super::TestBed) gave.
pub struct Ran {
    events: Vec<Message>,
    order: Vec<usize>,
    /// By pipeline, the fate of each record in the order in which they were fed.
    fates: BTreeMap<String, Vec<Fate>>,
    faults: Vec<FaultEvent>,
    report: Report,
}

impl Ran {
    pub(super) fn new(
        events: Vec<Message>,
        order: Vec<usize>,
        pipelines: Vec<(String, Reached)>,
        stream: &Stream,
        faults: Vec<FaultEvent>,
        report: Report,
    ) -> Self {
        let mut settled = vec![false; order.len()];
        for shard in 0..stream.shards().len() {
            let committed = stream.committed("bed", shard);
            for record in stream.records(shard) {
                let at = record.position().as_u64().and_then(|at| usize::try_from(at).ok());
                let below = committed.as_ref().is_some_and(|c| record.position() <= c);
                if let Some(settled) = at.and_then(|at| settled.get_mut(at)) {
                    *settled = below;
                }
            }
        }
        let fate = |name: &str, reached: &Reached, at: usize| {
            let faulted = faults.iter().any(|fault| fault.pipeline == name && holds(fault, at));
            match (settled[at], faulted, reached.has(at as u64)) {
                (false, ..) => Fate::Returned,
                (_, true, _) => Fate::Faulted,
                (_, _, true) => Fate::Done,
                _ => Fate::Filtered,
            }
        };
        let fates = pipelines.iter().map(|(name, reached)| {
            (name.clone(), (0..order.len()).map(|at| fate(name, reached, at)).collect())
        });
        let fates = fates.collect();
        Self { events, order, fates, faults, report }
    }

    /// Whether every event is settled.
    pub fn is_complete(&self) -> bool {
        self.fates.values().flatten().all(|fate| *fate != Fate::Returned)
    }

    /// What became of each event in this pipeline, by the event's index; of one that was fed twice, of the one that
    /// came first.
    ///
    /// # Panics
    /// Where there is no such pipeline.
    #[track_caller]
    pub fn fates(&self, pipeline: &str) -> Vec<Fate> {
        let all = self.fates_as_fed(pipeline);
        (0..self.events.len())
            .map(|event| {
                let at = all.iter().find(|(fed, _)| *fed == event);
                at.map_or(Fate::Returned, |(_, fate)| *fate)
            })
            .collect()
    }

    /// The index and the fate of each event, in the order in which they were fed.
    ///
    /// # Panics
    /// Where there is no such pipeline.
    #[track_caller]
    pub fn fates_as_fed(&self, pipeline: &str) -> Vec<(usize, Fate)> {
        let Some(fates) = self.fates.get(pipeline) else {
            let names: Vec<_> = self.fates.keys().collect();
            panic!("there is no pipeline {pipeline:?}, but {names:?}");
        };
        self.order.iter().copied().zip(fates.iter().copied()).collect()
    }

    /// That each event ended like this in a pipeline, by the event's index.
    ///
    /// # Panics
    /// Where one did not: with the events that differ, and the faults of those that were faulted.
    #[track_caller]
    pub fn assert_fates(&self, pipeline: &str, expected: impl AsRef<[Fate]>) {
        let (expected, found) = (expected.as_ref(), self.fates(pipeline));
        let n = found.len();
        assert_eq!(expected.len(), n, "{n} events were fed, and {} fates expected", expected.len());
        let differs = |index: &usize| expected[*index] != found[*index];
        let lines: Vec<String> = (0..n)
            .filter(differs)
            .map(|index| {
                format!(
                    "  event {index} {}: expected {}, was {}{}",
                    preview(&self.events[index]),
                    expected[index],
                    found[index],
                    self.why(pipeline, index)
                )
            })
            .collect();
        assert!(lines.is_empty(), "in pipeline {pipeline:?}:\n{}", lines.join("\n"));
    }

    /// The fault events, in the order in which they were stored.
    pub fn faults(&self) -> &[FaultEvent] {
        &self.faults
    }

    /// The fault of an event in a pipeline, by the event's index.
    ///
    /// # Panics
    /// Where there is none, with the faults that there are.
    #[track_caller]
    pub fn fault_of(&self, pipeline: &str, event: usize) -> &FaultEvent {
        self.find(pipeline, event).unwrap_or_else(|| {
            let all: Vec<_> = self.faults.iter().map(|f| format!("  {}", says(f))).collect();
            panic!("event {event} has no fault in {pipeline:?}; there are:\n{}", all.join("\n"))
        })
    }

    /// That there are no faults in any pipeline.
    ///
    /// # Panics
    /// With the faults that there are.
    #[track_caller]
    pub fn assert_no_faults(&self) {
        let all: Vec<_> = self.faults.iter().map(|fault| format!("  {}", says(fault))).collect();
        assert!(all.is_empty(), "no fault was expected, and there are:\n{}", all.join("\n"));
    }

    /// The processor's own report.
    pub fn report(&self) -> &Report {
        &self.report
    }

    fn find(&self, pipeline: &str, event: usize) -> Option<&FaultEvent> {
        let places: Vec<usize> =
            (0..self.order.len()).filter(|at| self.order[*at] == event).collect();
        self.faults
            .iter()
            .filter(|fault| fault.pipeline == pipeline)
            .find(|fault| places.iter().any(|at| holds(fault, *at)))
    }

    fn why(&self, pipeline: &str, event: usize) -> String {
        let fault = self.find(pipeline, event);
        fault.map_or_else(String::new, |fault| format!(" ({})", says(fault)))
    }
}

fn holds(fault: &FaultEvent, at: usize) -> bool {
    fault.records.iter().any(|held| held.record.position().as_u64() == Some(at as u64))
}

/// A fault in a line. A test may show its text; a log may not.
fn says(fault: &FaultEvent) -> String {
    let at: Vec<_> = fault.records.iter().map(|r| r.record.position().to_string()).collect();
    let (class, stage) = (fault.class.as_str(), &fault.stage);
    let (name, message) = (&fault.err.name, &fault.err.message);
    format!(
        "{class} in {}/{stage}: {name}: {message}; records at {}",
        fault.pipeline,
        at.join(", ")
    )
}

fn preview(event: &Message) -> String {
    let text = String::from_utf8_lossy(&event.payload);
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]).escape_debug().to_string(),
        None => text.escape_debug().to_string(),
    }
}

impl fmt::Debug for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ran").field("fates", &self.fates).field("faults", &self.faults).finish()
    }
}

//! What is fed, and to what.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use streambreaker::clock::{PausedClock, Random};
use streambreaker::memory::{self, Stream};
use streambreaker::prelude::*;
use streambreaker::record::{Headers, Position, Record, ShardId, Timestamp};
use streambreaker::source::shard_of;
use streambreaker::{ProcessorBuilder, Report};

use super::ran::Ran;
use super::tap::Reached;
use crate::suite::source::Message;

const STREAM: &str = "bed";
/// When the first event arrives: 2026-01-01. The others follow, a millisecond apart.
const BEGIN: Timestamp = Timestamp::from_millis(1_767_225_600_000);

type Setting = Box<dyn FnOnce(ProcessorBuilder) -> ProcessorBuilder>;

/// In which order events are fed.
enum Feeding {
    AsTheyAre,
    /// In any order, which a seed names.
    Shuffled(u64),
    /// As they arrive, each so much later than it happened as a seed draws.
    Late {
        seed: u64,
        most: Duration,
        happened: Box<dyn Fn(&Message) -> Timestamp>,
    },
}

/// Events, and the pipelines they are fed to. See [the module](crate::bed) for an example.
///
/// There is one shard, unless [`shards`](Self::shards) says otherwise; the processor is seeded, so that its jitter
/// repeats; its clock begins at 2026-01-01, and goes with tokio's time.
#[must_use = "a test bed does nothing unless it is run"]
pub struct TestBed {
    events: Vec<Message>,
    /// The indices of events, in the order in which they are fed.
    order: Vec<usize>,
    times: usize,
    feeding: Feeding,
    shards: usize,
    limit: Duration,
    settings: Vec<Setting>,
    pipelines: Vec<(String, Reached)>,
}

impl TestBed {
    /// Nothing to feed, nothing to feed it to.
    pub fn new() -> Self {
        Self {
            events: Vec::new(),
            order: Vec::new(),
            times: 1,
            feeding: Feeding::AsTheyAre,
            shards: 1,
            limit: Duration::from_secs(3600),
            settings: Vec::new(),
            pipelines: Vec::new(),
        }
    }

    /// Adds events: payloads, or [`Message`]s with key and headers. They are known by their index, from 0.
    pub fn feed<M: Into<Message>>(mut self, events: impl IntoIterator<Item = M>) -> Self {
        self.events.extend(events.into_iter().map(Into::into));
        self
    }

    /// Adds events that serialise to JSON.
    ///
    /// # Panics
    /// Where one does not.
    pub fn feed_json<T: Serialize>(self, events: impl IntoIterator<Item = T>) -> Self {
        let json = |event: T| match serde_json::to_vec(&event) {
            Ok(json) => Message::new(json),
            Err(error) => panic!("an event does not serialise to JSON: {error}"),
        };
        self.feed(events.into_iter().map(json))
    }

    /// Feeds all of them, and then all of them again: as events of their own, at other positions, as a producer
    /// does that has sent them twice.
    pub fn twice(mut self) -> Self {
        self.times = 2;
        self
    }

    /// Feeds them in an order that this seed names.
    pub fn shuffled(mut self, seed: u64) -> Self {
        self.feeding = Feeding::Shuffled(seed);
        self
    }

    /// Feeds them as they arrive: each later than it `happened`, by what this seed draws, up to `most`. For handlers that
    /// stand disorder up to a limit, such as a grace after which silence counts; others are to stand
    /// [any order](Self::shuffled).
    pub fn late(
        mut self,
        seed: u64,
        most: Duration,
        happened: impl Fn(&Message) -> Timestamp + 'static,
    ) -> Self {
        self.feeding = Feeding::Late { seed, most, happened: Box::new(happened) };
        self
    }

    /// Spreads them over so many shards: by key, those without one in turn.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards.max(1);
        self
    }

    /// Adds a pipeline, as [`ProcessorBuilder::pipeline`] does.
    pub fn pipeline<F, S>(mut self, name: impl Into<String>, pipeline: F) -> Self
    where
        F: Fn(Flow<Input>) -> Flow<S> + Send + Sync + 'static,
        S: Stage + Send + 'static,
    {
        let (name, reached) = (name.into(), Reached::default());
        self.pipelines.push((name.clone(), reached.clone()));
        self.with(move |builder| builder.pipeline(name, move |flow| reached.tap(pipeline(flow))))
    }

    /// Sets what else there is to set in a processor: a limit in flight, a flood guard, a configuration. Its source
    /// and fault sink are the bed's.
    pub fn with(
        mut self,
        setting: impl FnOnce(ProcessorBuilder) -> ProcessorBuilder + 'static,
    ) -> Self {
        self.settings.push(Box::new(setting));
        self
    }

    /// Runs until every event is settled.
    ///
    /// # Panics
    /// When that takes more than an hour (of paused time), with what each pipeline waits for; when the processor
    /// cannot be built, or ends with an error.
    pub async fn run(self) -> Ran {
        let limit = self.limit;
        let (ran, waits) = self.run_for(limit).await;
        assert!(ran.is_complete(), "not at the end after {limit:?}:\n{waits}");
        ran
    }

    /// Runs for so long at most: what is not settled then is `Returned`, as for a dependency that stays away.
    ///
    /// # Panics
    /// When the processor cannot be built, or ends with an error.
    pub async fn run_within(self, limit: Duration) -> Ran {
        self.run_for(limit).await.0
    }

    async fn run_for(mut self, limit: Duration) -> (Ran, String) {
        self.put_in_order();
        let stream = self.stream();
        let faults = memory::faults();
        let builder = Processor::builder("bed").seed(1).clock(PausedClock::starting_at(BEGIN));
        let builder = self.settings.into_iter().fold(builder, |builder, set| set(builder));
        let processor = builder
            .source(stream.consumer("bed"))
            .faults(faults.clone())
            .build()
            .unwrap_or_else(|error| panic!("the processor cannot be built: {error}"));
        let (trigger, shutdown) = Shutdown::by_hand();
        let run = processor.run(shutdown);
        tokio::pin!(run);
        let mut waits = String::new();
        let ended = tokio::select! {
            biased;
            ended = &mut run => ended,
            () = tokio::time::sleep(limit) => {
                waits = waiting(&processor);
                // at once: what is unfinished is not waited for
                trigger.pull();
                trigger.pull();
                run.await
            }
        };
        let report: Report =
            ended.unwrap_or_else(|error| panic!("the processor ends with {error}"));
        let ran =
            Ran::new(self.events, self.order, self.pipelines, &stream, faults.events(), report);
        (ran, waits)
    }

    fn put_in_order(&mut self) {
        let once = 0..self.events.len();
        self.order = (0..self.times).flat_map(|_| once.clone()).collect();
        match &self.feeding {
            Feeding::AsTheyAre => {}
            Feeding::Shuffled(seed) => {
                let random = Random::seeded(*seed);
                for last in (1..self.order.len()).rev() {
                    let other = usize::try_from(random.next_u64() % (last as u64 + 1)).unwrap_or(0);
                    self.order.swap(last, other);
                }
            }
            Feeding::Late { seed, most, happened } => {
                let random = Random::seeded(*seed);
                let arrives = |event: &usize| {
                    happened(&self.events[*event]).plus(most.mul_f64(random.next_f64()))
                };
                let mut arriving: Vec<(Timestamp, usize)> =
                    self.order.iter().map(|event| (arrives(event), *event)).collect();
                arriving.sort();
                self.order = arriving.into_iter().map(|(_, event)| event).collect();
            }
        }
    }

    /// A closed stream of the events; the position of each is its place in the order.
    fn stream(&self) -> Stream {
        let shards = (0..self.shards).map(|n| ShardId::from(n.to_string()));
        let clock = PausedClock::starting_at(BEGIN);
        let stream = Stream::with_clock(STREAM, shards, clock);
        for (at, event) in self.order.iter().enumerate() {
            let message = &self.events[*event];
            let shard = message.key.as_ref().map_or(at % self.shards, |k| shard_of(k, self.shards));
            let mut record = Record::new(
                STREAM,
                stream.shards()[shard].clone(),
                Position::from(at as u64),
                message.payload.clone(),
            )
            .with_headers(Headers::from_iter(message.headers.clone()))
            .with_arrival(BEGIN.plus(Duration::from_millis(at as u64)));
            if let Some(key) = &message.key {
                record = record.with_key(key.clone());
            }
            stream.push_record(record).expect("shards are the stream's own, and positions go up");
        }
        stream.close();
        stream
    }
}

/// What each pipeline waits for.
fn waiting(processor: &Processor) -> String {
    let lanes = processor.handle().status().lanes;
    let line = |lane: &streambreaker::LaneStatus| {
        format!(
            "  {} over shard {}: {} in flight, the oldest at {} waits for {:?} (restarts {}, last error {:?})",
            lane.pipeline,
            lane.shard,
            lane.in_flight,
            lane.oldest.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string),
            lane.waits_for,
            lane.restarts,
            lane.last_class,
        )
    };
    lanes.iter().map(line).collect::<Vec<_>>().join("\n")
}

impl Default for TestBed {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TestBed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pipelines: Vec<_> = self.pipelines.iter().map(|(name, _)| name).collect();
        write!(f, "TestBed({} events, {pipelines:?})", self.events.len())
    }
}

//! The memory transport, in each of its ways to acknowledge.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use streambreaker::memory::{self, Collect, Consumer, Inject, Stream, Verdict};
use streambreaker::record::{Headers, Timestamp};
use streambreaker::sink::Limits;
use streambreaker::{BoxError, FaultEvent, Position, Record};
use streambreaker_testkit::suite::sink::{self, SinkHarness};
use streambreaker_testkit::suite::source::{Cannot, Message, SourceHarness};
use streambreaker_testkit::suite::{Harness, Time, fault_sink};
use streambreaker_testkit::{fault_sink_suite, sink_suite, source_suite};

const GROUP: &str = "suite";

struct Memory {
    stream: Stream,
    published: AtomicU64,
    way: fn(Consumer) -> Consumer,
    time: Time,
}

fn memory(way: fn(Consumer) -> Consumer) -> Memory {
    let (stream, published) = (Stream::new("s", 2), AtomicU64::new(0));
    Memory { stream, published, way, time: Time::Paused }
}

/// As a broker would be: in real time.
fn broker() -> Memory {
    let (patience, quiet) = (Duration::from_secs(30), Duration::from_millis(200));
    Memory { time: Time::Real { patience, quiet }, ..memory(|consumer| consumer) }
}

impl Harness for Memory {
    fn time(&self) -> Time {
        self.time
    }
}

impl SourceHarness for Memory {
    type Source = Consumer;

    fn cannot(&self) -> Vec<Cannot> {
        vec![Cannot::Restart]
    }

    async fn publish(&self, shard: usize, message: &Message) -> Result<(), BoxError> {
        // sparse, as in a compacted topic
        let n = self.published.fetch_add(3, Ordering::Relaxed);
        let shard = self.stream.shards()[shard].clone();
        let mut record = Record::new("s", shard, Position::from(n), message.payload.clone())
            .with_headers(Headers::from_iter(message.headers.clone()))
            .with_arrival(Timestamp::from_millis(n as i64));
        if let Some(key) = &message.key {
            record = record.with_key(key.clone());
        }
        Ok(self.stream.push_record(record)?)
    }

    async fn consumer(&self) -> Result<Consumer, BoxError> {
        Ok((self.way)(self.stream.consumer(GROUP)))
    }

    async fn close(&self) -> Result<(), BoxError> {
        self.stream.close();
        Ok(())
    }

    async fn forget(&self, count: usize) -> Result<(), BoxError> {
        self.stream.truncate(0, self.stream.records(0)[count].position());
        Ok(())
    }

    async fn fail_reads(&self, times: u32) -> Result<(), BoxError> {
        self.stream.inject_at(0, Inject::ReadErrors(times));
        Ok(())
    }

    async fn revoke(&self) -> Result<(), BoxError> {
        self.stream.revoke(GROUP, 0, Duration::from_secs(10));
        Ok(())
    }

    async fn lose(&self) -> Result<(), BoxError> {
        self.stream.lose(GROUP, 0);
        Ok(())
    }

    async fn reassign(&self) -> Result<(), BoxError> {
        self.stream.assign(GROUP, 0);
        Ok(())
    }
}

source_suite!(by_position: memory(|consumer| consumer));
source_suite!(by_position_counting: memory(Consumer::counting));
source_suite!(in_real_time: broker());
source_suite!(one_by_one: memory(|consumer| consumer.each(Duration::from_secs(30))));

/// What is written to memory: text, or faults.
struct Collected<T>(Collect<T>);

impl<T: Send + Sync + 'static> Harness for Collected<T> {}

fn collected() -> Collected<String> {
    let sink = Collect::sized(String::len).with_limits(Limits::items(120).with_bytes(20_000));
    sink.decide(|_, item: &String| match item.contains("reject") {
        true => Verdict::Reject,
        false => Verdict::Done,
    });
    Collected(sink)
}

impl SinkHarness for Collected<String> {
    type Item = String;
    type Sink = Collect<String>;

    fn cannot(&self) -> Vec<sink::Cannot> {
        vec![sink::Cannot::Deduplicate]
    }

    fn item(&self, n: usize) -> String {
        format!("item {n}")
    }

    fn hostile(&self) -> Vec<String> {
        vec![String::new(), "\0\n\r\u{feff}".into(), "reject this".into(), "x".repeat(20_000)]
    }

    async fn sink(&self) -> Result<Collect<String>, BoxError> {
        Ok(self.0.clone())
    }

    async fn stored(&self) -> Result<Vec<String>, BoxError> {
        Ok(self.0.items())
    }

    fn too_large(&self) -> Option<String> {
        Some("x".repeat(20_001))
    }

    fn rejected(&self) -> Option<String> {
        Some("reject".into())
    }

    async fn down(&self) -> Result<(), BoxError> {
        self.0.down();
        Ok(())
    }

    async fn up(&self) -> Result<(), BoxError> {
        self.0.up();
        Ok(())
    }
}

impl SinkHarness for Collected<FaultEvent> {
    type Item = FaultEvent;
    type Sink = Collect<FaultEvent>;

    fn cannot(&self) -> Vec<sink::Cannot> {
        vec![sink::Cannot::Deduplicate, sink::Cannot::Reject]
    }

    fn item(&self, n: usize) -> FaultEvent {
        fault_sink::fault(n)
    }

    async fn sink(&self) -> Result<Collect<FaultEvent>, BoxError> {
        Ok(self.0.clone())
    }

    async fn stored(&self) -> Result<Vec<FaultEvent>, BoxError> {
        Ok(self.0.events())
    }

    fn too_large(&self) -> Option<FaultEvent> {
        Some(fault_sink::group(2, 2 << 20))
    }

    async fn down(&self) -> Result<(), BoxError> {
        self.0.down();
        Ok(())
    }

    async fn up(&self) -> Result<(), BoxError> {
        self.0.up();
        Ok(())
    }
}

sink_suite!(collect: collected());
fault_sink_suite!(faults: Collected(
    memory::faults().with_limits(Limits::items(1_000).with_bytes(2 << 20))
));

//! The memory transport, in each of its ways to acknowledge.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use streambreaker::memory::{Consumer, Inject, Stream};
use streambreaker::record::{Headers, Timestamp};
use streambreaker::{BoxError, Position, Record};
use streambreaker_testkit::source_suite;
use streambreaker_testkit::suite::Harness;
use streambreaker_testkit::suite::source::{Cannot, Message, SourceHarness};

const GROUP: &str = "suite";

struct Memory {
    stream: Stream,
    published: AtomicU64,
    way: fn(Consumer) -> Consumer,
}

fn memory(way: fn(Consumer) -> Consumer) -> Memory {
    Memory { stream: Stream::new("s", 2), published: AtomicU64::new(0), way }
}

impl Harness for Memory {}

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
source_suite!(one_by_one: memory(|consumer| consumer.each(Duration::from_secs(30))));

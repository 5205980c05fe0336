//! The conformance suites, each rule with a server of its own.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::marker::PhantomData;
use std::sync::Mutex;
use std::time::Duration;

use streambreaker::source::shard_of;
use streambreaker::{BoxError, FaultEvent};
use streambreaker_nats::async_nats::HeaderMap;
use streambreaker_nats::async_nats::header::HeaderName;
use streambreaker_nats::async_nats::jetstream::Context;
use streambreaker_nats::async_nats::jetstream::consumer::pull::Config as ConsumerConfig;
use streambreaker_nats::async_nats::jetstream::message::StreamMessage;
use streambreaker_nats::async_nats::jetstream::stream::Config as StreamConfig;
use streambreaker_nats::{LaneBy, NatsFaults, NatsSink, NatsSource, Publication};
use streambreaker_testkit::suite::sink::{self, SinkHarness};
use streambreaker_testkit::suite::source::{Cannot, Message, SourceHarness};
use streambreaker_testkit::suite::{Harness, Time, fault_sink};
use streambreaker_testkit::{fault_sink_suite, sink_suite, source_suite};
use support::*;

const TIME: Time =
    Time::Real { patience: Duration::from_secs(30), quiet: Duration::from_millis(1_500) };

/// A server, and a connection to it that does not give up.
#[derive(Default)]
struct Broker(Option<(Mutex<Server>, Context)>);

impl Broker {
    fn context(&self) -> &Context {
        &self.0.as_ref().unwrap().1
    }

    fn server(&self, act: impl FnOnce(&mut Server)) -> Result<(), BoxError> {
        act(&mut self.0.as_ref().unwrap().0.lock().unwrap());
        Ok(())
    }

    async fn start(&mut self, config: StreamConfig) -> Result<(), BoxError> {
        let server = Server::start();
        let context = server.context().await;
        context.create_stream(config).await?;
        self.0 = Some((Mutex::new(server), context));
        Ok(())
    }

    /// What the stream has, in order.
    async fn stored(&self, stream: &str) -> Result<Vec<StreamMessage>, BoxError> {
        let stream = self.context().get_stream(stream).await?;
        let mut all = Vec::new();
        for sequence in 1..=stream.cached_info().state.last_sequence {
            all.push(stream.get_raw_message(sequence).await?);
        }
        Ok(all)
    }
}

/// A durable consumer with two lanes, each with a subject of its own.
#[derive(Default)]
struct Orders(Broker);

/// A subject of this lane.
fn subject(lane: usize) -> String {
    let mut subjects = (0..).map(|n| format!("orders.{n}"));
    subjects.find(|subject| shard_of(subject.as_bytes(), 2) == lane).unwrap()
}

impl Harness for Orders {
    fn time(&self) -> Time {
        TIME
    }

    async fn setup(&mut self) -> Result<(), BoxError> {
        self.0.start(stream("ORDERS")).await
    }
}

impl SourceHarness for Orders {
    type Source = NatsSource;

    fn cannot(&self) -> Vec<Cannot> {
        use Cannot::*;
        // the key is the subject; the client keeps no order between headers of different names
        vec![Keys, LargeKeys, OrderHeaders, End, FailReads, Fence, Revoke, Lose, Reassign]
    }

    async fn publish(&self, shard: usize, message: &Message) -> Result<(), BoxError> {
        let mut headers = HeaderMap::new();
        for (name, value) in &message.headers {
            headers.append(name.parse::<HeaderName>()?, std::str::from_utf8(value)?);
        }
        let payload = message.payload.clone();
        self.0.context().publish_with_headers(subject(shard), headers, payload).await?.await?;
        Ok(())
    }

    async fn consumer(&self) -> Result<NatsSource, BoxError> {
        let config = ConsumerConfig { max_ack_pending: 50_000, ..consumer(Duration::from_secs(3)) };
        Ok(NatsSource::builder(self.0.context().clone(), "ORDERS", "totals")
            .create(config)
            .lanes(2, LaneBy::Subject)
            .open()
            .await?)
    }

    async fn forget(&self, records: usize) -> Result<(), BoxError> {
        // by a limit, as retention does; a purge by hand would move the consumer too
        let stream = self.0.context().get_stream("ORDERS").await?;
        let left = stream.cached_info().state.messages as i64 - records as i64;
        let config = StreamConfig { max_messages: left, ..stream.cached_info().config.clone() };
        self.0.context().update_stream(config).await?;
        Ok(())
    }

    async fn restart(&self) -> Result<(), BoxError> {
        self.0.server(Server::stop)?;
        self.0.server(Server::start_again)?;
        until("it is connected again", async || {
            self.0.context().get_stream("ORDERS").await.is_ok()
        })
        .await;
        Ok(())
    }
}

source_suite!(reads: Orders::default());

/// What a stored message was published as.
fn publication(message: &StreamMessage) -> Publication {
    let mut published = Publication::without_id(message.subject.as_str(), message.payload.clone());
    for (name, values) in message.headers.iter() {
        for value in values {
            published = published.with_header(name.as_ref(), value.as_str());
        }
    }
    published
}

/// A sink, with the stream that it writes to.
trait Kind: Default + Send + Sync + 'static {
    fn stream() -> StreamConfig;
}

#[derive(Default)]
struct Sinks<K>(Broker, PhantomData<K>);

impl<K: Kind> Harness for Sinks<K> {
    fn time(&self) -> Time {
        TIME
    }

    async fn setup(&mut self) -> Result<(), BoxError> {
        self.0.start(K::stream()).await
    }
}

#[derive(Default)]
struct Copies;

impl Kind for Copies {
    fn stream() -> StreamConfig {
        StreamConfig { max_message_size: 300_000, ..stream("COPIES") }
    }
}

impl SinkHarness for Sinks<Copies> {
    type Item = Publication;
    type Sink = NatsSink;

    fn cannot(&self) -> Vec<sink::Cannot> {
        Vec::new()
    }

    fn item(&self, n: usize) -> Publication {
        Publication::new(format!("copies.{}", n % 3), format!("id-{n}"), format!(r#"{{"n":{n}}}"#))
            .with_header("Trace", "t")
    }

    fn hostile(&self) -> Vec<Publication> {
        vec![
            Publication::new("copies.1", "empty", ""),
            Publication::new("copies.1", "bytes", (0..=255).collect::<Vec<u8>>()),
            Publication::new("copies.1", "ends", "a\r\nb\n\n"),
            Publication::new("copies.1", "large", "x".repeat(250_000)),
            Publication::new("copies.>", "a wildcard", "x"),
            Publication::new("copies. 1", "no subject", "x"),
            Publication::new("copies.2", "an id with blanks and ünicode", "x"),
        ]
    }

    fn too_large(&self) -> Option<Publication> {
        Some(Publication::new("copies.1", "too large", "x".repeat(300_001)))
    }

    fn rejected(&self) -> Option<Publication> {
        Some(Publication::new("copies..1", "rejected", "no subject"))
    }

    async fn sink(&self) -> Result<NatsSink, BoxError> {
        Ok(NatsSink::open(self.0.context().clone(), "COPIES").await?)
    }

    async fn stored(&self) -> Result<Vec<Publication>, BoxError> {
        Ok(self.0.stored("COPIES").await?.iter().map(publication).collect())
    }

    async fn down(&self) -> Result<(), BoxError> {
        self.0.server(Server::kill)
    }

    async fn up(&self) -> Result<(), BoxError> {
        self.0.server(Server::start_again)
    }
}

sink_suite!(writes: Sinks::<Copies>::default());

#[derive(Default)]
struct Faults;

impl Kind for Faults {
    fn stream() -> StreamConfig {
        stream("FAULTS")
    }
}

impl SinkHarness for Sinks<Faults> {
    type Item = FaultEvent;
    type Sink = NatsFaults;

    fn cannot(&self) -> Vec<sink::Cannot> {
        vec![sink::Cannot::Reject]
    }

    fn item(&self, n: usize) -> FaultEvent {
        fault_sink::fault(n)
    }

    fn too_large(&self) -> Option<FaultEvent> {
        Some(fault_sink::group(3, 1 << 20))
    }

    async fn sink(&self) -> Result<NatsFaults, BoxError> {
        Ok(NatsFaults::open(self.0.context().clone(), "faults.orders").await?)
    }

    async fn stored(&self) -> Result<Vec<FaultEvent>, BoxError> {
        let stored = self.0.stored("FAULTS").await?;
        Ok(stored.iter().map(|m| FaultEvent::from_json(&m.payload)).collect::<Result<_, _>>()?)
    }

    async fn down(&self) -> Result<(), BoxError> {
        self.0.server(Server::kill)
    }

    async fn up(&self) -> Result<(), BoxError> {
        self.0.server(Server::start_again)
    }
}

fault_sink_suite!(keeps_faults: Sinks::<Faults>::default());

//! The source: a durable pull consumer of a stream, which processes may share.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::pull::Config as ConsumerConfig;
use async_nats::jetstream::consumer::{AckPolicy, Info, PullConsumer};
use async_nats::jetstream::stream::{Config as StreamConfig, RetentionPolicy};
use async_trait::async_trait;
use streambreaker::ShardId;
use streambreaker::source::{Acknowledge, Caps, Change, Source, SourceError};

use crate::acker::NatsAcker;
use crate::error::OpenError;
use crate::gap::Gaps;
use crate::lane::{Lane, LaneBy};
use crate::pull::{Most, Pump, Shared};
use crate::reader::NatsReader;

/// A source that reads a durable pull consumer of a JetStream stream.
///
/// Made by [`NatsSource::builder`]. See the [crate's page](crate) for what it promises.
#[must_use = "a source does nothing unless a processor reads it"]
pub struct NatsSource {
    shared: Arc<Shared>,
    caps: Caps,
    assigned: usize,
}

/// Settings of a [`NatsSource`].
#[must_use = "a builder does nothing unless `open` is called"]
pub struct NatsSourceBuilder {
    context: Context,
    stream: String,
    consumer: String,
    create_stream: Option<StreamConfig>,
    create: Option<ConsumerConfig>,
    lanes: usize,
    by: LaneBy,
    shared_by: u64,
}

impl NatsSource {
    /// A source that reads the durable consumer `consumer` of the stream `stream`.
    ///
    /// The context is the user's own: credentials, TLS and the JetStream domain are options of `async-nats`.
    pub fn builder(
        context: Context,
        stream: impl Into<String>,
        consumer: impl Into<String>,
    ) -> NatsSourceBuilder {
        NatsSourceBuilder {
            context,
            stream: stream.into(),
            consumer: consumer.into(),
            create_stream: None,
            create: None,
            lanes: 1,
            by: LaneBy::Subject,
            shared_by: 1,
        }
    }
}

impl NatsSourceBuilder {
    /// Creates the stream as this says, if there is none of its name. One that there is stays as it is.
    pub fn create_stream(mut self, config: StreamConfig) -> Self {
        self.create_stream = Some(config);
        self
    }

    /// Creates the consumer as this says, if there is none of its name. One that there is stays as it is.
    ///
    /// It is durable and acknowledges explicitly, whatever the configuration says of that.
    pub fn create(mut self, config: ConsumerConfig) -> Self {
        self.create = Some(config);
        self
    }

    /// Distributes the records over so many lanes, each a task of its own, so that those with the same `by` stay in
    /// order. One lane unless told; zero counts as one.
    ///
    /// In order within this process: processes that share a consumer take turns, whatever the key. A lane that stands
    /// still stops the others when the limit in flight is reached, as they share one consumer. The lane is part of where a
    /// record is from, and so of the ids of faults: change it with nothing in flight.
    pub fn lanes(mut self, lanes: usize, by: LaneBy) -> Self {
        self.lanes = lanes.max(1);
        self.by = by;
        self
    }

    /// How many processes share the consumer at most; one unless told. Each may then hold its part of
    /// `max_ack_pending`.
    pub fn shared_by(mut self, processes: u32) -> Self {
        self.shared_by = u64::from(processes.max(1));
        self
    }

    /// Looks at stream and consumer, and checks that a processor can work with them.
    ///
    /// # Errors
    /// Any [`OpenError`]: it says what is missing, or which setting to change.
    pub async fn open(self) -> Result<NatsSource, OpenError> {
        let Self { context, stream: name, consumer, .. } = &self;
        let stream = match context.get_stream(name).await {
            Ok(stream) => stream,
            Err(error) => match (OpenError::of_stream(name, error), &self.create_stream) {
                (OpenError::NoStream { .. }, Some(config)) => {
                    let config = StreamConfig { name: name.clone(), ..config.clone() };
                    context.create_stream(config).await.map_err(|error| {
                        OpenError::server(format!("the creation of stream `{name}`"), error)
                    })?
                }
                (error, _) => return Err(error),
            },
        };
        let found: Result<PullConsumer, _> = context.get_consumer_from_stream(consumer, name).await;
        let found = match found {
            Ok(found) => found,
            Err(error) => match (OpenError::of_consumer(name, consumer, error), &self.create) {
                (OpenError::NoConsumer { .. }, Some(config)) => {
                    let config = ConsumerConfig {
                        durable_name: Some(consumer.clone()),
                        name: None,
                        ack_policy: AckPolicy::Explicit,
                        ..config.clone()
                    };
                    stream.create_consumer(config).await.map_err(|error| {
                        OpenError::server(
                            format!("the creation of consumer `{consumer}` of stream `{name}`"),
                            error,
                        )
                    })?
                }
                (error, _) => return Err(error),
            },
        };
        let info = found.cached_info().clone();
        check(&info)?;
        let caps = self.caps(&info)?;
        let filtered = !info.config.filter_subject.is_empty();
        let retention = stream.cached_info().config.retention;
        let lanes = (0..self.lanes).map(|n| Lane::new(ShardId::from(n.to_string()))).collect();
        let shared = Arc::new(Shared {
            stream: name.as_str().into(),
            consumer: found,
            client: context.client(),
            context: self.context,
            most: Most::of(&info),
            lanes,
            by: self.by,
            limits: retention == RetentionPolicy::Limits,
            pump: tokio::sync::Mutex::new(Pump::new(Gaps::new(
                filtered,
                info.delivered.stream_sequence,
            ))),
        });
        Ok(NatsSource { shared, caps, assigned: 0 })
    }

    fn caps(&self, info: &Info) -> Result<Caps, OpenError> {
        let config = &info.config;
        // the shortest wait of a backoff stands in place of the ack wait
        let wait = config.backoff.iter().min().copied().unwrap_or(config.ack_wait);
        let mut caps = Caps::new("nats", self.stream.clone(), Acknowledge::Each)
            .with_deadline(wait, true)
            .with_delivery_counts();
        if let Ok(most @ 1..) = u64::try_from(config.max_ack_pending) {
            let each = most / self.shared_by / self.lanes as u64;
            if each == 0 {
                return Err(OpenError::setting(
                    "max_ack_pending",
                    &info.name,
                    most.to_string(),
                    "at least one for each lane of each process that shares the consumer",
                ));
            }
            caps = caps.with_most_unsettled(each, "max_ack_pending");
        }
        Ok(caps)
    }
}

/// Whether a processor can keep its promises with this consumer.
fn check(info: &Info) -> Result<(), OpenError> {
    let config = &info.config;
    let refuse = |setting, found: String, accepted| {
        Err(OpenError::setting(setting, &info.name, found, accepted))
    };
    if config.deliver_subject.is_some() {
        return refuse(
            "deliver_subject",
            "set: it is a push consumer".to_owned(),
            "none: a pull consumer, which takes no more than there is room for",
        );
    }
    if config.ack_policy != AckPolicy::Explicit {
        return refuse(
            "ack_policy",
            format!("{:?}", config.ack_policy).to_lowercase(),
            "explicit: each record is acknowledged when it is settled",
        );
    }
    if config.durable_name.is_none() {
        return refuse(
            "durable_name",
            "missing".to_owned(),
            "a name: what is settled must outlive the process",
        );
    }
    if config.max_deliver > 0 {
        return refuse(
            "max_deliver",
            config.max_deliver.to_string(),
            "-1: after so many deliveries the server would drop a record that nobody settled; `max_deliveries` of the \
             processor makes it a fault instead",
        );
    }
    if config.headers_only {
        return refuse("headers_only", "true".to_owned(), "false: the payload is the event");
    }
    if config.inactive_threshold > Duration::ZERO {
        return refuse(
            "inactive_threshold",
            format!("{:?}", config.inactive_threshold),
            "0: the server would delete the consumer, and with it what is settled, when no process runs for as long",
        );
    }
    Ok(())
}

#[async_trait]
impl Source for NatsSource {
    type Reader = NatsReader;
    type Acker = NatsAcker;

    fn caps(&self) -> Caps {
        self.caps.clone()
    }

    async fn next(&mut self) -> Result<Option<Change<NatsReader, NatsAcker>>, SourceError> {
        let lane = self.assigned;
        let Some(Lane { shard, .. }) = self.shared.lanes.get(lane) else { return Ok(None) };
        self.assigned += 1;
        Ok(Some(Change::Assigned {
            shard: shard.clone(),
            reader: NatsReader { shared: self.shared.clone(), lane },
            acker: NatsAcker { shared: self.shared.clone(), lane },
        }))
    }
}

impl fmt::Debug for NatsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "NatsSource({} of {})",
            self.shared.consumer.cached_info().name,
            self.shared.stream
        )
    }
}

impl fmt::Debug for NatsSourceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NatsSourceBuilder({} of {})", self.consumer, self.stream)
    }
}

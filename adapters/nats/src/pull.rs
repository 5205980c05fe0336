//! The pull requests of one process: what is asked of the server, and what comes.
//!
//! One decision shaped this module: no more is asked for than a reader has room for, and there is no task. Whichever
//! reader waits for records takes the pump and works it for all lanes; the others are told when something has come for
//! them. So nothing is left running when a processor is dropped, and what lies between server and reader is bounded by
//! the limits in flight.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::pull::BatchConfig;
use async_nats::jetstream::consumer::{Info, PullConsumer};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::{Client, Message, StatusCode, Subject, Subscriber};
use futures::{FutureExt, StreamExt};
use streambreaker::source::{Room, SourceError, shard_of};
use tokio::sync::Mutex;
use tokio::task::unconstrained;
use tokio::time::{Instant, timeout};

use crate::error::Trouble;
use crate::gap::Gaps;
use crate::lane::{Lane, LaneBy};
use crate::record::Delivered;

/// How long the server keeps a pull request.
const EXPIRES: Duration = Duration::from_secs(30);
/// How often it says that it still has it.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How often a source that waits looks whether it is still connected.
const TICK: Duration = Duration::from_millis(500);
/// How long nothing comes, until the server is asked what is pending.
const PAUSE: Duration = Duration::from_millis(50);
/// How long nothing comes, until it is taken that nothing is on its way.
const QUIET: Duration = Duration::from_millis(100);
/// How long it is waited for more to come with what has come, where more is known to be under way.
const GATHER: Duration = Duration::from_millis(1);
/// Records that are worth a read of their own: with fewer the reads cost as much as the records.
const WORTH: usize = 64;
/// How often it is asked again while something is.
const ASK: Duration = Duration::from_secs(2);
/// Requests that the server may still have, until no more is asked for before all have come: it does not say when one
/// is fulfilled.
const OPEN: usize = 64;

/// What a pull request may ask for, by the settings of the consumer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Most {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    pub(crate) expires: Duration,
}

impl Most {
    pub(crate) fn of(info: &Info) -> Self {
        let set = |n: i64| usize::try_from(n).ok().filter(|n| *n > 0).unwrap_or(usize::MAX);
        let config = &info.config;
        let expires = Some(config.max_expires).filter(|expires| !expires.is_zero());
        Self {
            records: set(config.max_batch),
            bytes: set(config.max_bytes),
            expires: expires.map_or(EXPIRES, |most| most.min(EXPIRES)),
        }
    }
}

/// The consumer, as the readers and ackers of this process share it.
pub(crate) struct Shared {
    pub(crate) stream: Arc<str>,
    pub(crate) consumer: PullConsumer,
    pub(crate) context: Context,
    pub(crate) client: Client,
    pub(crate) most: Most,
    pub(crate) lanes: Box<[Lane]>,
    pub(crate) by: LaneBy,
    /// Whether what is gone from the stream was taken by retention, not because it was settled.
    pub(crate) limits: bool,
    pub(crate) pump: Mutex<Pump>,
}

impl Shared {
    /// How often a connection was made: if it is the same before and after, there was one.
    pub(crate) fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Acquire)
    }

    /// What the server says of the consumer.
    async fn examine(&self) -> Result<Info, SourceError> {
        self.consumer.get_info().await.map_err(|error| match error.kind() {
            ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound => {
                SourceError::fatal(self.gone())
            }
            _ => SourceError::transient(error),
        })
    }

    /// Where the stream begins.
    async fn begins(&self) -> Result<u64, SourceError> {
        let stream =
            self.context.get_stream(&*self.stream).await.map_err(SourceError::transient)?;
        Ok(stream.cached_info().state.first_sequence)
    }

    fn gone(&self) -> Trouble {
        Trouble::Gone {
            stream: self.stream.to_string(),
            consumer: self.consumer.cached_info().name.clone(),
        }
    }

    /// Records and bytes that wait in all lanes.
    fn waiting(&self) -> (usize, usize) {
        self.lanes.iter().map(Lane::waiting).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
    }
}

/// What is asked for, and not yet come.
#[derive(Debug)]
pub(crate) struct Pump {
    inbox: Option<Inbox>,
    /// The requests that the server still has, with when each is surely over.
    open: BTreeMap<u64, Instant>,
    serial: u64,
    /// Records that may come of them.
    credit: usize,
    /// Bytes that may. Too many, as long as there is credit: what a fulfilled request did not use is not known.
    bytes: usize,
    /// How large a message is, about: the largest of late.
    size: usize,
    /// Whether the next record is larger than any room: it is asked for alone, of whatever size.
    alone: bool,
    /// Whether anything came since the last request.
    came: bool,
    /// Which lanes have got something, and are not yet told.
    told: Vec<bool>,
    /// What was pending behind the last record.
    pending: u64,
    /// Whether anything came since the server was last asked what is pending.
    news: bool,
    /// Whether the consumer may be gone.
    doubt: bool,
    /// The connection that the requests were made on.
    connects: u64,
    heard: Instant,
    asked: Instant,
    /// Whether it was said that there is no connection.
    complained: bool,
    gaps: Gaps,
    /// Whether it is to be looked at where consumer and stream stand.
    stand: Option<Stand>,
    trouble: Option<SourceError>,
    closed: bool,
}

/// Why it is looked at where consumer and stream stand.
#[derive(Clone, Copy, Debug)]
enum Stand {
    /// This process begins.
    Begin,
    /// The connection was lost, and made again.
    Again,
}

#[derive(Debug)]
struct Inbox {
    prefix: String,
    subscriber: Subscriber,
}

impl Pump {
    pub(crate) fn new(gaps: Gaps) -> Self {
        let now = Instant::now();
        Self {
            inbox: None,
            open: BTreeMap::new(),
            serial: 0,
            credit: 0,
            bytes: 0,
            size: 0,
            alone: false,
            came: false,
            told: Vec::new(),
            pending: 0,
            news: true,
            doubt: false,
            connects: 0,
            heard: now,
            asked: now,
            complained: false,
            gaps,
            stand: Some(Stand::Begin),
            trouble: None,
            closed: false,
        }
    }

    /// Asks for what there is room for, and waits for something to come: for any lane, or for none. False when nothing
    /// will come any more.
    ///
    /// # Cancel safety
    /// Cancel-safe: what has come is in its lane before anything else is waited for.
    pub(crate) async fn turn(&mut self, shared: &Shared, room: Room) -> Result<bool, SourceError> {
        self.tell(shared); // of what came in a turn that was dropped
        if let Some(trouble) = self.trouble.take() {
            return Err(trouble);
        }
        if self.closed {
            return Ok(false);
        }
        if shared.client.connection_state() != State::Connected {
            self.take_in_what_is_there(shared);
            self.tell(shared);
            if !std::mem::replace(&mut self.complained, true) {
                return Err(SourceError::transient(Trouble::Disconnected));
            }
            tokio::time::sleep(PAUSE).await;
            return Ok(true);
        }
        self.complained = false;
        let connects = shared.connects();
        if connects != self.connects {
            // what was asked for on another connection does not come any more
            self.connects = connects;
            self.forget();
            self.stand.get_or_insert(Stand::Again);
        }
        if self.doubt {
            shared.examine().await?;
            self.doubt = false;
        }
        self.look_for_gaps(shared).await?;
        self.request(shared, room).await?;
        let wait = if shared.lanes.iter().all(Lane::knows_its_end) {
            TICK
        } else if self.news {
            PAUSE
        } else {
            ASK.saturating_sub(self.asked.elapsed()).clamp(PAUSE, TICK)
        };
        let Some(inbox) = &mut self.inbox else { return Ok(true) };
        match timeout(wait, inbox.subscriber.next()).await {
            Ok(Some(first)) => {
                let count = self.take_in(shared, first);
                // while the reader is awake each record would be a read, and wake a lane, by itself
                if count < WORTH && self.credit >= WORTH && self.pending > 0 {
                    tokio::time::sleep(GATHER).await;
                    self.take_in_what_is_there(shared);
                }
                self.tell(shared);
            }
            Ok(None) => return Err(SourceError::fatal(Trouble::Closed)),
            Err(_) => self.idle(shared).await?,
        }
        Ok(true)
    }

    fn forget(&mut self) {
        self.open.clear();
        self.credit = 0;
        self.bytes = 0;
        self.heard = Instant::now();
    }

    async fn look_for_gaps(&mut self, shared: &Shared) -> Result<(), SourceError> {
        if !shared.limits {
            return Ok(());
        }
        if self.stand.is_some() {
            // in this order: what the consumer was given before the second look was not gone at the first
            let first = shared.begins().await?;
            let info = shared.examine().await?;
            let delivered = info.delivered.stream_sequence;
            let gap = match self.stand.take() {
                Some(Stand::Begin) if info.num_ack_pending > 0 => {
                    self.gaps.begins(first, delivered, info.ack_floor.stream_sequence)
                }
                _ => self.gaps.stands_at(first, delivered),
            };
            if let Some(gap) = gap {
                shared.lanes[0].note_gap(gap);
            }
        } else if self.gaps.is_due() {
            let first = shared.begins().await?;
            for gap in self.gaps.begins_at(first) {
                shared.lanes[0].note_gap(gap);
            }
        }
        Ok(())
    }

    async fn request(&mut self, shared: &Shared, room: Room) -> Result<(), SourceError> {
        let now = Instant::now();
        if self.open.values().next().is_some_and(|over| *over <= now) {
            self.open.retain(|_, over| *over > now);
            if self.open.is_empty() {
                self.forget();
            }
        }
        let (records, bytes) = shared.waiting();
        let want = room.records.min(shared.most.records).saturating_sub(records);
        // a request for each record would cost as much as the record
        if want == 0 || self.credit.saturating_mul(2) > want {
            return Ok(());
        }
        let left = room.bytes.saturating_sub(bytes).saturating_sub(self.bytes);
        let needs = (want - self.credit).saturating_mul(self.size);
        // how much room there is is known again when all has come that was asked for
        let waits = self.alone || needs.max(1) > left || self.open.len() >= OPEN;
        if (waits && self.credit > 0) || (left == 0 && bytes > 0) {
            return Ok(());
        }
        let (batch, most) = match self.alone {
            true => (1, 0),
            false => {
                // twice what it will take: one that ends for want of bytes costs as much as one that does not
                let most = match self.size {
                    0 => left.div_ceil(2),
                    _ => needs.saturating_mul(2).min(left),
                };
                (want - self.credit, most.clamp(1, shared.most.bytes.min(i32::MAX as usize)))
            }
        };
        if self.inbox.is_none() {
            let prefix = shared.client.new_inbox();
            let subscriber = shared
                .client
                .subscribe(format!("{prefix}.*"))
                .await
                .map_err(SourceError::transient)?;
            self.inbox = Some(Inbox { prefix, subscriber });
        }
        let Some(Inbox { prefix, .. }) = &self.inbox else { return Ok(()) };
        let config = BatchConfig {
            batch,
            max_bytes: most,
            expires: Some(shared.most.expires),
            // the server wants at least two of them in a request
            idle_heartbeat: HEARTBEAT.min(shared.most.expires / 3),
            ..BatchConfig::default()
        };
        let reply = Subject::from(format!("{prefix}.{}", self.serial + 1));
        shared.consumer.request_batch(config, reply).await.map_err(SourceError::transient)?;
        self.serial += 1;
        self.open.insert(self.serial, now + shared.most.expires + HEARTBEAT);
        if self.credit == 0 {
            self.heard = now;
        }
        self.credit += batch;
        self.bytes = self.bytes.saturating_add(most);
        self.alone = false;
        self.came = false;
        Ok(())
    }

    /// Takes in a message, and all that came with it; how many. The lanes are not yet told.
    fn take_in(&mut self, shared: &Shared, first: Message) -> usize {
        self.heard = Instant::now();
        self.told.resize(shared.lanes.len(), false);
        let mut next = Some(first);
        let mut count = 0;
        while let Some(message) = next {
            count += 1;
            match message.status {
                None | Some(StatusCode::OK) => self.deliver(shared, message),
                Some(status) => self.hear(shared, status, &message),
            }
            next = self.next_that_is_there();
        }
        count
    }

    /// The next message that has come already. Bounded by what was asked for: so it need not heed the runtime's budget
    /// for a turn, which would make reads of 128.
    fn next_that_is_there(&mut self) -> Option<Message> {
        let subscriber = &mut self.inbox.as_mut()?.subscriber;
        unconstrained(subscriber.next()).now_or_never().flatten()
    }

    /// Takes in what has come already, without waiting.
    pub(crate) fn take_in_what_is_there(&mut self, shared: &Shared) {
        if let Some(message) = self.next_that_is_there() {
            self.take_in(shared, message);
        }
    }

    /// Tells the lanes that have got something.
    pub(crate) fn tell(&mut self, shared: &Shared) {
        for (lane, told) in shared.lanes.iter().zip(&mut self.told) {
            if std::mem::take(told) {
                lane.news.notify_one();
            }
        }
    }

    fn deliver(&mut self, shared: &Shared, mut message: Message) {
        let reply = message.reply.take();
        let read = reply.and_then(|reply| Some((Delivered::of(&reply)?, reply)));
        let Some((delivered, reply)) = read else {
            tracing::warn!(
                target: "streambreaker::source",
                stream = %shared.stream, subject = %message.subject,
                "what came on the inbox of a consumer is no message of it; ignored",
            );
            return;
        };
        self.came = true;
        self.news = true;
        self.gaps.see(&delivered);
        self.credit = self.credit.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(message.length);
        self.size = message.length.max(self.size - self.size / 64);
        if self.credit == 0 {
            self.open.clear();
            self.bytes = 0;
        }
        let lane = match &*shared.lanes {
            [_] => 0,
            lanes => {
                shard_of(shared.by.key(&message.subject, message.headers.as_ref()), lanes.len())
            }
        };
        let shard = &shared.lanes[lane].shard;
        let record = delivered.record(&shared.stream, shard, message);
        self.pending = delivered.pending;
        shared.lanes[lane].push(record, &delivered, reply);
        self.told[lane] = true;
    }

    /// What the server says of a request.
    fn hear(&mut self, shared: &Shared, status: StatusCode, message: &Message) {
        if status == StatusCode::IDLE_HEARTBEAT {
            return;
        }
        let said = message.description.as_deref().unwrap_or_default();
        let number = |name: &str| -> Option<usize> {
            message.headers.as_ref()?.get(name)?.as_str().parse().ok()
        };
        let over = message.subject.rsplit('.').next().and_then(|serial| serial.parse().ok());
        let known = over.is_some_and(|serial: u64| self.open.remove(&serial).is_some());
        if !known {
            return; // it was made on another connection
        }
        self.credit = self.credit.saturating_sub(number("Nats-Pending-Messages").unwrap_or(0));
        self.bytes = self.bytes.saturating_sub(number("Nats-Pending-Bytes").unwrap_or(0));
        if self.open.is_empty() {
            (self.credit, self.bytes) = (0, 0);
        }
        if status == StatusCode::TIMEOUT || status == StatusCode::NOT_FOUND {
            return;
        }
        if said.contains("Exceeds MaxBytes") {
            // the room is smaller than the record, if nothing else has come of the request
            self.alone = !self.came;
        } else if said.contains("Consumer Deleted") {
            self.trouble = Some(SourceError::fatal(shared.gone()));
        } else if said.contains("Exceeded MaxWaiting") {
            self.trouble = Some(SourceError::transient(Trouble::MaxWaiting));
        } else if status == StatusCode::NO_RESPONDERS {
            // the consumer may be gone, or its server not yet there
            self.doubt = true;
            self.trouble =
                Some(SourceError::transient(Trouble::Refused("nobody listens for it".to_owned())));
        } else if !said.contains("Batch Completed") {
            self.trouble = Some(SourceError::transient(Trouble::Refused(format!(
                "{} {said}",
                status.as_u16()
            ))));
        }
    }

    /// Nothing has come for a moment.
    async fn idle(&mut self, shared: &Shared) -> Result<(), SourceError> {
        if shared.client.connection_state() != State::Connected {
            return Ok(());
        }
        let silent = self.heard.elapsed();
        if self.credit > 0 && silent > HEARTBEAT * 5 / 2 {
            self.doubt = true;
            self.forget();
            return Err(SourceError::transient(Trouble::Silent(silent)));
        }
        let ends = shared.lanes.iter().all(Lane::knows_its_end);
        if !ends && (self.news || self.asked.elapsed() >= ASK) {
            self.asked = Instant::now();
            self.news = false;
            let info = shared.examine().await?;
            if info.num_waiting == 0 {
                // a request whose bytes were used up to the last one is over without a word
                self.forget();
            }
            for lane in &shared.lanes {
                lane.note_pending(info.num_pending);
            }
        }
        Ok(())
    }

    /// Asks for nothing more, and takes in what still comes of what was asked for.
    ///
    /// A pull cannot be taken back, and the client forgets a subscription before what is on its way has come. So it
    /// waits until all has come, or nothing does any more.
    ///
    /// # Cancel safety
    /// Cancel-safe; what was still on its way then is delivered again after the ack wait.
    pub(crate) async fn stop(&mut self, shared: &Shared) {
        self.closed = true;
        while self.credit > 0 {
            let Some(inbox) = &mut self.inbox else { break };
            match timeout(QUIET, inbox.subscriber.next()).await {
                Ok(Some(message)) => {
                    self.take_in(shared, message);
                }
                Ok(None) | Err(_) => break,
            }
        }
        self.take_in_what_is_there(shared);
        self.tell(shared);
        self.inbox = None;
        // an answer says that the server has heard of it: else it would give what is given back to this one again
        let _ = shared.examine().await;
    }
}

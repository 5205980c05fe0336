//! The sink: publishes to JetStream, several in flight, and notes each acknowledgement as it comes.

use std::fmt;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::context::{GetStreamByNameErrorKind, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{Context, ErrorCode};
use async_nats::{HeaderMap, HeaderValue, Subject};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use streambreaker::sink::{Limits, Outcomes};
use streambreaker::{FaultEvent, Sink, StepError};

use crate::error::OpenError;

/// Messages in flight at once, unless told.
const IN_FLIGHT: usize = 500;

/// The header by which a stream knows a message that it has already.
const MSG_ID: &str = "Nats-Msg-Id";

/// A message to be published.
///
/// `Debug` shows the subject and sizes, neither headers nor payload.
#[derive(Clone, PartialEq, Eq)]
pub struct Publication {
    subject: Subject,
    /// Not among the headers: they are made when it is sent, and most often it is all there is.
    id: Option<HeaderValue>,
    headers: HeaderMap,
    payload: Bytes,
}

impl Publication {
    /// A message of this subject and payload, known by this id: the stream takes it once, however often it is
    /// published within its `duplicate_window`. The id of the event that it says, or that it was made of.
    ///
    /// # Panics
    /// When the id holds a line end, which no header can.
    pub fn new(subject: impl Into<String>, id: impl AsRef<str>, payload: impl Into<Bytes>) -> Self {
        let mut publication = Self::without_id(subject, payload);
        publication.id = Some(HeaderValue::from(id.as_ref()));
        publication
    }

    /// A message without an id: published twice, it is there twice.
    pub fn without_id(subject: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self {
            subject: Subject::from(subject.into()),
            id: None,
            headers: HeaderMap::new(),
            payload: payload.into(),
        }
    }

    /// With one header more.
    ///
    /// # Panics
    /// When name or value hold what no header can (a line end; a colon in the name).
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        if self.id.is_none() && name == MSG_ID {
            self.id = Some(HeaderValue::from(value));
        } else {
            self.headers.append(name, value);
        }
        self
    }

    /// The subject.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The payload.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Bytes that the server counts: headers and payload.
    fn size(&self) -> usize {
        let line = |name: &str, value: &HeaderValue| name.len() + value.as_str().len() + 4;
        let id = self.id.as_ref().map_or(0, |id| line(MSG_ID, id));
        let values = self
            .headers
            .iter()
            .flat_map(|(name, values)| values.iter().map(move |value| line(name.as_ref(), value)));
        let headers = id + values.sum::<usize>();
        // `NATS/1.0` and the empty line, where there are any
        self.payload.len() + headers + if headers > 0 { 12 } else { 0 }
    }
}

impl fmt::Debug for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Publication({}, {} headers, {} bytes)",
            self.subject,
            self.headers.len() + usize::from(self.id.is_some()),
            self.payload.len()
        )
    }
}

/// A sink of [`Publication`]s: a target of `bulk_write`.
#[derive(Clone)]
pub struct NatsSink {
    context: Context,
    stream: String,
    limits: Limits,
}

impl NatsSink {
    /// A sink that publishes to subjects of the stream `stream`.
    ///
    /// A request holds at most 500 messages, all of them in flight at once, and together as many bytes as the server
    /// takes in one (`max_payload`, or the stream's `max_msg_size`).
    ///
    /// # Errors
    /// [`OpenError`], where there is no such stream.
    pub async fn open(context: Context, stream: impl Into<String>) -> Result<Self, OpenError> {
        let stream = stream.into();
        let found = context
            .get_stream(&stream)
            .await
            .map_err(|error| OpenError::of_stream(&stream, error))?;
        let server = context.client().max_payload();
        let most = match usize::try_from(found.cached_info().config.max_message_size) {
            Ok(own @ 1..) => own.min(server),
            _ => server,
        };
        Ok(Self { context, stream, limits: Limits::items(IN_FLIGHT).with_bytes(most) })
    }

    /// With so many messages in flight at once. The context's own limit, `max_ack_inflight`, must not be lower.
    #[must_use]
    pub fn in_flight(mut self, messages: usize) -> Self {
        self.limits = Limits::items(messages).with_bytes(self.limits.bytes);
        self
    }

    /// Publishes them in order, and notes each one's outcome as its acknowledgement comes.
    async fn publish(
        &self,
        messages: impl Iterator<Item = Publication>,
        outcomes: &mut Outcomes<'_>,
    ) {
        let mut acks = FuturesUnordered::new();
        for (index, Publication { subject, id, mut headers, payload }) in messages.enumerate() {
            if !is_literal(&subject) {
                // the server would drop some of these without a word
                outcomes.reject(index, "not a subject that can be published to");
                continue;
            }
            if let Some(id) = id {
                headers.insert(NATS_MESSAGE_ID, id);
            }
            let mut message = PublishMessage::build().payload(payload);
            if !headers.is_empty() {
                message = message.headers(headers);
            }
            let sending = self.context.send_publish(subject, message);
            tokio::pin!(sending);
            let sent = loop {
                tokio::select! {
                    biased;
                    sent = &mut sending => break sent,
                    // also while a connection is slow: what is confirmed is not to be sent again
                    Some((index, ack)) = acks.next(), if !acks.is_empty() => {
                        note(outcomes, index, ack);
                    }
                }
            };
            match sent {
                Ok(ack) => acks.push(async move { (index, ack.await.map(drop)) }),
                Err(error) => note(outcomes, index, Err(error)),
            }
        }
        while let Some((index, ack)) = acks.next().await {
            note(outcomes, index, ack);
        }
    }
}

/// Whether a subject can be published to: tokens that are not empty, without blanks or wildcards.
fn is_literal(subject: &str) -> bool {
    let token = |token: &str| {
        let wild = token == "*" || token == ">";
        !token.is_empty() && !wild && !token.contains(|c: char| c.is_whitespace() || c == '\0')
    };
    subject.split('.').all(token)
}

/// Notes what became of one message.
fn note(outcomes: &mut Outcomes<'_>, index: usize, ack: Result<(), PublishError>) {
    match ack {
        Ok(()) => outcomes.done(index),
        Err(error) if is_final(&error) => outcomes.reject(index, error),
        Err(error) => outcomes.retry(index, error),
    }
}

/// Whether it is the message that is wrong: it would be refused again.
fn is_final(error: &PublishError) -> bool {
    use std::error::Error;
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded
        | PublishErrorKind::WrongLastMessageId
        | PublishErrorKind::WrongLastSequence => true,
        PublishErrorKind::Other => error.source().is_some_and(|source| {
            let code = source
                .downcast_ref::<async_nats::jetstream::Error>()
                .map(async_nats::jetstream::Error::error_code);
            matches!(
                code,
                Some(
                    ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM
                        | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM
                        | ErrorCode::STREAM_SEALED
                        | ErrorCode::BAD_REQUEST
                )
            )
        }),
        // no stream may be a stream that is not yet there, or not there just now
        _ => false,
    }
}

#[async_trait]
impl Sink<Publication> for NatsSink {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn size(&self, item: &Publication) -> usize {
        item.size()
    }

    fn stream(&self) -> Option<&str> {
        Some(&self.stream)
    }

    async fn write(
        &self,
        items: &[Publication],
        outcomes: &mut Outcomes<'_>,
    ) -> Result<(), StepError> {
        self.publish(items.iter().cloned(), outcomes).await;
        Ok(())
    }
}

impl fmt::Debug for NatsSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NatsSink({}, {:?})", self.stream, self.limits)
    }
}

/// A fault sink: publishes fault events to a subject of their own, each known by its id.
#[derive(Clone, Debug)]
pub struct NatsFaults {
    sink: NatsSink,
    subject: String,
}

impl NatsFaults {
    /// A fault sink that publishes to `subject`, in whichever stream takes it.
    ///
    /// A fault event larger than the server takes (`max_payload`), or the stream (`max_msg_size`), is reduced in steps, as
    /// the core says.
    ///
    /// # Errors
    /// [`OpenError::NoSubject`], where no stream takes the subject.
    pub async fn open(context: Context, subject: impl Into<String>) -> Result<Self, OpenError> {
        let subject = subject.into();
        let stream =
            context.stream_by_subject(&subject).await.map_err(|error| match error.kind() {
                GetStreamByNameErrorKind::NotFound => {
                    OpenError::NoSubject { subject: subject.clone() }
                }
                _ => OpenError::asked(
                    format!("the request for the stream that takes the subject `{subject}`"),
                    error,
                ),
            })?;
        Ok(Self { sink: NatsSink::open(context, stream).await?, subject })
    }

    fn publication(&self, event: &FaultEvent) -> Publication {
        Publication::new(&*self.subject, event.id.to_string(), event.to_json())
    }
}

#[async_trait]
impl Sink<FaultEvent> for NatsFaults {
    fn limits(&self) -> Limits {
        self.sink.limits
    }

    fn size(&self, event: &FaultEvent) -> usize {
        self.publication(event).size()
    }

    fn stream(&self) -> Option<&str> {
        Some(&self.sink.stream)
    }

    async fn write(
        &self,
        events: &[FaultEvent],
        outcomes: &mut Outcomes<'_>,
    ) -> Result<(), StepError> {
        self.sink.publish(events.iter().map(|event| self.publication(event)), outcomes).await;
        Ok(())
    }
}

//! What can be wrong with what a source or a sink is told to use, and what to change.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{GetStreamErrorKind, RequestErrorKind};
use async_nats::jetstream::stream::ConsumerErrorKind;
use streambreaker::BoxError;

/// Why a source or a sink could not be opened. Nothing was created that was not asked for.
///
/// `Debug` is `Display` with all causes: it is what `main` and `unwrap` print, and it is written for people.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Nothing answers JetStream's requests.
    #[error(
        "no JetStream answers: start the server with `-js`, enable it for the account, or name its domain with \
         `jetstream::with_domain`"
    )]
    NoJetStream,
    /// A server is there, and does not answer this in time: it is slow, or the user has no leave to ask.
    #[error(
        "no answer in time to {what}: a user needs leave to publish to `$JS.API.>` and `$JS.ACK.>`, and to subscribe to \
         its inbox (`_INBOX.>`, or `custom_inbox_prefix`)"
    )]
    NoAnswer {
        /// What was asked for.
        what: String,
    },
    /// There is no such stream.
    #[error(
        "there is no stream `{stream}`: create it with `nats stream add {stream} --subjects '…' --defaults` or with \
         `Context::create_stream`; a source creates it where it is asked to, with `.create_stream(..)`"
    )]
    NoStream {
        /// The stream that was named.
        stream: String,
    },
    /// No stream takes what is published to a subject.
    #[error(
        "no stream takes the subject `{subject}`: create one with `nats stream add NAME --subjects '{subject}' --defaults` or \
         with `Context::create_stream`, or add it to the `subjects` of one that there is"
    )]
    NoSubject {
        /// The subject that was named.
        subject: String,
    },
    /// There is no such consumer.
    #[error(
        "the stream `{stream}` has no consumer `{consumer}`: create it with \
         `nats consumer add {stream} {consumer} --pull --ack explicit --max-deliver -1 --defaults`, or ask for it with \
         `.create(..)`"
    )]
    NoConsumer {
        /// Its stream.
        stream: String,
        /// The consumer that was named.
        consumer: String,
    },
    /// A setting of the consumer or the stream that a processor cannot work with.
    #[error("`{setting}` of `{of}` is {found}; accepted: {accepted}")]
    Setting {
        /// The setting, by the server's name for it.
        setting: &'static str,
        /// The stream or consumer that has it.
        of: String,
        /// What it is.
        found: String,
        /// What it may be, and why.
        accepted: &'static str,
    },
    /// The server did not answer, or refused.
    #[error("{what} did not go through")]
    Server {
        /// What was asked for.
        what: String,
        /// What came of it.
        #[source]
        source: BoxError,
    },
}

impl OpenError {
    pub(crate) fn server(what: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self::Server { what: what.into(), source: source.into() }
    }

    /// Of a request that JetStream was to answer.
    pub(crate) fn asked(what: String, error: impl Into<BoxError>) -> Self {
        let error = error.into();
        match why(&*error) {
            Some(RequestErrorKind::NoResponders) => Self::NoJetStream,
            Some(RequestErrorKind::TimedOut) => Self::NoAnswer { what },
            _ => Self::server(what, error),
        }
    }

    pub(crate) fn setting(
        setting: &'static str,
        of: &str,
        found: impl Into<String>,
        accepted: &'static str,
    ) -> Self {
        Self::Setting { setting, of: of.to_owned(), found: found.into(), accepted }
    }

    /// Of a request for a stream.
    pub(crate) fn of_stream(
        stream: &str,
        error: async_nats::jetstream::context::GetStreamError,
    ) -> Self {
        let what = || format!("the request for stream `{stream}`");
        match error.kind() {
            GetStreamErrorKind::JetStream(said) => Self::of_code(stream, None, said.error_code())
                .unwrap_or_else(|| Self::asked(what(), error)),
            _ => Self::asked(what(), error),
        }
    }

    /// Of a request for a consumer.
    pub(crate) fn of_consumer(
        stream: &str,
        consumer: &str,
        error: async_nats::jetstream::stream::ConsumerError,
    ) -> Self {
        let what = || format!("the request for consumer `{consumer}` of stream `{stream}`");
        match error.kind() {
            ConsumerErrorKind::JetStream(said) => {
                Self::of_code(stream, Some(consumer), said.error_code())
                    .unwrap_or_else(|| Self::asked(what(), error))
            }
            ConsumerErrorKind::InvalidConsumerType => Self::setting(
                "deliver_subject",
                consumer,
                "set: it is a push consumer",
                "none: a pull consumer, which takes no more than there is room for",
            ),
            ConsumerErrorKind::TimedOut => Self::NoAnswer { what: what() },
            _ => Self::asked(what(), error),
        }
    }

    fn of_code(stream: &str, consumer: Option<&str>, code: ErrorCode) -> Option<Self> {
        match (code, consumer) {
            (ErrorCode::STREAM_NOT_FOUND, _) => Some(Self::NoStream { stream: stream.to_owned() }),
            (ErrorCode::CONSUMER_NOT_FOUND, Some(consumer)) => {
                Some(Self::NoConsumer { stream: stream.to_owned(), consumer: consumer.to_owned() })
            }
            (
                ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT,
                _,
            ) => Some(Self::NoJetStream),
            _ => None,
        }
    }
}

impl fmt::Debug for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)?;
        let mut causes =
            std::iter::successors(std::error::Error::source(self), |error| error.source());
        causes.try_for_each(|cause| write!(f, ": {cause}"))
    }
}

/// Why a request came to nothing, where that is what is behind an error.
fn why(error: &(dyn std::error::Error + 'static)) -> Option<RequestErrorKind> {
    let all = std::iter::successors(Some(error), |error| error.source());
    // the innermost: the client wraps one into another that says nothing
    let found = all.filter_map(|error| {
        if let Some(request) = error.downcast_ref::<async_nats::jetstream::context::RequestError>()
        {
            return Some(request.kind());
        }
        match error.downcast_ref::<async_nats::RequestError>()?.kind() {
            async_nats::RequestErrorKind::NoResponders => Some(RequestErrorKind::NoResponders),
            async_nats::RequestErrorKind::TimedOut => Some(RequestErrorKind::TimedOut),
            _ => None,
        }
    });
    found.last()
}

/// Why a source could not be read, or a commit not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error(
        "the consumer `{consumer}` of stream `{stream}` is gone: somebody deleted it, or its stream; create it again, \
         with `opt_start_seq` behind what was settled"
    )]
    Gone { stream: String, consumer: String },
    #[error("nothing is heard of the consumer for {0:?}, not even its heartbeat")]
    Silent(Duration),
    #[error("the server refused a pull: {0}")]
    Refused(String),
    #[error(
        "the consumer has too many pull requests waiting: raise its `max_waiting`, or let fewer processes share it"
    )]
    MaxWaiting,
    #[error("the client is closed")]
    Closed,
    #[error("the connection was lost on the way: whether the server heard of it is not known")]
    Reconnected,
    #[error("there is no connection")]
    Disconnected,
}

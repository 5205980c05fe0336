//! What a transport tells the suite, and does for it.

use std::fmt;
use std::future::Future;

use bytes::Bytes;
use streambreaker::record::ShardId;
use streambreaker::{BoxError, Source};

use crate::suite::check::{Harness, declared};
pub(super) use crate::suite::check::{must, state};

/// What is published: what a record carries from its producer.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Message {
    /// The key, if it has one.
    pub key: Option<Bytes>,
    /// The headers, in order; a name may come twice.
    pub headers: Vec<(String, Bytes)>,
    /// The payload.
    pub payload: Bytes,
}

impl Message {
    /// A message without key and headers.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self { key: None, headers: Vec::new(), payload: payload.into() }
    }

    /// The same with a key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The same with one header more.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

macro_rules! of_payload {
    ($($type:ty),*) => {$(
        impl From<$type> for Message {
            fn from(payload: $type) -> Self {
                Self::new(payload)
            }
        }
    )*};
}
of_payload!(&'static str, String, Vec<u8>, Bytes);

/// What a transport, or its harness, cannot do. Stated by the tests, and checked where that can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cannot {
    /// Carry a key.
    Keys,
    /// Carry a key of 1 MiB.
    LargeKeys,
    /// Carry headers.
    Headers,
    /// Keep the order between headers of different names.
    OrderHeaders,
    /// Carry an empty payload.
    EmptyPayloads,
    /// Carry line ends in a payload.
    LineEnds,
    /// Have a second shard: it is published to as shard 1.
    Shards,
    /// Drop a read and lose nothing: [`Reader::read`](streambreaker::source::Reader::read) promises no cancel safety.
    CancelReads,
    /// Yield what is published after it was opened: it ends behind what was there. Nor has it a shard before there is a
    /// record in it.
    Follow,
    /// Come to an end.
    End,
    /// Forget records that are not read yet.
    Gap,
    /// Be made to fail a read.
    FailReads,
    /// Refuse the commit of one who has lost the shard.
    Fence,
    /// Announce that a shard is to be given up.
    Revoke,
    /// Announce that a shard is lost.
    Lose,
    /// Assign a shard again to the consumer that has it.
    Reassign,
    /// Be stopped and started again.
    Restart,
}

impl fmt::Display for Cannot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cannot::Keys => "cannot carry keys",
            Cannot::LargeKeys => "cannot carry keys of 1 MiB",
            Cannot::Headers => "cannot carry headers",
            Cannot::OrderHeaders => "cannot keep the order between headers of different names",
            Cannot::EmptyPayloads => "cannot carry empty payloads",
            Cannot::LineEnds => "cannot carry line ends",
            Cannot::Shards => "cannot have a second shard",
            Cannot::CancelReads => "cannot drop a read without loss",
            Cannot::Follow => "cannot yield what is published after it was opened",
            Cannot::End => "cannot end",
            Cannot::Gap => "cannot forget records",
            Cannot::FailReads => "cannot be made to fail a read",
            Cannot::Fence => "cannot fence",
            Cannot::Revoke => "cannot revoke",
            Cannot::Lose => "cannot announce a loss",
            Cannot::Reassign => "cannot assign a shard again",
            Cannot::Restart => "cannot be started again",
        })
    }
}

/// What a method of a harness answers that is not implemented.
///
/// # Errors
/// Always: it names what to do.
pub fn unable(method: &str, what: impl fmt::Debug) -> Result<(), BoxError> {
    Err(format!("implement `{method}` in the harness, or declare `Cannot::{what:?}`").into())
}

/// A stream for one test. Shards count from 0; there are two, unless it declares [`Cannot::Shards`].
///
/// Methods that stand for something in [`Cannot`] need not be implemented where that is declared.
pub trait SourceHarness: Harness {
    /// The source under test.
    type Source: Source;

    /// What it cannot do. Who says nothing is held to everything.
    fn cannot(&self) -> Vec<Cannot> {
        Vec::new()
    }

    /// The name of a shard; `0` and `1`, if it says nothing else.
    fn shard(&self, index: usize) -> ShardId {
        ShardId::from(index.to_string())
    }

    /// Publishes a message at the end of a shard; durable when it returns.
    ///
    /// What it cannot carry it refuses: no error is a promise that the message can be read.
    fn publish(
        &self,
        shard: usize,
        message: &Message,
    ) -> impl Future<Output = Result<(), BoxError>>;

    /// A consumer: always of the same group, so that it goes on where the one before has settled. One before may
    /// still be there, and is to lose its shards to this one (at once, or when the broker has noticed).
    fn consumer(&self) -> impl Future<Output = Result<Self::Source, BoxError>>;

    /// Says that nothing more will be published. [`Cannot::End`] otherwise.
    fn close(&self) -> impl Future<Output = Result<(), BoxError>> {
        async { unable("close", Cannot::End) }
    }

    /// Forgets the first `count` records that were published to shard 0, as retention does. [`Cannot::Gap`]
    /// otherwise.
    fn forget(&self, count: usize) -> impl Future<Output = Result<(), BoxError>> {
        let _ = count;
        async { unable("forget", Cannot::Gap) }
    }

    /// Makes the next reads of shard 0 fail, so that later ones go through. [`Cannot::FailReads`] otherwise.
    fn fail_reads(&self, times: u32) -> impl Future<Output = Result<(), BoxError>> {
        let _ = times;
        async { unable("fail_reads", Cannot::FailReads) }
    }

    /// Begins to take shard 0 from its consumer, with enough grace to settle. [`Cannot::Revoke`] otherwise.
    fn revoke(&self) -> impl Future<Output = Result<(), BoxError>> {
        async { unable("revoke", Cannot::Revoke) }
    }

    /// Takes shard 0 from its consumer, which is to be told. [`Cannot::Lose`] otherwise.
    fn lose(&self) -> impl Future<Output = Result<(), BoxError>> {
        async { unable("lose", Cannot::Lose) }
    }

    /// Assigns shard 0 anew to the consumer that has it. [`Cannot::Reassign`] otherwise.
    fn reassign(&self) -> impl Future<Output = Result<(), BoxError>> {
        async { unable("reassign", Cannot::Reassign) }
    }

    /// Stops the broker and starts it again. [`Cannot::Restart`] otherwise.
    fn restart(&self) -> impl Future<Output = Result<(), BoxError>> {
        async { unable("restart", Cannot::Restart) }
    }
}

/// Whether it declares that it cannot do this, which is then stated.
pub(super) fn cannot<H: SourceHarness>(harness: &H, what: Cannot) -> bool {
    declared(&harness.cannot(), what)
}

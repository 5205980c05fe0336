//! The failures that a stream can be told to have.

/// A failure to inject: [`Stream::inject`](super::Stream::inject) for every shard,
/// [`Stream::inject_at`](super::Stream::inject_at) for one.
///
/// Counts are a shard's own. A failure is injected into whichever consumer reads or commits next;
/// failures of one kind add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Inject {
    /// The next reads fail with [`SourceError::Transient`](crate::source::SourceError::Transient).
    ReadErrors(u32),
    /// The next read fails with [`SourceError::Fatal`](crate::source::SourceError::Fatal).
    ReadFatal,
    /// The next reads yield no records, although there are some.
    EmptyReads(u32),
    /// Reads hang, without an error, until [`Stream::resume`](super::Stream::resume).
    Stall,
    /// The last so many delivered records come again at the next read. By position: settled or not. One
    /// by one: of those that are not acknowledged.
    Redeliver(usize),
    /// In each of the next non-empty reads with room for it, the first record comes twice.
    Duplicate(u32),
    /// The next commits fail, and change nothing.
    CommitErrors(u32),
    /// The next commits take effect, and then say that they failed.
    CommitRepliesLost(u32),
    /// The next commits hang until [`Stream::resume`](super::Stream::resume), then go on. Dropped before
    /// that they change nothing.
    CommitsHang(u32),
}

/// What is still to be injected into one shard.
#[derive(Default)]
pub(super) struct Injected {
    pub(super) read_errors: u32,
    pub(super) read_fatal: bool,
    pub(super) empty_reads: u32,
    pub(super) stalled: bool,
    pub(super) redeliver: usize,
    pub(super) duplicate: u32,
    pub(super) commit_errors: u32,
    pub(super) replies_lost: u32,
    pub(super) commits_hang: u32,
}

impl Injected {
    pub(super) fn add(&mut self, inject: Inject) {
        let more = |have: &mut u32, n: u32| *have = have.saturating_add(n);
        match inject {
            Inject::ReadErrors(n) => more(&mut self.read_errors, n),
            Inject::ReadFatal => self.read_fatal = true,
            Inject::EmptyReads(n) => more(&mut self.empty_reads, n),
            Inject::Stall => self.stalled = true,
            Inject::Redeliver(n) => self.redeliver = self.redeliver.saturating_add(n),
            Inject::Duplicate(n) => more(&mut self.duplicate, n),
            Inject::CommitErrors(n) => more(&mut self.commit_errors, n),
            Inject::CommitRepliesLost(n) => more(&mut self.replies_lost, n),
            Inject::CommitsHang(n) => more(&mut self.commits_hang, n),
        }
    }
}

/// Takes one off a count that is not yet zero.
pub(super) fn take(count: &mut u32) -> bool {
    let some = *count > 0;
    *count = count.saturating_sub(1);
    some
}

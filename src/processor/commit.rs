//! The commits of a shard: one at a time, bounded in time and count, tried again until they are confirmed.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;

use super::shard::Shard;
use crate::clock::FAR;
use crate::record::Position;
use crate::resource::Retry;
use crate::source::{Ack, Acker, Acknowledge, CommitError, Settled};

/// How the commits of a shard ended.
#[derive(Debug)]
pub(crate) enum CommitEnd {
    /// Everything that was settled is committed.
    Finished {
        /// Whether the shard was given back.
        released: bool,
    },
    /// The shard is someone else's.
    Fenced,
}

/// What one call of the acker was for.
enum Call {
    Through(Position),
    Each(Vec<(Position, Ack)>),
    Extend,
}

type Calling = BoxFuture<'static, (Box<dyn Acker>, Call, Result<(), CommitError>)>;

/// When the calls of a shard's acker are due, and how long one may take.
struct Pace {
    /// A commit so long after something was settled.
    every: Duration,
    /// Or after so many records.
    most: u64,
    timeout: Duration,
    /// How often leases are extended, where they are.
    extend_every: Option<Duration>,
}

impl Pace {
    fn of(shard: &Shard) -> Self {
        let (policy, caps) = (shard.core.commit, &shard.caps);
        let extendable = caps.deadline.filter(|_| caps.extends);
        let extend_every = extendable.map(|deadline| deadline.min(FAR) / 3);
        Self {
            // where it cannot be asked for more time, what is settled must be acknowledged before that is over
            every: match (caps.acknowledge, caps.deadline) {
                (Acknowledge::Each, Some(deadline)) if !caps.extends => {
                    policy.every.min(deadline / 3)
                }
                _ => policy.every,
            },
            // a source that hands out only so many before it hears of them must hear in time, or it stands still till then
            most: caps
                .unsettled
                .map_or(policy.records, |theirs| policy.records.min((theirs.most / 4).max(1))),
            // a call that hangs must not outlast the leases that are to be extended
            timeout: extend_every.map_or(policy.timeout, |every| every.min(policy.timeout)),
            extend_every,
        }
    }
}

/// Commits until told to finish, and nothing is left to commit.
pub(crate) async fn commit_loop(
    shard: Arc<Shard>,
    acker: Box<dyn Acker>,
    mut finish: watch::Receiver<bool>,
) -> CommitEnd {
    let Pace { every, most, timeout, extend_every } = Pace::of(&shard);
    let backoff = Retry::exponential().max_attempts(u32::MAX).cap(Duration::from_secs(10));
    let mut idle = Some(acker);
    let mut calling: Option<Calling> = None;
    let mut committed = shard.committed().clone();
    let mut acks: Vec<(Position, Ack)> = Vec::new();
    let mut sending = 0;
    let mut last = Instant::now();
    // how much was settled when the present call was made, and when the last one that was confirmed
    let (mut counted, mut confirmed) = (0, 0);
    let mut failures = 0u32;
    let mut not_before = Instant::now();
    let mut extend_at = extend_every.map(|every| Instant::now() + every);
    let mut extended = false;

    loop {
        let finishing = *finish.borrow();
        let (prefix, settled) = advance(&shard, &mut acks, finishing);
        let news = match shard.caps.acknowledge {
            // not below what an earlier ownership has committed: it is only a redelivery
            Acknowledge::Prefix => prefix > committed,
            Acknowledge::Each => !acks.is_empty(),
        };
        let unheard = match shard.caps.acknowledge {
            Acknowledge::Prefix if news => settled - confirmed,
            Acknowledge::Prefix => {
                confirmed = settled;
                0
            }
            Acknowledge::Each => (acks.len() + sending) as u64,
        };
        shard.note_unheard(unheard);
        if shard.core.gate.is_busy() {
            shard.core.gate.look();
            if !news && calling.is_none() {
                // it may have been a redelivery, of which nothing is left to commit
                let_next_in(&shard);
            }
        }
        let now = Instant::now();
        if !news {
            // the interval counts from the first thing that waits to be committed
            last = now;
        }
        let commit_at = news.then(|| {
            let pressing = finishing
                || unheard >= most
                || shard.core.gate.is_busy()
                || shard.is_handed_out(shard.tracker().records_in_flight());
            if pressing { not_before } else { not_before.max(last + every) }
        });
        let commit_is_due = commit_at.is_some_and(|at| now >= at);
        let extend_is_due = extend_at.is_some_and(|at| now >= at);
        // in turn where both are: there may always be something to commit, and a call to extend may last until the next
        if extend_is_due && !(commit_is_due && extended) {
            if let Some(acker) = idle.take() {
                extended = true;
                extend_at = extend_every.map(|every| now + every);
                let mut held = shard.held();
                // not acknowledged yet: it would be worked on once more
                let kept = acks.iter().filter(|(_, ack)| ack.settles());
                held.extend(kept.map(|(position, _)| position.clone()));
                calling = Some(extend(acker, held, timeout));
            }
        }
        if commit_is_due {
            if let Some(acker) = idle.take() {
                extended = false;
                last = now;
                counted = settled;
                let call = match &prefix {
                    Some(position) if shard.caps.acknowledge == Acknowledge::Prefix => {
                        Call::Through(position.clone())
                    }
                    _ => {
                        sending = acks.len();
                        Call::Each(std::mem::take(&mut acks))
                    }
                };
                calling = Some(settle(acker, call, timeout));
            }
        } else if finishing && !news {
            if let Some(acker) = idle.take() {
                return CommitEnd::Finished {
                    released: release(acker, shard.core.commit.timeout).await,
                };
            }
        }
        let wake = if idle.is_none() {
            None
        } else {
            // a lane tells only of whole batches: one stuck record must not hide what was settled before it
            let open = !news && shard.tracker().records_in_flight() > 0;
            let look_at = open.then(|| now + every);
            commit_at.into_iter().chain(look_at).chain(extend_at).min()
        };
        tokio::select! {
            biased;
            (acker, call, result) = async { match calling.as_mut() {
                Some(calling) => calling.await,
                None => std::future::pending().await,
            } } => {
                calling = None;
                sending = 0;
                idle = Some(acker);
                let failed = match result {
                    Ok(()) => false,
                    Err(CommitError::Fenced) => return CommitEnd::Fenced,
                    Err(error) => {
                        shard.core.note_commit_error(&shard, &error);
                        true
                    }
                };
                // a call to extend has times of its own, and says nothing of commits
                if !matches!(call, Call::Extend) {
                    failures = if failed { failures.saturating_add(1) } else { 0 };
                    let wait = failed.then(|| backoff.delay(failures, &shard.core.random));
                    not_before = Instant::now() + wait.flatten().unwrap_or_default();
                }
                match (call, failed) {
                    (Call::Through(position), false) => {
                        confirmed = counted;
                        committed = Some(position.clone());
                        {
                            // a later assignment may have come further, while this one was taken away
                            let mut highest = shard.committed();
                            *highest = highest.take().max(Some(position));
                        }
                        shard.core.note_commit(&shard);
                    }
                    (Call::Each(sent), true) => {
                        // tried again, with what is settled by then
                        let newer = std::mem::replace(&mut acks, sent);
                        acks.extend(newer);
                    }
                    (Call::Each(sent), false) => {
                        let mut history = shard.history();
                        for (position, ack) in &sent {
                            if ack.settles() {
                                history.confirmed(position);
                            }
                        }
                        drop(history);
                        shard.note_taken_back(&sent);
                        shard.core.note_commit(&shard);
                    }
                    (Call::Through(_) | Call::Extend, _) => {}
                }
                if !failed {
                    let_next_in(&shard);
                }
            }
            () = shard.signal.notified() => {}
            () = async { match wake {
                Some(wake) => tokio::time::sleep_until(wake).await,
                None => std::future::pending().await,
            } } => {}
            changed = finish.changed(), if !finishing => {
                // nobody is left to tell: the shard is on its way out
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

/// All that was settled is committed: if a record that may kill the process was among it, the next may begin.
fn let_next_in(shard: &Shard) {
    let tracker = shard.tracker();
    shard
        .core
        .gate
        .committed(&shard.faults, |batch, index| !tracker.is_open(batch, index as usize));
}

/// Moves the settled prefix on, and collects what can be acknowledged one by one: with `last` also what nobody decided,
/// and now nobody will.
fn advance(shard: &Shard, acks: &mut Vec<(Position, Ack)>, last: bool) -> (Option<Position>, u64) {
    let (prefix, settled) = {
        let mut tracker = shard.tracker();
        if !tracker.is_empty() {
            let mut history = shard.history();
            match shard.caps.acknowledge {
                Acknowledge::Prefix => {
                    tracker.advance(&mut history);
                }
                Acknowledge::Each => {
                    let core = &shard.core;
                    let new = tracker.collect(&mut history, last, |record, returns| {
                        shard.note_given_back(record);
                        core.return_delay(record.deliveries().max(returns))
                    });
                    let settled = new.iter().filter(|(_, ack)| ack.settles());
                    shard.note_come_again(settled.map(|(position, _)| position));
                    match acks.is_empty() {
                        true => *acks = new,
                        false => acks.extend(new),
                    }
                }
            }
        }
        (tracker.prefix().cloned(), tracker.settled())
    };
    shard.note_in_flight();
    (prefix, settled)
}

/// Gives a shard back; one that hangs must not keep the processor alive. Whether it went well.
pub(crate) async fn release(acker: Box<dyn Acker>, limit: Duration) -> bool {
    matches!(tokio::time::timeout(limit, acker.release()).await, Ok(Ok(())))
}

/// A commit whose reply is late counts as not done.
fn late() -> CommitError {
    CommitError::transient("no reply in time")
}

fn settle(mut acker: Box<dyn Acker>, call: Call, limit: Duration) -> Calling {
    Box::pin(async move {
        let settled = match &call {
            Call::Through(position) => Settled::Through(position),
            Call::Each(acks) => Settled::Each(acks),
            Call::Extend => return (acker, call, Ok(())),
        };
        let result = tokio::time::timeout(limit, acker.settle(settled)).await;
        (acker, call, result.unwrap_or_else(|_| Err(late())))
    })
}

fn extend(mut acker: Box<dyn Acker>, held: Vec<Position>, limit: Duration) -> Calling {
    Box::pin(async move {
        let result = match held.is_empty() {
            true => Ok(()),
            false => tokio::time::timeout(limit, acker.extend(&held))
                .await
                .unwrap_or_else(|_| Err(late())),
        };
        (acker, Call::Extend, result)
    })
}

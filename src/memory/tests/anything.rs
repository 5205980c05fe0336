//! Any sequence of reads, acknowledgements, failures and restarts.

use super::*;

/// What a consumer may do next.
#[derive(Clone, Debug)]
enum Step {
    Push,
    Read(usize),
    Settle(usize),
    GiveBack(usize),
    Advance(u64),
    Restart,
    Inject(Inject),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Push),
        Just(Step::Push),
        (1..4usize).prop_map(Step::Read),
        (0..5usize).prop_map(Step::Settle),
        (0..5usize).prop_map(Step::GiveBack),
        (0..2_000u64).prop_map(Step::Advance),
        Just(Step::Restart),
        (1..3usize).prop_map(|n| Step::Inject(Inject::Redeliver(n))),
        Just(Step::Inject(Inject::Duplicate(1))),
        Just(Step::Inject(Inject::CommitErrors(1))),
        Just(Step::Inject(Inject::CommitRepliesLost(1))),
    ]
}

/// Runs steps against a stream, then reads and settles to the end; yields what was ever delivered.
async fn drive(steps: Vec<Step>, each: bool) -> (Stream, std::collections::BTreeSet<u64>) {
    let stream = Stream::new("s", 1);
    let consumer = |stream: &Stream| {
        let consumer = stream.consumer("g");
        if each { consumer.each(SECOND) } else { consumer }
    };
    let mut source = consumer(&stream);
    let (mut reader, mut acker) = assigned(&mut source).await;
    let (mut open, mut seen) = (Vec::<Position>::new(), std::collections::BTreeSet::new());
    for step in steps {
        match step {
            Step::Push => drop(stream.push("x")),
            Step::Inject(inject) => stream.inject(inject),
            Step::Advance(millis) => tokio::time::advance(Duration::from_millis(millis)).await,
            Step::Restart => {
                source = consumer(&stream);
                (reader, acker) = assigned(&mut source).await;
                open.clear();
            }
            Step::Read(n) => {
                let room = Room { records: n, ..ROOM };
                let read = timeout(Duration::from_millis(1), reader.read(room)).await;
                if let Ok(Ok(Read::Records { records, .. })) = read {
                    seen.extend(records.iter().filter_map(|r| r.position().as_u64()));
                    open.extend(records.iter().map(|r| r.position().clone()));
                    open.sort();
                }
            }
            Step::Settle(n) if !open.is_empty() => {
                let position = open[n % open.len()].clone();
                let acks = [(position.clone(), Ack::Done)];
                let above = stream.committed("g", 0).is_none_or(|c| c <= position);
                let _ = match each {
                    true => acker.settle(Settled::Each(&acks)).await,
                    false if above => acker.settle(Settled::Through(&position)).await,
                    false => Ok(()),
                };
            }
            Step::GiveBack(n) if each && !open.is_empty() => {
                let acks = [(open[n % open.len()].clone(), Ack::Again { after: SECOND })];
                let _ = acker.settle(Settled::Each(&acks)).await;
            }
            Step::Settle(_) | Step::GiveBack(_) => {}
        }
    }
    stream.close();
    if !each {
        source = consumer(&stream);
        (reader, acker) = assigned(&mut source).await;
    }
    while let Read::Records { records, .. } = reader.read(ROOM).await.expect("a read") {
        let positions: Vec<Position> = records.iter().map(|r| r.position().clone()).collect();
        seen.extend(positions.iter().filter_map(Position::as_u64));
        let acks: Vec<_> = positions.iter().map(|p| (p.clone(), Ack::Done)).collect();
        let committed = stream.committed("g", 0);
        let Some(last) = positions.into_iter().max().max(committed) else { continue };
        let settled = if each { Settled::Each(&acks) } else { Settled::Through(&last) };
        while acker.settle(settled).await.is_err() {}
    }
    (stream, seen)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn i3_no_record_is_lost_whatever_happens(
        steps in proptest::collection::vec(step(), 0..60),
        each in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().expect("a runtime");
        let (stream, seen) = runtime.block_on(drive(steps, each));
        prop_assert_eq!(seen.len(), stream.len());
        prop_assert!(stream.is_settled("g"));
        prop_assert_eq!(stream.unacked("g"), 0);
    }
}

//! What public types can be sent, shared, moved and made into objects.

use std::pin::Pin;

use streambreaker::envelope::{CloudEvents, Envelope, JsonEnvelope};
use streambreaker::fault::*;
use streambreaker::flow::*;
use streambreaker::memory::{self, Collect};
use streambreaker::resource::*;
use streambreaker::sink::{Limits, OutcomeLog, Outcomes};
use streambreaker::source::*;
use streambreaker::*;

fn send<T: Send>() {}
fn sync<T: Sync>() {}
fn unpin<T: Unpin>() {}

/// Everything of each.
macro_rules! free {
    ($($type:ty),* $(,)?) => {$(
        send::<$type>();
        sync::<$type>();
        unpin::<$type>();
    )*};
}

#[test]
fn values_can_be_sent_shared_and_moved() {
    free!(
        // what flows
        Record,
        Headers,
        Position,
        ShardId,
        Timestamp,
        PartPath,
        Delivery,
        Received,
        Event<u32>,
        Group<u32, Event<u32>>,
        Lineage,
        Uow<u32>,
        NewEvent,
        Publication,
        // errors
        StepError,
        BoxError,
        Class,
        ConfigError,
        BuildError,
        RunError,
        DecodeError,
        SourceError,
        CommitError,
        FaultParseError,
        memory::PushError,
        // a processor and what it says
        Processor,
        Process,
        Processed,
        Report,
        PipelineReport,
        FaultKind,
        Gap,
        Fate,
        Skip,

        Trigger,
        // settings
        Window,
        OnReplay,
        Resource,
        Retry,
        RetryQuota,
        Rate,
        Breaker,
        OnOpen,
        OnExhausted,
        ResourceStatus,
        JsonEnvelope,
        CloudEvents,
        FloodGuard,
        // faults
        FaultEvent,
        FaultRecord,
        FaultError,
        Attempt,
        // transports
        Caps,
        Behind,
        Room,
        Read,
        Limits,
        OutcomeLog,
        Outcomes<'static>,
        memory::Stream,
        memory::Consumer,
        Collect<u32>,
    );
}

/// What is built on one thread and used by one at a time.
#[test]
fn builders_and_flows_can_be_sent() {
    send::<ProcessorBuilder>();
    send::<ResourceBuilder>();
    send::<Flow<Input>>();
    send::<BoxedFlow<u32>>();
    send::<Units<u32>>();
    send::<StageCx>();
    sync::<StageCx>();
    unpin::<Input>();
    unpin::<Units<u32>>();
    unpin::<BoxedFlow<u32>>();
}

/// A chain is as sendable as what it is made of.
#[test]
fn chains_of_every_combinator_can_be_sent() {
    fn is_send<S: Send>(flow: Flow<S>) -> Flow<S> {
        flow
    }
    fn chain(flow: Flow<Input>, db: &Resource) -> Flow<impl Stage + Send + use<>> {
        let window = Window::items(2);
        let flow = flow
            .filter(|_| true)
            .of_type("*")
            .json::<u32>()
            .validate(|_| Ok::<_, BoxError>(()))
            .inspect(|_| ())
            .map(|n| *n)
            .filter_map(Some)
            .try_map(Ok)
            .ensure(|_| Ok::<_, BoxError>(()))
            .compact(|n| *n, window)
            .compact_by(|n| *n, |n| *n, window)
            .split(|n| [n])
            .rate_limit(Rate::per_second(9))
            .call(db, async |n| Ok(*n))
            .parallel(2, db, async |n| Ok(*n))
            .parallel_by_key(2, |n| *n, db, async |n| Ok(*n))
            .with(2, db, async |n| Ok(*n))
            .map(|(n, _)| n)
            .bulk_write(db, Collect::<u32>::new())
            .ordered_by(|n| *n)
            .through(|units| units)
            .group_by_some(|n| Some(*n), window)
            .group_by(|group| group.key, window)
            .named("last");
        is_send(flow)
    }
    let db = Resource::builder("db").timeout(std::time::Duration::from_secs(1)).build().unwrap();
    let processor = Processor::builder("p")
        .faults(memory::faults())
        .pipeline("all", move |flow| chain(flow, &db))
        .build();
    assert!(processor.is_ok());
}

#[test]
fn futures_of_a_processor_can_be_spawned() {
    fn spawned<F: Future + Send + 'static>(_: F) {}
    let processor =
        || Processor::builder("p").faults(memory::faults()).pipeline("all", |f| f).build();
    let (first, second) = (processor().unwrap(), processor().unwrap());
    spawned(async move { first.run(Shutdown::never()).await });
    spawned(async move { second.run_from(memory::stream(["1"]), Shutdown::never()).await });
    spawned(processor().unwrap().process([]).into_future());
    send::<Shutdown>();
    send::<file::Source>();
}

#[test]
fn traits_that_are_extended_from_outside_are_object_safe() {
    type ReaderOf = Box<dyn Reader>;
    type AckerOf = Box<dyn Acker>;
    type Sources = Box<dyn Source<Reader = ReaderOf, Acker = AckerOf>>;
    fn is_source<S: Source>() {}
    is_source::<Sources>();
    send::<Sources>();
    send::<ReaderOf>();
    send::<AckerOf>();
    free!(Box<dyn Sink<u32>>, Box<dyn Envelope>, Box<dyn Scrubber>, Box<dyn Oversize>);
    free!(Box<dyn clock::Clock>, Box<dyn Codec<u32>>);
    type Stages = Pin<Box<dyn Stage<Out = u32> + Send>>;
    fn is_stage<S: Stage<Out = u32> + Send + Unpin>() {}
    is_stage::<Stages>();
    fn is_sink<T, S: Sink<T>>() {}
    is_sink::<u32, Box<dyn Sink<u32>>>();
    is_sink::<u32, std::sync::Arc<dyn Sink<u32>>>();
    is_sink::<u32, &dyn Sink<u32>>();
}

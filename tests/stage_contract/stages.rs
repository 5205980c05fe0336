//! All stages of ours, each with a handler or sink that does as it is told.

use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use streambreaker::flow::{BoxedFlow, NewEvent};
use streambreaker::memory::Collect;
use streambreaker::prelude::*;
use streambreaker::resource::Rate;
use streambreaker::sink::{Limits, Outcomes};
use streambreaker::{BoxError, Received, Sink};
use streambreaker_testkit::stage_suite;
use streambreaker_testkit::suite::Harness;
use streambreaker_testkit::suite::stage::{Above, Shape, StageHarness, Work};

const TIMEOUT: Duration = Duration::from_millis(50);

/// Those that hold units back hold two of a key, for 5 ms.
const WINDOW: Window = Window::items(2).linger(Duration::from_millis(5));
/// As good as all, for as good as ever.
const LARGE: Window = Window::items(10_000).linger(Duration::from_secs(9));

fn db() -> Resource {
    let builder = Resource::builder("db").timeout(TIMEOUT).retry(Retry::none());
    builder.on_exhausted(OnExhausted::Fault).seed(1).build().unwrap()
}

#[derive(Clone)]
struct Ours {
    shape: Shape,
    stage: fn(Flow<Above>, &Work) -> BoxedFlow<()>,
    swallows: Option<fn(Flow<Above>) -> BoxedFlow<()>>,
}

impl Harness for Ours {}

impl StageHarness for Ours {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn stage(&self, flow: Flow<Above>, work: &Work) -> BoxedFlow<()> {
        (self.stage)(flow, work)
    }

    fn swallows(&self, flow: Flow<Above>) -> BoxedFlow<()> {
        match self.swallows {
            Some(swallows) => swallows(flow),
            None => {
                panic!("each stage of ours says how it hands on nothing, or that it never does")
            }
        }
    }
}

/// Writes two items a request, and does its work for each request.
struct Writes(Work);

#[async_trait]
impl<T: Sync> Sink<T> for Writes {
    fn limits(&self) -> Limits {
        Limits::items(2)
    }

    fn size(&self, _: &T) -> usize {
        1
    }

    async fn write(&self, _: &[T], outcomes: &mut Outcomes<'_>) -> Result<(), StepError> {
        self.0.run().await;
        outcomes.all_done();
        Ok(())
    }
}

macro_rules! ours {
    ($($name:ident: $shape:expr, |$flow:ident, $work:ident| $stage:expr, |$all:ident| $swallows:expr;)*) => {$(
        stage_suite!($name: Ours {
            shape: $shape,
            stage: |$flow, $work| {
                let $work = $work.clone();
                let _ = &$work;
                $stage.map(|_| ()).boxed()
            },
            swallows: Some(|$all| $swallows.map(|_| ()).boxed()),
        });
    )*};
}

ours! {
    filter: Shape::inline(), |flow, _work| flow.filter(|_| true), |flow| flow.filter(|_| false);
    filter_map: Shape::inline(), |flow, _work| flow.filter_map(Some), |flow| flow.filter_map(|_| None::<()>);
    map: Shape::inline(), |flow, _work| flow.map(|received| received), |flow| flow.map(|received| received);
    try_map: Shape::inline(), |flow, _work| flow.try_map(Ok), |flow| flow.try_map(|_| Err::<(), _>("no").fault());
    inspect: Shape::inline(), |flow, _work| flow.inspect(|_| ()), |flow| flow.inspect(|_| ());
    not_in_replay: Shape::inline(), |flow, _work| flow.not_in_replay(), |flow| flow.not_in_replay();
    of_type: Shape::inline(), |flow, _work| flow.of_type(|_: &str| true), |flow| flow.of_type("none");
    json: Shape::inline(), |flow, _work| flow.json::<serde_json::Value>(), |flow| flow.json::<u32>();
    decode: Shape::inline(),
        |flow, _work| flow.decode(|r: &Received| Ok::<_, BoxError>(r.size())),
        |flow| flow.decode(|_: &Received| Err::<(), BoxError>("no".into()));
    validate: Shape::inline(),
        |flow, _work| flow.json::<serde_json::Value>().validate(|_| Ok::<_, BoxError>(())),
        |flow| flow.json::<serde_json::Value>().validate(|_| Err("no"));
    ensure: Shape::inline(), |flow, _work| flow.ensure(|_| Ok::<_, BoxError>(())), |flow| flow.ensure(|_| Err("no"));
    split: Shape::inline(), |flow, _work| flow.split(|r| [r.size(), 1]), |flow| flow.split(|_| None::<()>);
    through: Shape::inline(),
        |flow, _work| flow.through(|units| units.map(|unit| unit)),
        |flow| flow.through(|units| units.map(|unit| unit));
    boxed: Shape::inline(), |flow, _work| flow.boxed(), |flow| flow.boxed();
    rate_limit: Shape::inline(),
        |flow, _work| flow.rate_limit(Rate::per_second(200).burst(1)),
        |flow| flow.rate_limit(Rate::per_second(200).burst(1));
    group_by: Shape::inline(),
        |flow, _work| flow.group_by(|r| r.payload().clone(), WINDOW),
        |flow| flow.group_by(|_| (), LARGE);
    group_by_some: Shape::inline(),
        |flow, _work| flow.group_by_some(|r| Some(r.size()), WINDOW),
        |flow| flow.group_by_some(|_| None::<u32>, WINDOW);
    compact: Shape::inline(), |flow, _work| flow.compact(|r| r.size(), WINDOW), |flow| flow.compact(|_| (), LARGE);
    compact_by: Shape::inline(),
        |flow, _work| flow.compact_by(|r| r.size(), |r| r.size(), WINDOW),
        |flow| flow.compact_by(|_| (), |r| r.size(), LARGE);
    call: Shape::calls(1, TIMEOUT),
        |flow, work| flow.call(&db(), async move |_| {
            work.run().await;
            Ok(())
        }),
        |flow| flow.call(&db(), async |_| Err::<(), _>("no").fault());
    parallel: Shape::calls(3, TIMEOUT),
        |flow, work| flow.parallel(3, &db(), async move |_| {
            work.run().await;
            Ok(())
        }),
        |flow| flow.parallel(3, &db(), async |_| Err::<(), _>("no").fault());
    wide: Shape::calls(70, TIMEOUT),
        |flow, work| flow.parallel(70, &db(), async move |_| {
            work.run().await;
            Ok(())
        }),
        |flow| flow.parallel(70, &db(), async |_| Err::<(), _>("no").fault());
    with: Shape::calls(3, TIMEOUT),
        |flow, work| flow.with(3, &db(), async move |_| {
            work.run().await;
            Ok(())
        }),
        |flow| flow.with(3, &db(), async |_| Err::<(), _>("no").fault());
    parallel_by_key: Shape::calls(3, TIMEOUT).takes(15).keyed(),
        |flow, work| flow.parallel_by_key(3, |r| r.payload().clone(), &db(), async move |_| {
            work.run().await;
            Ok(())
        }),
        |flow| flow.parallel_by_key(3, |_| 1, &db(), async |_| Err::<(), _>("no").fault());
    wide_by_key: Shape::calls(70, TIMEOUT).takes(350).keyed(),
        |flow, work| flow.parallel_by_key(70, |r| r.payload().clone(), &db(), async move |_| {
            work.run().await;
            Ok(())
        }),
        |flow| flow.parallel_by_key(70, |_| 1, &db(), async |_| Err::<(), _>("no").fault());
    // two requests of two, and two items that wait
    bulk_write: Shape::calls(2, TIMEOUT).takes(6),
        |flow, work| flow.bulk_write(&db(), Writes(work)).in_flight(2).window(WINDOW),
        |flow| flow.bulk_write(&db(), Collect::sized(|_| 2).with_limits(Limits::items(9).with_bytes(1)));
    bulk_write_ordered: Shape::calls(2, TIMEOUT).takes(12).keyed(),
        |flow, work| flow
            .bulk_write(&db(), Writes(work))
            .in_flight(2)
            .window(WINDOW)
            .ordered_by(|r: &Received| r.payload().clone()),
        |flow| flow.bulk_write(&db(), Collect::sized(|_| 2).with_limits(Limits::items(9).with_bytes(1)));
    publish: Shape::calls(2, TIMEOUT).takes(6),
        |flow, work| flow
            .map(|_| NewEvent::json("t", &1).unwrap())
            .publish(&db(), Writes(work))
            .in_flight(2)
            .window(WINDOW),
        |flow| flow
            .map(|_| NewEvent::json("t", &1).unwrap())
            .publish(&db(), Collect::sized(|_| 2).with_limits(Limits::items(9).with_bytes(1)));
}

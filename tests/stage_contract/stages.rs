//! All stages of ours, each with a handler or sink that does as it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use streambreaker::flow::NewEvent;
use streambreaker::prelude::*;
use streambreaker::sink::{Limits, Outcomes};
use streambreaker::{BoxError, Received, Sink};

use super::rig::Build;

/// What handlers and sinks do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Does {
    Ready,
    Sleep(Duration),
    Hang,
}

impl Does {
    async fn run(self, starts: &AtomicUsize) {
        starts.fetch_add(1, Ordering::Relaxed);
        match self {
            Does::Ready => {}
            Does::Sleep(span) => tokio::time::sleep(span).await,
            Does::Hang => std::future::pending().await,
        }
    }
}

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) build: Build,
    /// Calls that were begun.
    pub(crate) starts: Arc<AtomicUsize>,
    /// Whether it calls something.
    pub(crate) calls: bool,
    /// How many it works on at once, and how many units it takes then at most.
    pub(crate) takes: usize,
}

struct Writes(Does, Arc<AtomicUsize>);

#[async_trait]
impl<T: Sync> Sink<T> for Writes {
    fn limits(&self) -> Limits {
        Limits::items(2)
    }

    fn size(&self, _: &T) -> usize {
        1
    }

    async fn write(&self, _: &[T], outcomes: &mut Outcomes<'_>) -> Result<(), StepError> {
        self.0.run(&self.1).await;
        outcomes.all_done();
        Ok(())
    }
}

pub(crate) const TIMEOUT: Duration = Duration::from_millis(50);

fn resource() -> Resource {
    let builder = Resource::builder("db").timeout(TIMEOUT).retry(Retry::none());
    builder.on_exhausted(OnExhausted::Fault).seed(1).build().unwrap()
}

/// Every stage. Those that hold units back hold two of a key, for 5 ms.
pub(crate) fn all(does: Does) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    macro_rules! inline {
        ($name:literal, $flow:ident => $build:expr) => {
            inline!($name, usize::MAX, $flow => $build)
        };
        ($name:literal, $takes:expr, $flow:ident => $build:expr) => {
            cases.push(Case {
                name: $name,
                build: Arc::new(|$flow| $build.map(|_| ()).boxed()),
                starts: Arc::default(),
                calls: false,
                takes: $takes,
            })
        };
    }
    let window = Window::items(2).linger(Duration::from_millis(5));
    inline!("filter", flow => flow.filter(|_| true));
    inline!("filter_map", flow => flow.filter_map(Some));
    inline!("map", flow => flow.map(|received| received));
    inline!("try_map", flow => flow.try_map(Ok));
    inline!("inspect", flow => flow.inspect(|_| ()));
    inline!("of_type", flow => flow.of_type(|_: &str| true));
    inline!("json", flow => flow.json::<serde_json::Value>());
    inline!("decode", flow => flow.decode(|r: &Received| Ok::<_, BoxError>(r.size())));
    inline!("validate", flow => flow.json::<serde_json::Value>().validate(|_| Ok::<_, BoxError>(())));
    inline!("ensure", flow => flow.ensure(|_| Ok::<_, BoxError>(())));
    inline!("split", flow => flow.split(|r| [r.size(), 1]));
    inline!("through", flow => flow.through(|units| units.map(|unit| unit)));
    inline!("boxed", flow => flow.boxed());
    cases.push(Case {
        name: "rate_limit",
        build: Arc::new(|flow| {
            flow.rate_limit(streambreaker::resource::Rate::per_second(200).burst(1))
                .map(|_| ())
                .boxed()
        }),
        starts: Arc::default(),
        calls: false,
        takes: usize::MAX,
    });
    macro_rules! gather {
        ($name:literal, $flow:ident => $build:expr) => {
            cases.push(Case {
                name: $name,
                build: Arc::new(move |$flow| $build.map(|_| ()).boxed()),
                starts: Arc::default(),
                calls: false,
                takes: usize::MAX,
            })
        };
    }
    gather!("group_by", flow => flow.group_by(|r| r.payload().clone(), window));
    gather!("group_by_some", flow => flow.group_by_some(|r| Some(r.size()), window));
    gather!("compact", flow => flow.compact(|r| r.size(), window));
    gather!("compact_by", flow => flow.compact_by(|r| r.size(), |r| r.size(), window));
    macro_rules! calls {
        ($name:literal, $takes:expr, |$flow:ident, $res:ident, $starts:ident| $build:expr) => {{
            let starts: Arc<AtomicUsize> = Arc::default();
            let (counted, $res) = (starts.clone(), resource());
            cases.push(Case {
                name: $name,
                build: Arc::new(move |$flow| {
                    let $starts = counted.clone();
                    $build.map(|_| ()).boxed()
                }),
                starts,
                calls: true,
                takes: $takes,
            });
        }};
    }
    calls!("call", 1, |flow, res, starts| flow.call(&res, async move |_| {
        does.run(&starts).await;
        Ok(())
    }));
    calls!("parallel", 3, |flow, res, starts| flow.parallel(3, &res, async move |_| {
        does.run(&starts).await;
        Ok(())
    }));
    calls!("with", 3, |flow, res, starts| flow.with(3, &res, async move |_| {
        does.run(&starts).await;
        Ok(())
    }));
    calls!("parallel_by_key", 15, |flow, res, starts| {
        flow.parallel_by_key(
            3,
            |r: &Received| r.payload().clone(),
            &res,
            async move |_| {
                does.run(&starts).await;
                Ok(())
            },
        )
    });
    // two requests of two, and two items that wait
    calls!("bulk_write", 6, |flow, res, starts| flow
        .bulk_write(&res, Writes(does, starts))
        .in_flight(2)
        .window(window));
    calls!("bulk_write ordered", 12, |flow, res, starts| flow
        .bulk_write(&res, Writes(does, starts))
        .in_flight(2)
        .window(window)
        .ordered_by(|r| r.payload().clone()));
    calls!("publish", 6, |flow, res, starts| flow
        .map(|_| NewEvent::json("t", &1).unwrap())
        .publish(&res, Writes(does, starts))
        .in_flight(2)
        .window(window));
    cases
}

/// Payloads that all stages take: eight keys, eight sizes.
pub(crate) fn payloads(n: usize) -> Vec<String> {
    (0..n).map(|n| format!(r#"{{"type":"t","n":"{}"}}"#, "x".repeat(n % 8))).collect()
}

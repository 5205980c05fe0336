//! Nothing is told to metrics or logs an event: not even when somebody listens to all of it. A fault is counted, which its
//! own write outweighs by far.
//!
//! Counted, and not measured: how often a recorder and a subscriber are called in a run of N events and in one of 2N.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString,
    Unit,
};
use streambreaker::memory::{self, Stream};
use streambreaker::prelude::*;

mod heard;

/// Counts every call: of the recorder, and of what it hands out.
#[derive(Clone, Default)]
struct Calls(Arc<Count>);

#[derive(Default)]
struct Count(AtomicU64);

impl Count {
    fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl CounterFn for Count {
    fn increment(&self, _: u64) {
        self.up();
    }

    fn absolute(&self, _: u64) {
        self.up();
    }
}

impl GaugeFn for Count {
    fn increment(&self, _: f64) {
        self.up();
    }

    fn decrement(&self, _: f64) {
        self.up();
    }

    fn set(&self, _: f64) {
        self.up();
    }
}

impl Recorder for Calls {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        self.0.up();
        Counter::from_arc(self.0.clone())
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        self.0.up();
        Gauge::from_arc(self.0.clone())
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        panic!("there are no histograms in docs/metrics.md")
    }
}

/// How often metrics and logs were told something in a run of so many events; a tenth of them is faulted, each takes a
/// retry now and then.
fn told(events: u64) -> (u64, u64, u64) {
    let (calls, heard) = (Calls::default(), heard::Heard::default());
    let stream = Stream::new("numbers", 1);
    for n in 0..events {
        stream.push(n.to_string());
    }
    stream.close();
    let db = Resource::builder("db")
        .timeout(Duration::from_secs(1))
        .rate(Rate::per_second(1_000_000))
        .concurrency(50)
        .breaker(Breaker::failure_ratio(0.9).on_open(OnOpen::Pause))
        .seed(1)
        .build()
        .unwrap();
    let failed = Arc::new(AtomicU64::new(0));
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .in_flight(1_000_000, 1 << 30)
        .in_flight_total(1_000_000, 1 << 30)
        .commit_every(Duration::from_secs(1), u64::MAX)
        .pipeline("all", move |flow| {
            let failed = failed.clone();
            flow.json::<u64>()
                .filter(|n| **n % 3 != 0)
                .validate(|n: &u64| match n % 10 {
                    1 => Err("poison"),
                    _ => Ok(()),
                })
                .parallel(16, &db, async move |_: &Event<u64>| {
                    match failed.fetch_add(1, Ordering::Relaxed) % 500 {
                        0 => Err("not now").transient(),
                        _ => Ok(()),
                    }
                })
        })
        .build()
        .unwrap();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let _listening = heard.listen();
    let report = metrics::with_local_recorder(&calls, || {
        runtime.unwrap().block_on(processor.run(Shutdown::never())).unwrap()
    });
    assert_eq!(report.pipelines["all"].read, events);
    assert!(report.pipelines["all"].faulted > events / 20, "{report}");
    let calls = calls.0.0.load(Ordering::Relaxed);
    (calls, heard.lines().len() as u64, report.pipelines["all"].faulted)
}

#[test]
fn nothing_is_told_an_event_even_when_somebody_listens() {
    const EVENTS: u64 = 20_000;
    let (metrics, lines, faults) = told(EVENTS);
    let (twice_metrics, twice_lines, twice_faults) = told(2 * EVENTS);
    assert!(metrics > 20 && lines > 0, "somebody listens: {metrics} calls, {lines} lines");
    // batches, commits and retries' turns may tell something; an event may not: one call in a hundred is far from it
    let of_faults = 2 * (twice_faults - faults); // the counter is found, and goes up
    let more = twice_metrics.saturating_sub(metrics).saturating_sub(of_faults);
    assert!(more < EVENTS / 100, "{more} calls of metrics more for {EVENTS} events more");
    let more = twice_lines.saturating_sub(lines);
    assert!(more < EVENTS / 100, "{more} lines more for {EVENTS} events more");
}

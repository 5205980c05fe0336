//! `bulk_write` and `publish`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use proptest::prelude::*;
use streambreaker::flow::{NewEvent, OnReplay, Publication};
use streambreaker::memory::{Collect, Response, Verdict};
use streambreaker::resource::{Breaker, OnExhausted, OnOpen};
use streambreaker::sink::{Limits, Outcomes};
use streambreaker::{Delivery, Sink};
use tokio::time::Instant;
use uuid::Uuid;

use super::*;

fn patient(name: &str) -> Resource {
    Resource::builder(name)
        .timeout(Duration::from_millis(100))
        .retry(Retry::exponential().max_attempts(50).base(Duration::from_millis(1)))
        .retry_quota(RetryQuota::unlimited())
        .seed(1)
        .build()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn k5_bulk_write_keeps_the_limits_and_faults_what_is_too_large_alone() {
    let sink = Collect::sized(|n: &usize| *n).with_limits(Limits::items(4).with_bytes(20));
    let (index, target) = (resource("index"), sink.clone());
    let ran = run([5, 5, 5, 5, 5, 21, 20, 1, 0, 0, 0, 0, 0], move |flow| {
        flow.json::<usize>().map(|n| *n).bulk_write(&index, target.clone())
    })
    .await;
    assert_eq!((ran.fates(), ran.names()), ((12, 0, 1), vec!["ItemTooLarge"]));
    for request in sink.requests() {
        assert!((1..=4).contains(&request.len()) && request.iter().sum::<usize>() <= 20);
    }
}

#[tokio::test(start_paused = true)]
async fn k5_the_sizes_of_a_request_add_up_to_its_limit_and_no_further() {
    let sink = Collect::sized(|_: &u32| 1).with_limits(Limits::items(100).with_bytes(5));
    let (index, target) = (resource("index"), sink.clone());
    let ran =
        run(0..30, move |flow| flow.json::<u32>().map(|n| *n).bulk_write(&index, target.clone()))
            .await;
    assert_eq!(ran.fates(), (30, 0, 0));
    assert!(sink.requests().iter().all(|request| request.len() == 5), "{:?}", sink.requests());
}

#[tokio::test(start_paused = true)]
async fn bulk_write_refuses_a_sink_that_takes_nothing() {
    let mut no_items = Limits::items(1);
    no_items.items = 0;
    for limits in [no_items, Limits::items(1).with_bytes(0)] {
        let index = resource("index");
        let error = refused(move |flow| {
            let sink = Collect::<u32>::new().with_limits(limits);
            flow.json::<u32>().map(|n| *n).bulk_write(&index, sink)
        });
        assert!(error.contains("limits of the sink"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn o7_while_requests_hang_a_bulk_write_takes_no_more_than_one_request_more() {
    // two requests of three, and what may wait: a request, or four where keys may keep each other back
    let three = [Limits::items(3), Limits::items(100).with_bytes(30)];
    for (limits, ordered, most) in
        [(three[0], false, 9), (three[1], false, 9), (three[0], true, 2 * 3 + 12)]
    {
        let (taken, index) = (Arc::new(AtomicUsize::new(0)), resource("index"));
        let count = taken.clone();
        let stream = memory::stream((0..100).map(|n| n.to_string()));
        let processor = Processor::builder("p")
            .source(stream)
            .faults(memory::faults())
            .pipeline("all", move |flow| {
                let sink = Collect::sized(|_: &u32| 10).with_limits(limits);
                sink.respond(1_000, Response::Hang);
                let count = count.clone();
                let flow = flow
                    .json::<u32>()
                    .map(move |n| {
                        count.fetch_add(1, Ordering::Relaxed);
                        *n
                    })
                    .bulk_write(&index, sink)
                    .in_flight(2);
                if ordered { flow.ordered_by(|n| *n) } else { flow }
            })
            .build()
            .unwrap();
        let run = processor.run(Shutdown::never());
        let cut = tokio::time::timeout(Duration::from_millis(900), run).await;
        assert!(cut.is_err());
        assert_eq!(taken.load(Ordering::Relaxed), most, "{limits:?}, ordered: {ordered}");
    }
}

#[tokio::test(start_paused = true)]
async fn o5_at_the_end_of_the_input_a_request_does_not_linger() {
    let (index, sink, began) = (resource("index"), Collect::<u32>::new(), Instant::now());
    let target = sink.clone();
    let ran = run(0..5, move |flow| {
        let window = Window::items(3).linger(Duration::from_secs(3600));
        flow.json::<u32>().map(|n| *n).bulk_write(&index, target.clone()).window(window)
    })
    .await;
    assert_eq!((ran.fates(), sink.requests()), ((5, 0, 0), vec![vec![0, 1, 2], vec![3, 4]]));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

/// A resource whose breaker opens after four calls of which half failed.
fn with_breaker() -> Resource {
    Resource::builder("index")
        .timeout(Duration::from_secs(1))
        .retry(Retry::none())
        .breaker(
            Breaker::failure_ratio(0.5)
                .min_calls(4)
                .cool_down(Duration::from_secs(3600))
                .on_open(OnOpen::Fault),
        )
        .on_exhausted(OnExhausted::Fault)
        .seed(1)
        .build()
        .unwrap()
}

async fn one_by_one(sink: Collect<u32>) -> (Ran, Resource) {
    let index = with_breaker();
    let target = index.clone();
    let ran = run(0..10, move |flow| {
        let window = Window::items(1);
        flow.json::<u32>().map(|n| *n).bulk_write(&target, sink.clone()).window(window).in_flight(1)
    })
    .await;
    (ran, index)
}

#[tokio::test(start_paused = true)]
async fn b1_f10_bulk_requests_that_fail_open_the_breaker_and_an_open_one_faults_each_item() {
    let sink = Collect::<u32>::new();
    sink.respond(1_000, Response::Fail(Class::Transient));
    let (ran, _) = one_by_one(sink.clone()).await;
    assert_eq!(ran.fates(), (0, 0, 10));
    let open = ran.classes().iter().filter(|class| **class == Class::CircuitOpen).count();
    assert_eq!(open, 6, "{:?}", ran.classes());
}

#[tokio::test(start_paused = true)]
async fn b4_items_that_are_rejected_or_throttled_open_no_breaker() {
    for (verdict, class) in [
        (Verdict::Reject, Class::Fault),
        (Verdict::Throttled(Duration::from_millis(1)), Class::Throttled),
    ] {
        let sink = Collect::<u32>::new();
        sink.decide(move |_, _| verdict);
        let (ran, index) = one_by_one(sink).await;
        assert_eq!((ran.fates(), ran.classes()), ((0, 0, 10), vec![class; 10]));
        let status = index.status();
        let breaker = status.breaker.unwrap();
        assert_eq!(breaker.opened, 0, "{breaker:?}");
        // who rejects an item has answered well, who throttles it has not
        let well = if class == Class::Fault { 10 } else { 0 };
        assert_eq!((status.successes, status.failures.throttled), (well, 10 - well));
        assert_eq!(status.attempts, 10);
    }
}

/// Refuses one item, in a way that nobody handles, the first time.
#[derive(Default)]
struct FatalOnce(Arc<AtomicUsize>);

#[async_trait]
impl Sink<u32> for FatalOnce {
    fn limits(&self) -> Limits {
        Limits::items(4)
    }

    fn size(&self, _: &u32) -> usize {
        1
    }

    async fn write(&self, items: &[u32], outcomes: &mut Outcomes<'_>) -> Result<(), StepError> {
        for (index, item) in items.iter().enumerate() {
            if *item == 2 && self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                outcomes.failed(index, StepError::new(Class::Fatal, "nobody knows what this is"));
            } else {
                outcomes.done(index);
            }
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn f8_an_item_that_fails_unhandled_is_no_fault_and_is_written_again() {
    let (index, tried) = (resource("index"), Arc::new(AtomicUsize::new(0)));
    let count = tried.clone();
    let ran = run(0..8, move |flow| {
        flow.json::<u32>().map(|n| *n).bulk_write(&index, FatalOnce(count.clone()))
    })
    .await;
    assert_eq!((ran.fates(), ran.faults.len()), ((8, 0, 0), 0));
    assert_eq!(tried.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn bulk_write_stands_sizes_that_do_not_add_up() {
    let sink = Collect::sized(|_: &u32| usize::MAX).with_limits(Limits::items(3));
    let (index, target) = (resource("index"), sink.clone());
    let ran =
        run(0..9, move |flow| flow.json::<u32>().map(|n| *n).bulk_write(&index, target.clone()))
            .await;
    assert_eq!((ran.fates(), sink.len()), ((9, 0, 0), 9));
}

#[tokio::test(start_paused = true)]
async fn bulk_write_lingers_and_its_window_makes_requests_smaller() {
    let stream = memory::Stream::new("s", 1);
    let sink = Collect::<u32>::new();
    let (index, target) = (resource("index"), sink.clone());
    let processor = Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            let window = Window::items(3).linger(Duration::from_millis(500));
            flow.json::<u32>().map(|n| *n).bulk_write(&index, target.clone()).window(window)
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(Shutdown::never()).await });
    let begin = Instant::now();
    for n in 0..4 {
        stream.push(n.to_string());
    }
    sink.filled(3).await;
    assert!(begin.elapsed() < Duration::from_millis(100));
    sink.filled(4).await;
    assert!((500..=505).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
    assert_eq!(sink.requests(), [vec![0, 1, 2], vec![3]]);
    stream.close();
    run.await.unwrap().unwrap();
}

/// Notes, if it is told to, what makes no sense: an outcome of an item that is not in the request.
struct Astray(bool);

#[async_trait]
impl Sink<u32> for Astray {
    fn limits(&self) -> Limits {
        Limits::items(2)
    }

    fn size(&self, _: &u32) -> usize {
        1
    }

    async fn write(&self, items: &[u32], outcomes: &mut Outcomes<'_>) -> Result<(), StepError> {
        outcomes.all_done();
        if self.0 {
            outcomes.done(items.len());
        }
        Ok(())
    }
}

/// Counts what is said of sinks.
struct Heard(Arc<AtomicUsize>);

impl tracing::Subscriber for Heard {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "streambreaker::sink"
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn k1_a_sink_that_notes_what_makes_no_sense_is_spoken_of_once_and_others_are_not() {
    for (astray, lines) in [(false, 0), (true, 1)] {
        let heard = Arc::new(AtomicUsize::new(0));
        let _listening = tracing::subscriber::set_default(Heard(heard.clone()));
        let index = resource("index");
        let ran = run(0..10, move |flow| {
            flow.json::<u32>().map(|n| *n).bulk_write(&index, Astray(astray))
        })
        .await;
        assert_eq!((ran.fates(), heard.load(Ordering::Relaxed)), ((10, 0, 0), lines));
    }
}

/// Counts the requests in flight.
struct Slow {
    running: Arc<AtomicUsize>,
    peak: Arc<AtomicUsize>,
}

#[async_trait]
impl Sink<u32> for Slow {
    fn limits(&self) -> Limits {
        Limits::items(2)
    }

    fn size(&self, _: &u32) -> usize {
        1
    }

    async fn write(&self, _: &[u32], outcomes: &mut Outcomes<'_>) -> Result<(), StepError> {
        self.peak.fetch_max(self.running.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(10)).await;
        self.running.fetch_sub(1, Ordering::Relaxed);
        outcomes.all_done();
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn bulk_write_has_four_requests_in_flight_or_as_many_as_it_is_told() {
    for (told, want) in [(None, 4), (Some(1), 1), (Some(9), 9)] {
        let peak = Arc::new(AtomicUsize::new(0));
        let (index, most) = (resource("index"), peak.clone());
        let ran = run(0..100, move |flow| {
            let sink = Slow { running: Arc::default(), peak: most.clone() };
            let flow = flow.json::<u32>().map(|n| *n).bulk_write(&index, sink);
            match told {
                Some(requests) => flow.in_flight(requests),
                None => flow,
            }
        })
        .await;
        assert_eq!((ran.fates(), peak.load(Ordering::Relaxed)), ((100, 0, 0), want));
    }
}

/// A sink whose call panics before it returns a future.
struct Blunt;

impl Sink<u32> for Blunt {
    fn limits(&self) -> Limits {
        Limits::items(2)
    }

    fn size(&self, n: &u32) -> usize {
        assert_ne!(*n, 7, "size");
        1
    }

    fn write<'a, 'b, 'c, 'd, 'e>(
        &'a self,
        items: &'b [u32],
        outcomes: &'c mut Outcomes<'d>,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(), StepError>> + Send + 'e>>
    where
        'a: 'e,
        'b: 'e,
        'c: 'e,
        'd: 'e,
        Self: 'e,
    {
        assert!(!items.contains(&3), "write");
        outcomes.all_done();
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test(start_paused = true)]
async fn f9_a_panic_of_a_sink_faults_its_request_only() {
    let index = resource("index");
    let ran =
        run(0..10, move |flow| flow.json::<u32>().map(|n| *n).bulk_write(&index, Blunt)).await;
    // 2 and 3 go in one request; 7 cannot be measured
    assert_eq!((ran.fates(), ran.classes()), ((7, 0, 3), vec![Class::Panic; 3]));
}

#[tokio::test(start_paused = true)]
async fn f9_a_panic_of_the_envelope_in_publish_is_a_fault_of_its_unit() {
    let (bus, out) = (resource("bus"), Collect::new());
    let target = out.clone();
    let ran = run_under_a_brittle_envelope(move |flow| {
        flow.json::<u32>().try_map(|n| NewEvent::json("seen", &*n)).publish(&bus, target.clone())
    })
    .await;
    assert_eq!((ran.fates(), ran.classes()), ((5, 0, 1), vec![Class::Panic]));
    assert_eq!(ran.payloads(), [["3"]]);
    assert_eq!((out.items().len(), ran.report.restarts), (5, 0), "the others have not begun anew");
}

#[tokio::test(start_paused = true)]
async fn k1_a_timeout_keeps_what_was_noted_and_sends_only_the_rest_again() {
    let sink = Collect::<u32>::new().with_limits(Limits::items(10));
    sink.respond(1, Response::ReplyLost);
    sink.respond(1, Response::Hang);
    sink.respond(1, Response::Silence);
    let (index, target) = (patient("index"), sink.clone());
    let ran =
        run(0..10, move |flow| flow.json::<u32>().map(|n| *n).bulk_write(&index, target.clone()))
            .await;
    assert_eq!(ran.fates(), (10, 0, 0));
    assert_eq!(sink.requests(), vec![(0..10).collect::<Vec<_>>(); 4]);
}

#[tokio::test(start_paused = true)]
async fn k2_k3_the_next_request_holds_what_is_left_in_order_and_attempts_count_by_item() {
    let sink = Collect::<u32>::new().with_limits(Limits::items(10));
    let tries: Mutex<BTreeMap<u32, u32>> = Mutex::default();
    sink.decide(move |_, n| {
        let mut tries = tries.lock().unwrap();
        let tries = tries.entry(*n).or_default();
        *tries += 1;
        // 8 goes through at its second attempt, 3 at its third, 5 never
        let enough = match n {
            8 => 2,
            3 => 3,
            5 => u32::MAX,
            _ => 1,
        };
        if *tries < enough { Verdict::Retry } else { Verdict::Done }
    });
    let index = Resource::builder("index")
        .timeout(Duration::from_millis(100))
        .retry(Retry::exponential().max_attempts(4).base(Duration::from_millis(1)))
        .on_exhausted(OnExhausted::Fault)
        .seed(1)
        .build()
        .unwrap();
    let target = sink.clone();
    let ran =
        run(0..10, move |flow| flow.json::<u32>().map(|n| *n).bulk_write(&index, target.clone()))
            .await;
    let requests = [(0..10).collect(), vec![3, 5, 8], vec![3, 5], vec![5]];
    assert_eq!(sink.requests(), requests);
    assert_eq!((ran.fates(), ran.payloads()), ((9, 0, 1), vec![vec!["5".to_owned()]]));
    assert_eq!(ran.faults[0].attempts.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn k4_ordered_by_keeps_what_is_behind_a_returned_item_where_a_return_is_final() {
    let sink = Collect::<u64>::new();
    sink.decide(|_, n| if *n == 2 { Verdict::Retry } else { Verdict::Done });
    let (index, target) = (once("index"), sink.clone());
    let (outcome, _) = process((0..10).map(|n| record(n, n)), move |flow| {
        flow.json::<u64>().map(|n| *n).bulk_write(&index, target.clone()).ordered_by(|n| n % 2)
    })
    .await;
    let even: Vec<u64> = sink.items().into_iter().filter(|n| n % 2 == 0).collect();
    assert_eq!((even, outcome.settled.len(), outcome.returned.len()), (vec![0], 6, 4));
}

#[derive(Clone, Debug)]
struct Hostile {
    verdicts: Vec<u8>,
    items: usize,
    requests: usize,
    ordered: bool,
    keys: u32,
}

fn hostile() -> impl Strategy<Value = Hostile> {
    (proptest::collection::vec(0u8..8, 1..40), 1usize..8, 1usize..5, any::<bool>(), 1u32..6)
        .prop_map(|(verdicts, items, requests, ordered, keys)| Hostile {
            verdicts,
            items,
            requests,
            ordered,
            keys,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// K1 to K5: a sink that retries, rejects, throttles, says nothing, loses replies and hangs.
    #[test]
    fn k1_to_k5_a_hostile_sink_loses_nothing_and_is_sent_nothing_twice_that_it_confirmed(
        hostile in hostile(),
        n in 1u32..60,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        let sink = Collect::<u32>::new().with_limits(Limits::items(hostile.items));
        let log: Seen<(u32, u8)> = Seen::new();
        let (mut turn, note, verdicts) = (0, log.clone(), hostile.verdicts.clone());
        sink.decide(move |_, item| {
            // the script ends well, or it would go on for ever
            let verdict = if turn < 400 { verdicts[turn % verdicts.len()] } else { 0 };
            turn += 1;
            note.push((*item, verdict));
            match verdict {
                0..=2 => Verdict::Done,
                3 => Verdict::Retry,
                4 => Verdict::Throttled(Duration::from_millis(2)),
                5 => Verdict::Reject,
                6 => Verdict::Silent,
                _ => Verdict::ReplyLost,
            }
        });
        let plan = hostile.clone();
        let (index, target) = (patient("index"), sink.clone());
        let ran = runtime.block_on(run(0..n, move |flow| {
            let Hostile { requests, ordered, keys, .. } = plan;
            let flow = flow.json::<u32>().map(|n| *n)
                .bulk_write(&index, target.clone()).in_flight(requests);
            if ordered { flow.ordered_by(move |n| n % keys) } else { flow }
        }));
        let (done, _, faulted) = ran.fates();
        prop_assert_eq!(done + faulted, u64::from(n));
        let mut ended = BTreeSet::new();
        let mut confirmed: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        let mut open: BTreeMap<u32, u32> = BTreeMap::new();
        for (item, verdict) in log.all() {
            prop_assert!(!ended.contains(&item), "{item} was sent again after it was decided");
            let key = item % hostile.keys;
            if hostile.ordered {
                // the key's next waits for its decision
                let first = *open.entry(key).or_insert(item);
                prop_assert_eq!(first, item);
            }
            if matches!(verdict, 0..=2 | 5) {
                ended.insert(item);
                open.remove(&key);
                confirmed.entry(key).or_default().push(item);
            }
        }
        prop_assert_eq!(ended.len(), n as usize);
        for request in sink.requests() {
            prop_assert!((1..=hostile.items).contains(&request.len()));
            prop_assert!(request.is_sorted());
            if hostile.ordered {
                let keys: BTreeSet<u32> = request.iter().map(|n| n % hostile.keys).collect();
                prop_assert_eq!(keys.len(), request.len());
            }
        }
        if hostile.ordered {
            prop_assert!(confirmed.values().all(|items| items.is_sorted()));
        }
    }
}

fn publishing(
    flow: Flow<Input>,
    stream: &Resource,
    sink: Collect<Publication>,
    on_replay: Option<OnReplay>,
) -> Flow<impl Stage<Out = Publication> + use<>> {
    let flow = flow
        .json::<u32>()
        .group_by(|_| (), Window::items(2))
        .try_map(|group| {
            let sum: u32 = group.items.iter().map(|n| **n).sum();
            Ok(NewEvent::json("summed", &sum)?.with_key("k").with_tag("region", "eu"))
        })
        .publish(stream, sink);
    match on_replay {
        Some(on_replay) => flow.on_replay(on_replay),
        None => flow,
    }
}

async fn published(records: Vec<Record>, on_replay: Option<OnReplay>) -> Vec<Publication> {
    let sink = Collect::new();
    let (stream, target) = (resource("stream"), sink.clone());
    let (outcome, _) =
        process(records, move |flow| publishing(flow, &stream, target.clone(), on_replay)).await;
    assert_eq!(outcome.settled.len(), 4);
    sink.items()
}

fn causes(delivery: Delivery) -> Vec<Record> {
    let mut records: Vec<Record> = (0..4).map(|n| record(n, n)).collect();
    records[0] = records[0].clone().with_header("traceparent", "00-4bf92f-01");
    records.into_iter().map(|record| record.with_delivery(delivery.clone())).collect()
}

#[tokio::test(start_paused = true)]
async fn publish_makes_the_same_events_in_every_run_and_names_their_causes() {
    let first = published(causes(Delivery::Live), None).await;
    assert_eq!(first, published(causes(Delivery::Live), None).await);
    assert_eq!(first.len(), 2);
    assert_ne!(first[0].id, first[1].id);
    assert_eq!(first[0].causation, ["s/0/0", "s/0/1"]);
    assert_eq!(first[0].traceparent.as_deref(), Some("00-4bf92f-01"));
    let json: serde_json::Value = serde_json::from_slice(&first[0].to_json().unwrap()).unwrap();
    assert_eq!((&json["type"], &json["data"]), (&"summed".into(), &1.into()));
    assert_eq!((&json["partitionKey"], &json["tags"]["region"]), (&"k".into(), &"eu".into()));
}

#[tokio::test(start_paused = true)]
async fn l7_publish_is_muted_in_a_replay_unless_told_otherwise() {
    let replay = Delivery::Replay { run: Uuid::from_u128(7) };
    assert!(published(causes(replay.clone()), None).await.is_empty());
    assert!(published(causes(replay.clone()), Some(OnReplay::Mute)).await.is_empty());
    assert_eq!(published(causes(replay), Some(OnReplay::Keep)).await.len(), 2);
    let resubmit = |run| Delivery::Resubmit {
        fault: Uuid::from_u128(1),
        attempt: 1,
        part: Default::default(),
        run,
    };
    // what a replay faulted is muted as the replay is
    let run = Some(Uuid::from_u128(7));
    assert!(published(causes(resubmit(run)), None).await.is_empty());
    assert_eq!(published(causes(resubmit(run)), Some(OnReplay::Keep)).await.len(), 1);
    // published, and as the one group that the fault held
    assert_eq!(published(causes(resubmit(None)), None).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn f8_an_item_that_waits_behind_a_returned_one_of_its_key_has_its_own_limit_of_returns() {
    let sink = Collect::<u32>::new();
    let mut asked = [0; 2];
    sink.decide(move |_, n| {
        asked[*n as usize] += 1;
        // 0 never goes well, and 1 not at once
        if *n == 0 || asked[1] == 1 { Verdict::Retry } else { Verdict::Done }
    });
    let builder = Resource::builder("search").timeout(Duration::from_secs(1)).seed(1);
    let search = builder.retry(Retry::none()).return_limit(3).build().unwrap();
    let ran = run(0..2, move |flow| {
        flow.json::<u32>().map(|n| *n).bulk_write(&search, sink.clone()).ordered_by(|_| "all")
    })
    .await;
    assert_eq!((ran.fates(), ran.payloads()), ((1, 0, 1), vec![vec!["0".to_owned()]]));
    assert_eq!(ran.classes(), [Class::Returned]);
}

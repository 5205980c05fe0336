use super::*;

const _: () = {
    const fn shared<T: Send + Sync + 'static>() {}
    const fn values<T: Copy + Send + Sync>() {}
    const fn short_lived<T: Send + Sync>() {}
    shared::<Resource>();
    shared::<ResourceBuilder>();
    shared::<ResourceStatus>();
    shared::<Circuit>();
    shared::<RateState>();
    shared::<Delays>();
    values::<Retry>();
    values::<RetryQuota>();
    values::<Rate>();
    values::<Breaker>();
    short_lived::<Pass<'static>>();
};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn plain() -> ResourceBuilder {
    Resource::builder("db").timeout(ms(800)).seed(1)
}

fn built(builder: ResourceBuilder) -> Resource {
    builder.build().expect("valid")
}

fn refusal(builder: ResourceBuilder) -> String {
    builder.build().expect_err("refused").to_string()
}

fn transient() -> StepError {
    StepError::new(Class::Transient, "gone")
}

#[test]
fn build_names_what_is_wrong_and_what_is_accepted() {
    let text = refusal(Resource::builder("db"));
    assert_eq!(
        text,
        "resource `db`: timeout is not set; accepted: a duration above zero, for one attempt"
    );
    assert!(refusal(plain().timeout(Duration::ZERO)).contains("timeout is zero"));
    assert!(refusal(Resource::builder(" ").timeout(ms(1))).contains("resource name is empty"));
    let hostile = refusal(Resource::builder("a\u{1b}[31m").timeout(ms(1)));
    assert!(hostile.contains("unfit") && !hostile.contains('\u{1b}'));
    assert!(refusal(plain().concurrency(0)).contains("concurrency is 0"));
    assert!(refusal(plain().concurrency(usize::MAX)).contains("concurrency is"));
    assert!(refusal(plain().rate(Rate::per_second(0))).contains("rate n is 0"));
    assert!(refusal(plain().return_limit(0)).contains("return_limit is 0"));
    assert!(refusal(plain().retry(Retry::none().max_attempts(0))).contains("max_attempts"));
    assert!(refusal(plain().retry_quota(RetryQuota::ratio(2.0))).contains("retry_quota ratio"));
    assert!(refusal(plain().breaker(Breaker::failure_ratio(f64::NAN))).contains("NaN"));
}

#[test]
fn what_is_just_within_a_limit_is_accepted() {
    let named = |bytes| Resource::builder("n".repeat(bytes)).timeout(ms(1));
    assert_eq!(built(named(255)).name().len(), 255);
    assert!(refusal(named(256)).contains("unfit"));
    assert!(refusal(named(1_000)).contains("unfit"));
    assert_eq!(built(plain().timeout(Duration::from_nanos(1))).timeout(), Duration::from_nanos(1));
    let most = Semaphore::MAX_PERMITS;
    assert_eq!(
        built(plain().concurrency(most)).permits().map(|p| p.available_permits()),
        Some(most)
    );
    assert!(refusal(plain().concurrency(most + 1)).contains("concurrency is"));
    assert_eq!(built(plain().concurrency(1).return_limit(1)).return_limit(), Some(1));
    built(plain().retry_quota(RetryQuota::ratio(1.0).reserve(1)));
    built(plain().rate(Rate::per_second(1)));
    let year = Duration::from_secs(366 * 86_400);
    built(plain().rate(Rate::per(1, year).burst(1)));
    assert!(refusal(plain().rate(Rate::per(1, year + ms(1)))).contains("rate period"));
    built(plain().retry(Retry::none().max_attempts(1)));
}

#[tokio::test(start_paused = true)]
async fn a_status_says_how_often_each_came() {
    let minute = Duration::from_secs(60);
    let (now, resource) = (Instant::now(), built(plain().rate(Rate::per(3_000, minute))));
    let classes = [Class::Fault, Class::Transient, Class::Throttled, Class::Fatal, Class::Panic];
    for (class, times) in classes.into_iter().zip([2, 3, 5, 7, 11]) {
        for _ in 0..times {
            let pass = resource.admit(now).expect("no breaker");
            resource.failed(pass, &StepError::new(class, "x"), now);
        }
    }
    resource.went_well(0, 13, now);
    let status = resource.status_at(now);
    let FailureCounts { fault, transient, throttled, fatal, panic } = status.failures;
    assert_eq!([fault, transient, throttled, fatal, panic], [2, 3, 5, 7, 11]);
    assert_eq!((status.successes, status.attempts), (13, 41));
    let rate = status.rate.expect("there is one");
    assert!(rate.per_second < 50.0 && rate.per_second > 0.0, "five throttles: {rate:?}");
    assert_eq!((rate.configured_per_second, rate.burst), (50.0, 1));
    let share = resource.0.rate.share(now);
    assert_eq!(rate.per_second, 50.0 * share);
}

#[test]
fn a_breaker_beside_return_must_name_on_open() {
    let text = refusal(plain().breaker(Breaker::failure_ratio(0.5)));
    for option in ["OnOpen::Fault", "OnOpen::Pause", "OnOpen::Siphon", "OnExhausted::Fault"] {
        assert!(text.contains(option), "{text}");
    }
    let explicit = plain().on_exhausted(OnExhausted::Return);
    assert!(explicit.breaker(Breaker::failure_ratio(0.5)).build().is_err());
    let fault = plain().on_exhausted(OnExhausted::Fault).breaker(Breaker::failure_ratio(0.5));
    assert_eq!(built(fault).circuit().map(Circuit::on_open), Some(OnOpen::Fault));
    built(plain().breaker(Breaker::failure_ratio(0.5).on_open(OnOpen::Pause)));
}

#[test]
fn l12_debug_shows_name_and_settings_only() {
    let resource = built(plain().classify(|_| None));
    let text = format!("{resource:?}");
    assert!(text.starts_with("Resource { name: \"db\", settings: Settings {"), "{text}");
    assert!(!text.contains("Random") && !text.contains("counts"));
}

#[test]
fn a_resource_is_what_was_built() {
    let resource = built(
        plain().on_exhausted(OnExhausted::Fault).return_limit(7).concurrency(3).max_wait(ms(9)),
    );
    assert_eq!((resource.name(), resource.return_limit()), ("db", Some(7)));
    assert_eq!((resource.on_exhausted(), resource.max_wait()), (OnExhausted::Fault, ms(9)));
    assert_eq!(resource.permits().map(|permits| permits.available_permits()), Some(3));
    assert!(resource.is(&resource.clone()) && !resource.is(&built(plain())));
    resource.count(Count::WaitedForRate);
    assert_eq!(resource.status().waits.rate, 1);
    assert_eq!(built(plain()).return_limit(), None);
}

#[tokio::test(start_paused = true)]
async fn only_what_nothing_can_hold_back_is_admitted_at_once() {
    let now = Instant::now();
    assert_eq!(built(plain()).admit_at_once(), Some(0));
    assert_eq!(built(plain().concurrency(3)).admit_at_once(), None);
    assert_eq!(built(plain().rate(Rate::per_second(5))).admit_at_once(), None);
    let guarded =
        built(plain().breaker(Breaker::failure_ratio(0.5).min_calls(2).on_open(OnOpen::Fault)));
    let circuit = guarded.circuit().expect("there is one");
    let word = guarded.admit_at_once().expect("closed");
    assert_eq!(circuit.admit_closed(), Some(word));
    guarded.went_well(word, 1, now);
    let status = guarded.status_at(now);
    assert_eq!((status.successes, status.breaker.expect("there is one").calls), (1, 1));
    guarded.failed(guarded.pass(word), &transient(), now);
    assert_eq!(guarded.status_at(now).failures.transient, 1);
    assert_eq!(guarded.admit_at_once(), None, "it is open");
}

#[tokio::test(start_paused = true)]
async fn an_unguarded_resource_asks_nothing_of_an_attempt() {
    let resource = built(plain());
    let now = Instant::now();
    assert!(resource.rate().is_none() && resource.permits().is_none());
    assert!(resource.circuit().is_none());
    resource.succeeded(resource.admit(now).expect("no breaker"), now);
    let status = resource.status_at(now);
    assert_eq!((status.attempts, status.successes), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn t4_what_is_not_transient_is_not_retried() {
    let resource = built(plain());
    let now = Instant::now();
    for class in [Class::Fault, Class::Fatal, Class::Panic, Class::CircuitOpen] {
        let next = resource.next_retry(1, now, now, &StepError::new(class, "no"), None);
        assert_eq!(next, Err(GiveUp::NotRetryable));
    }
    assert_eq!(resource.status_at(now).exhausted, 0);
}

#[tokio::test(start_paused = true)]
async fn t1_retries_end_with_attempts_elapsed_and_quota() {
    let now = Instant::now();
    let resource = built(plain());
    assert!(resource.next_retry(1, now, now, &transient(), None).expect("a retry") <= ms(50));
    assert!(resource.next_retry(3, now, now, &transient(), None).is_ok());
    assert_eq!(resource.next_retry(4, now, now, &transient(), None), Err(GiveUp::Attempts));

    let timed = built(plain().retry(Retry::exponential().elapsed(ms(1_000))));
    let late = now + ms(1_001);
    assert_eq!(timed.next_retry(1, now, late, &transient(), None), Err(GiveUp::Elapsed));
    assert!(timed.next_retry(1, now, now + ms(900), &transient(), None).is_ok());
    let exact = built(plain().retry(Retry::exponential().elapsed(ms(1_000)).quick(Duration::ZERO)));
    assert!(exact.next_retry(1, now, now + ms(1_000), &transient(), None).is_ok(), "just in time");

    let quota = RetryQuota::default().floor(0).reserve(1);
    let stormy = built(plain().retry_quota(quota));
    assert!(stormy.next_retry(1, now, now, &transient(), None).is_ok());
    assert_eq!(stormy.next_retry(1, now, now, &transient(), None), Err(GiveUp::Quota));
    let status = stormy.status_at(now);
    assert_eq!((status.retries, status.quota_refused, status.exhausted), (1, 1, 1));
    (0..5).for_each(|_| stormy.succeeded(stormy.admit(now).expect("free"), now));
    assert!(stormy.next_retry(1, now, now, &transient(), None).is_ok(), "successes pay it in");
}

#[tokio::test(start_paused = true)]
async fn t2_no_attempt_is_planned_that_does_not_fit_before_the_deadline() {
    let now = Instant::now();
    let resource = built(plain().retry(Retry::exponential().quick(Duration::ZERO)));
    let fits = now + ms(800);
    assert_eq!(resource.next_retry(1, now, now, &transient(), Some(fits)), Ok(Duration::ZERO));
    let tight = now + ms(799);
    assert_eq!(resource.next_retry(1, now, now, &transient(), Some(tight)), Err(GiveUp::Deadline));
    assert!(!GiveUp::Deadline.is_exhausted());
}

#[tokio::test(start_paused = true)]
async fn a_throttle_is_waited_for_while_the_budget_lasts() {
    let now = Instant::now();
    let resource = built(plain());
    let ask = |after| StepError::throttled(after, "slow down");
    let next = |resource: &Resource, after, deadline| {
        resource.next_retry(1, now, now, &ask(after), deadline)
    };
    assert_eq!(next(&resource, ms(5_000), None), Ok(ms(5_000)));
    assert_eq!(next(&resource, ms(30_000), None), Ok(ms(30_000)));
    assert_eq!(next(&resource, ms(30_001), None), Err(GiveUp::Throttle), "max_wait");
    assert_eq!(next(&resource, Duration::MAX, None), Err(GiveUp::Throttle));
    assert_eq!(next(&resource, ms(5_000), Some(now + ms(5_000))), Err(GiveUp::Deadline));
    assert!(next(&resource, Duration::MAX, Some(now + ms(9_000))).is_err());
    let timed = built(plain().retry(Retry::exponential().elapsed(ms(4_000))));
    assert_eq!(next(&timed, ms(5_000), None), Err(GiveUp::Elapsed));
}

#[tokio::test(start_paused = true)]
async fn b4_poison_and_throttling_do_not_trip_the_breaker() {
    let breaker = Breaker::failure_ratio(0.1).min_calls(5).on_open(OnOpen::Fault);
    let resource = built(plain().breaker(breaker));
    let now = Instant::now();
    let others = [Class::Fault, Class::Throttled, Class::Panic, Class::Fatal, Class::Returned];
    for class in others.into_iter().cycle().take(500) {
        let pass = resource.admit(now).expect("closed");
        resource.failed(pass, &StepError::new(class, "x"), now);
    }
    let status = resource.status_at(now);
    let breaker = status.breaker.expect("there is one");
    assert_eq!((breaker.state, breaker.failures), (BreakerState::Closed, 0));
    assert_eq!(status.failures.throttled, 100);
    assert_eq!(status.failures.fault, 200, "a class of ours from a handler is a fault");
    assert_eq!(status.attempts, 500);
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_refuses_and_counts() {
    let breaker = Breaker::failure_ratio(0.5).min_calls(2).on_open(OnOpen::Pause);
    let resource = built(plain().breaker(breaker));
    let now = Instant::now();
    for _ in 0..2 {
        resource.failed(resource.admit(now).expect("closed"), &transient(), now);
    }
    assert_eq!(resource.admit(now).expect_err("open").until, Some(now + ms(30_000)));
    let circuit = resource.circuit().expect("there is one");
    let paused = circuit.gate(now).expect_err("it pauses");
    assert_eq!((paused.on_open, paused.until), (OnOpen::Pause, Some(now + ms(30_000))));
    circuit.set_on_open(OnOpen::Siphon);
    assert_eq!(circuit.gate(now).expect_err("open").on_open, OnOpen::Siphon);
    assert_eq!(resource.status_at(now).breaker_refused, 1);
    resource.publish_metrics(now);
}

#[tokio::test(start_paused = true)]
async fn a_throttle_holds_a_resource_without_a_rate() {
    let resource = built(plain());
    let now = Instant::now();
    let pass = resource.admit(now).expect("free");
    resource.failed(pass, &StepError::throttled(ms(700), "later"), now);
    let rate = resource.rate().expect("held back");
    assert_eq!(rate.admit(now), Err(ms(700)));
    assert_eq!(resource.status_at(now).held_back_seconds, Some(0.7));
    assert_eq!(rate.admit(now + ms(700)), Ok(()));
    assert!(resource.rate().is_none());
}

#[test]
fn t2_the_worst_case_adds_up() {
    let resource = built(plain());
    assert_eq!(resource.budget(0).total, ms(4 * 800 + 350));
    let timed = built(plain().retry(Retry::exponential().max_attempts(9).elapsed(ms(2_000))));
    assert_eq!(timed.budget(0).total, ms(2_800), "the last attempt starts with the budget's end");
    let queued = built(plain().rate(Rate::per_second(10)).concurrency(5));
    let budget = queued.budget(64);
    assert_eq!((budget.rate, budget.attempts), (ms(500), 4), "no more wait than have a permit");
    assert_eq!(budget.total, budget.calls + budget.backoffs + budget.rate);
    let endless = built(plain().timeout(Duration::MAX).retry(Retry::none().max_attempts(u32::MAX)));
    assert!(endless.budget(0).total > ms(1_000_000_000));
}

#[test]
fn status_is_serialisable() {
    let breaker = Breaker::failure_ratio(0.5).on_open(OnOpen::Siphon);
    let resource = built(plain().breaker(breaker).rate(Rate::per_second(50)).concurrency(2));
    let json = serde_json::to_value(resource.status()).expect("plain data");
    assert_eq!(json["breaker"]["state"], "closed");
    assert_eq!(json["breaker"]["on_open"], "siphon");
    assert_eq!(json["rate"]["per_second"], 50.0);
    assert_eq!(json["permits"]["limit"], 2);
}

#[test]
fn a_state_has_one_name_everywhere() {
    for state in [BreakerState::Closed, BreakerState::HalfOpen, BreakerState::Open] {
        assert_eq!(serde_json::to_value(state).expect("plain data"), state.as_str());
        assert_eq!(state.to_string(), state.as_str());
    }
}

/// The levels at which breakers speak.
struct Levels(Arc<std::sync::Mutex<Vec<tracing::Level>>>);

impl tracing::Subscriber for Levels {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "streambreaker::breaker"
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        self.0.lock().expect("not poisoned").push(*event.metadata().level());
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn a_circuit_that_opens_is_worth_a_warning_and_one_that_closes_is_not() {
    let levels = Arc::default();
    let _listening = tracing::subscriber::set_default(Levels(Arc::clone(&levels)));
    let now = Instant::now();
    let breaker = Breaker::failure_ratio(0.5).min_calls(1).half_open(1).on_open(OnOpen::Fault);
    let resource = built(plain().breaker(breaker));
    resource.failed(resource.admit(now).expect("closed"), &transient(), now);
    let later = now + ms(30_000);
    resource.succeeded(resource.admit(later).expect("a probe"), later);
    let (warns, tells) = (tracing::Level::WARN, tracing::Level::INFO);
    assert_eq!(*levels.lock().expect("not poisoned"), [warns, tells, tells]);
}

/// Counts the events of one target.
struct Heard(Arc<std::sync::atomic::AtomicU32>);

impl tracing::Subscriber for Heard {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "streambreaker::resource"
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn a_hundred_faults_and_no_transient_one_warn_once() {
    let heard = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let _listening = tracing::subscriber::set_default(Heard(Arc::clone(&heard)));
    let now = Instant::now();
    let faults = |resource: &Resource, n: u32| {
        for _ in 0..n {
            let pass = resource.admit(now).expect("no breaker");
            resource.failed(pass, &StepError::new(Class::Fault, "bad"), now);
        }
        heard.swap(0, Ordering::SeqCst)
    };
    let resource = built(plain());
    assert_eq!((faults(&resource, 99), faults(&resource, 1), faults(&resource, 500)), (0, 1, 0));

    let classified = built(plain());
    classified.failed(classified.admit(now).expect("free"), &transient(), now);
    assert_eq!(faults(&classified, 300), 0);
    assert_eq!(faults(&built(plain().retry(Retry::none())), 300), 0, "nothing to work on anyway");
}

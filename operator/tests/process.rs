//! `run`, and what is asked of and told to a process that runs, end to end.

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};
use streambreaker::admin::Listener;
use streambreaker::memory::{self, Stream};
use streambreaker::prelude::*;
use streambreaker::{BoxError, ProcessorBuilder, Trigger, file};
use streambreaker_operator::{Exit, Operator, Task};
use support::{Ran, given};

/// A component that is stuck at `4`.
fn numbers(stream: &Stream) -> Result<ProcessorBuilder, BoxError> {
    let db = Resource::builder("orders/db")
        .timeout(Duration::from_secs(1))
        .retry(Retry::none())
        .breaker(Breaker::failure_ratio(0.9).on_open(OnOpen::Pause))
        .build()?;
    Ok(Processor::builder("numbers")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", move |flow| {
            flow.json::<u64>().call(&db, async |n: &Event<u64>| match **n {
                4 => Err("never").transient(),
                _ => Ok(()),
            })
        }))
}

struct Running {
    url: String,
    stream: Stream,
    trigger: Trigger,
    run: tokio::task::JoinHandle<()>,
    _serving: streambreaker::admin::Serving,
}

impl Running {
    async fn start() -> Self {
        let stream = Stream::new("numbers", 1);
        let processor = numbers(&stream).unwrap().build().unwrap();
        let serving = Listener::bind("127.0.0.1:0").await.unwrap().spawn(processor.handle());
        let url = format!("http://{}", serving.local_addr().unwrap());
        let (trigger, shutdown) = Shutdown::by_hand();
        let run = tokio::spawn(async move {
            processor.run(shutdown).await.unwrap();
        });
        Self { url, stream, trigger, run, _serving: serving }
    }

    async fn ask(&self, words: &[&str]) -> Ran {
        let operator =
            Operator::new("numbers", async |_| Err("not needed".into())).admin(&self.url);
        given(&operator, words).await
    }

    async fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..2_000 {
            let status = self.ask(&["status", "--json"]).await.json();
            if is(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("not {what}: {}", self.ask(&["status"]).await.out)
    }
}

const BY: [&str; 4] = ["--why", "a test", "--who", "ada"];

#[tokio::test]
async fn a_process_that_runs_is_looked_at_and_its_switches_are_turned() {
    let running = Running::start().await;
    running.until("ready", |status| status["ready"] == true).await;
    let turn = async |words: &[&str]| running.ask(&[words, &BY[..]].concat()).await;

    let paused = turn(&["pause", "all"]).await;
    assert_eq!((paused.exit, &*paused.out), (Exit::Done, "all: paused\n"));
    running.until("paused", |status| status["pipelines"]["all"]["paused"] == true).await;
    assert!(running.ask(&["status"]).await.out.contains("paused"));
    assert_eq!(turn(&["resume", "all", "--json"]).await.json(), json!({ "done": true }));
    running.until("going on", |status| status["pipelines"]["all"]["paused"] == false).await;

    let breaker = |status: &Value| status["resources"][0]["breaker"].clone();
    for (control, shown) in [("open", "held_open"), ("close", "held_closed"), ("auto", "auto")] {
        assert_eq!(turn(&["breaker", "orders/db", control]).await.exit, Exit::Done);
        running.until(shown, |status| breaker(status)["control"] == shown).await;
    }
    assert_eq!(turn(&["siphon", "on", "orders/db"]).await.exit, Exit::Done);
    running.until("siphoned", |status| breaker(status)["on_open"] == "siphon").await;
    running.stream.push("7");
    running.until("set aside", |status| status["pipelines"]["all"]["faulted"] == 1).await;
    assert_eq!(turn(&["siphon", "off", "orders/db"]).await.exit, Exit::Done);
    running.until("as it was built", |status| breaker(status)["on_open"] == "pause").await;

    for n in 0..10u64 {
        running.stream.push(n.to_string());
    }
    let stuck = running.until("stuck", |status| status["lanes"][0]["waits_for"] == "restart").await;
    let oldest = stuck["lanes"][0]["oldest"].as_str().unwrap().to_owned();
    let text = running.ask(&["status"]).await.out;
    assert!(
        text.contains("orders/db") && text.contains(&oldest) && text.contains("live"),
        "{text}"
    );
    let skip = ["skip", "--shard", "0", "--position", &oldest];
    let skipped = turn(&skip).await;
    assert_eq!(
        (skipped.exit, skipped.out),
        (Exit::Done, format!("0 @ {oldest}: set aside in all\n"))
    );
    running.until("skipped", |status| status["in_flight_records"] == 0).await;
    turn(&skip).await.says(Exit::No, &["is settled already: there is nothing to skip"]);
    let ahead = turn(&["skip", "--shard", "0", "--position", "4711"]).await;
    assert_eq!(ahead.out, "0 @ 4711: not in flight now; set aside if it comes\n");

    // what it does not know
    turn(&["pause", "al"]).await.says(Exit::Unusable, &["refused (404)", "there is all"]);
    turn(&["breaker", "db", "open"]).await.says(Exit::Unusable, &["orders/db"]);
    turn(&["breaker", "orders/db", "shut"]).await.says(Exit::Unusable, &["open", "close", "auto"]);
    turn(&["skip", "--shard", "9", "--position", "1"]).await.says(Exit::Unusable, &["shard"]);
    running.ask(&["pause", "all"]).await.says(Exit::Unusable, &["--why"]);
    running.trigger.pull();
    running.run.await.unwrap();
}

#[tokio::test]
async fn a_flood_of_faults_is_let_pass_and_stopped_again() {
    let running = Running::start().await;
    (0..150).for_each(|_| drop(running.stream.push("no number")));
    running.until("stopped", |status| status["pipelines"]["all"]["flood_guard"] == "tripped").await;
    assert!(running.ask(&["status"]).await.out.contains("flood guard tripped"));
    let turn =
        async |word: &str| running.ask(&[&["flood-guard", word, "all"], &BY[..]].concat()).await;
    assert_eq!(turn("off").await.out, "all: every fault passes, however many they are\n");
    running.until("set aside", |status| status["pipelines"]["all"]["faulted"] == 150).await;
    let on = turn("on").await;
    assert_eq!((on.exit, &*on.out), (Exit::Done, "all: a flood of faults is stopped again\n"));
    (0..150).for_each(|_| drop(running.stream.push("no number")));
    running
        .until("stopped again", |status| status["pipelines"]["all"]["flood_guard"] == "tripped")
        .await;
    let unknown = running.ask(&[&["flood-guard", "on", "al"], &BY[..]].concat()).await;
    unknown.says(Exit::Unusable, &["there is all"]);
    running.ask(&["flood-guard", "on", "all"]).await.says(Exit::Unusable, &["--why"]);
    running.trigger.pull();
    running.run.await.unwrap();
}

#[tokio::test]
async fn metrics_are_shown_as_they_are_by_name_and_as_json() {
    const TEXT: &str = "# HELP a_total What?\n# TYPE a_total counter\na_total{stage=\"x\\n\u{1b}\"} 0\nb_total{stage=\"y\"} 7\n\nb_seconds{quantile=\"0.5\"} NaN\n";
    let processor = numbers(&Stream::new("numbers", 1)).unwrap().build().unwrap();
    let listener = Listener::bind("127.0.0.1:0").metrics_by(|| TEXT.to_owned()).await.unwrap();
    let serving = listener.spawn(processor.handle());
    let url = format!("http://{}", serving.local_addr().unwrap());
    let operator = Operator::new("numbers", async |_| Err("not needed".into())).admin(&url);
    let metrics = async |words: &[&str]| given(&operator, &[&["metrics"], words].concat()).await;
    assert_eq!(metrics(&[]).await.out, TEXT.replace('\u{1b}', r"\u{1b}"));
    assert_eq!(metrics(&["b_"]).await.out.lines().count(), 2);
    assert_eq!(metrics(&["a_total", "b_total", "--nonzero"]).await.out, "b_total{stage=\"y\"} 7\n");
    let json = metrics(&["total", "seconds", "--json"]).await.json();
    let samples = json["samples"].as_array().unwrap();
    assert_eq!(
        samples[0],
        json!({"name": "a_total", "labels": {"stage": "x\n\u{1b}"}, "value": 0})
    );
    assert_eq!((&samples[1]["value"], &samples[2]["value"]), (&json!("NaN"), &json!(7)));
    metrics(&["a_", "--nonzero"]).await.says(Exit::No, &["every one of them is zero"]);
    metrics(&["c_total"]).await.says(Exit::No, &["no such metric"]);

    let without = Running::start().await;
    without.ask(&["metrics"]).await.says(Exit::Unusable, &["no recorder"]);
    without.trigger.pull();
    without.run.await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn it_is_asked_over_a_unix_socket_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let stream = Stream::new("numbers", 1);
    let processor = numbers(&stream).unwrap().build().unwrap();
    let _serving = Listener::bind_unix(&socket).await.unwrap().spawn(processor.handle());
    let operator = Operator::new("numbers", async |_| Err("not needed".into()));
    let url = format!("unix:{}", socket.display());
    let status = given(&operator, &["status", "--json", "--url", &url]).await.json();
    assert_eq!(status["processor"], "numbers");
    let paused =
        given(&operator, &["pause", "all", "--why", "a", "--who", "b", "--url", &url]).await;
    assert_eq!(paused.exit, Exit::Done, "{}", paused.err);
    assert!(processor.handle().status().pipelines["all"].paused);
}

#[tokio::test]
async fn a_process_that_is_not_there_is_told_with_what_to_do() {
    let operator = || Operator::new("numbers", async |_| Err("not needed".into()));
    let status = async |words: &[&str]| given(&operator(), &[&["status"], words].concat()).await;
    status(&[]).await.says(Exit::Unusable, &["where does the component listen?", "--url unix:"]);
    status(&["--url", "localhost:80"]).await.says(Exit::Unusable, &["http://127.0.0.1:9464"]);
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let nobody = status(&["--url", &url]).await;
    nobody.says(Exit::Failed, &["nobody answers on", &url, "does the component run"]);
    status(&["--url", "unix:/nowhere/admin.sock"]).await.says(Exit::Failed, &["nobody answers"]);

    // somebody else answers there
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", other.local_addr().unwrap());
    let answers = std::thread::spawn(move || {
        for answer in [
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/1.1 200 OK\r\n\r\n<html>",
            "HTTP/1.1 503 Away\r\n\r\n{\"error\":\"later\u{1b}[2J\"}",
        ] {
            let (mut stream, _) = other.accept().unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    status(&["--url", &url]).await.says(Exit::Failed, &["no admin listener"]);
    status(&["--url", &url]).await.says(Exit::Failed, &["refused (200)"]);
    let away = status(&["--url", &url]).await;
    assert!(!away.err.trim_end().contains(char::is_control), "{}", away.err);
    answers.join().unwrap();
}

#[tokio::test]
async fn the_component_runs_and_ends_as_its_report_says() {
    let folder = tempfile::tempdir().unwrap();
    let faults = folder.path().join("faults.ndjson");
    let stream = Stream::new("numbers", 1);
    for payload in ["1", "two", "3"] {
        stream.push(payload);
    }
    stream.close();
    let (sink, source) = (faults.clone(), stream.clone());
    let operator = Operator::new("numbers", async move |task| {
        assert_eq!(task, Task::Run);
        Ok(Processor::builder("numbers")
            .source(source.consumer("g"))
            .faults(file::faults(&sink)?)
            .pipeline("all", |flow| flow.json::<u64>())
            .pipeline("other", |flow| flow.json::<u64>()))
    })
    .faults_in(&faults)
    .listeners(|| Ok(vec![Listener::bind("127.0.0.1:0")]));
    let plan = given(&operator, &["run", "--plan"]).await;
    assert_eq!(plan.exit, Exit::Done);
    assert!(plan.out.contains("10000 records") && plan.out.contains("other"), "{}", plan.out);

    let report = given(&operator, &["run", "--pipeline", "all", "--json"]).await;
    report.says(Exit::Done, &["`faults group --open` says what was set aside"]);
    let report = report.json();
    let all = &report["pipelines"]["all"];
    assert_eq!((&all["read"], &all["done"], &all["faulted"]), (&json!(3), &json!(2), &json!(1)));
    assert_eq!(report["pipelines"]["other"]["enabled"], false);
    let group = given(&operator, &["faults", "group", "--json"]).await.json();
    assert_eq!(group["kinds"][0]["count"], 1);
    let again = given(&operator, &["run", "--json"]).await;
    assert!(!again.err.contains("faults group"), "nothing was set aside: {}", again.err);
}

#[tokio::test]
async fn a_run_that_fails_says_so_by_its_exit_code() {
    // a record is left, which is returned again and again
    let stream = Stream::new("numbers", 1);
    stream.push("4");
    let source = stream.clone();
    let operator = Operator::new("numbers", async move |_| {
        Ok(numbers(&source)?.drain(Duration::from_millis(50)))
    })
    .stop(|| Shutdown::on(tokio::time::sleep(Duration::from_millis(200))));
    let left = given(&operator, &["run"]).await;
    assert_eq!(left.exit, Exit::Partly, "{}{}", left.out, left.err);
    assert!(left.out.contains("records are left to the next run"), "{}", left.out);

    let missing = Operator::new("numbers", async |_| {
        Ok(Processor::builder("numbers")
            .source(file::Source::open("/nowhere/events.ndjson"))
            .faults(memory::faults())
            .pipeline("all", |flow| flow.json::<u64>()))
    });
    let missing = given(&missing, &["run", "--json"]).await;
    missing.says(Exit::Failed, &["/nowhere/events.ndjson"]);
    assert_eq!(missing.document()["pipelines"]["all"]["read"], 0, "the report comes all the same");

    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let stream = Stream::new("numbers", 1);
    let busy = Operator::new("numbers", async move |_| numbers(&stream))
        .listeners(move || Ok(vec![Listener::bind(&address)]));
    given(&busy, &["run"]).await.says(Exit::Failed, &["cannot be bound"]);
    let unbuilt = Operator::new("numbers", async |_| Ok(Processor::builder("numbers")));
    given(&unbuilt, &["run"]).await.says(Exit::Unusable, &["cannot be put together"]);
}

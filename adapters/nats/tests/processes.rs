//! Processes that share a durable consumer: one is killed with `kill -9`, one is added.
//!
//! A worker is this same program, started anew for the ignored test `worker`.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use streambreaker::memory;
use streambreaker::prelude::*;
use streambreaker_nats::NatsSource;
use streambreaker_nats::async_nats::jetstream::Context;
use support::*;

const ALL: u64 = 4_000;
const ADDRESS: &str = "STREAMBREAKER_TEST_SERVER";
const NAME: &str = "STREAMBREAKER_TEST_WORKER";
/// The number that kills a worker.
const POISON: &str = "STREAMBREAKER_TEST_POISON";

/// A processor in a process of its own, which writes each number to `effects.<its name>`, runs until its input is closed, and
/// prints what it has to report.
#[test]
#[ignore = "a process that the other test starts"]
fn worker() {
    let address: SocketAddr = std::env::var(ADDRESS).unwrap().parse().unwrap();
    let name = std::env::var(NAME).unwrap();
    let poison: Option<u64> = std::env::var(POISON).ok().map(|number| number.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let context = context(address).await;
        let source = NatsSource::builder(context.clone(), "ORDERS", "totals")
            .shared_by(3)
            .open()
            .await
            .unwrap();
        let subject = format!("effects.{name}");
        let effects = Resource::builder("effects")
            .timeout(Duration::from_millis(900))
            .retry(Retry::none())
            .concurrency(16)
            .build()
            .unwrap();
        let (trigger, shutdown) = Shutdown::by_hand();
        let faults = memory::faults();
        let mut builder = numbers(source, faults.clone()).in_flight(300, 8 << 20);
        if poison.is_some() {
            builder = builder.max_deliveries(3);
        }
        let processor = builder
            .pipeline("all", move |flow| {
                let (context, subject) = (context.clone(), subject.clone());
                flow.json::<u64>().parallel(16, &effects, async move |n: &Event<u64>| {
                    if Some(**n) == poison {
                        std::process::abort();
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    let ack = context.publish(subject.clone(), n.to_string().into()).await;
                    ack.transient()?.await.transient()?;
                    Ok(())
                })
            })
            .build()
            .unwrap();
        let run = tokio::spawn(async move { processor.run(shutdown).await });
        tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()))
            .await
            .unwrap()
            .unwrap();
        trigger.pull();
        let report = run.await.unwrap().unwrap();
        let all = &report.pipelines["all"];
        let said = json!({
            "done": all.done,
            "redelivered": all.redelivered,
            "faulted": all.faulted,
            "classes": faults.events().iter().map(|f| f.class.to_string()).collect::<Vec<_>>(),
            "unsettled": report.unsettled(),
        });
        println!("\nREPORT {said}");
    });
}

struct Worker(Child);

impl Worker {
    fn start(server: &Server, name: &str) -> Self {
        Self::with(server, name, None)
    }

    fn with(server: &Server, name: &str, poison: Option<u64>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["worker", "--exact", "--ignored", "--nocapture"])
            .env(ADDRESS, server.address().to_string())
            .env(NAME, name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(poison) = poison {
            command.env(POISON, poison.to_string());
        }
        Self(command.spawn().unwrap())
    }

    fn is_dead(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Closes its input, and reads what it has to report.
    fn report(mut self) -> Value {
        drop(self.0.stdin.take());
        let output = BufReader::new(self.0.stdout.take().unwrap());
        let said = output.lines().map_while(Result::ok).find_map(|line| {
            line.strip_prefix("REPORT ").map(|said| serde_json::from_str(said).unwrap())
        });
        self.0.wait().unwrap();
        said.expect("a worker reports")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The effects of each worker by number, with how often.
async fn effects(context: &Context) -> BTreeMap<String, BTreeMap<u64, u64>> {
    let stream = context.get_stream("EFFECTS").await.unwrap();
    let mut all: BTreeMap<String, BTreeMap<u64, u64>> = BTreeMap::new();
    for sequence in 1..=stream.cached_info().state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let number = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
        let worker = message.subject.strip_prefix("effects.").unwrap().to_owned();
        *all.entry(worker).or_default().entry(number).or_default() += 1;
    }
    all
}

#[tokio::test]
async fn s6_processes_share_a_consumer_one_is_killed_and_one_added() {
    let server = Server::start();
    let context = server.context().await;
    context.create_stream(stream("EFFECTS")).await.unwrap();
    drop(orders(&context, Duration::from_secs(3)).open().await.unwrap());
    publish(&context, 0..ALL).await;
    let written =
        async || context.get_stream("EFFECTS").await.unwrap().cached_info().state.messages;

    let mut killed = Worker::start(&server, "killed");
    let stays = Worker::start(&server, "stays");
    until("both are at work", async || written().await > ALL / 4).await;
    killed.kill();
    let added = Worker::start(&server, "added");
    until("all is settled", async || left(&context).await == (0, 0)).await;
    let (stays, added) = (stays.report(), added.report());

    let effects = effects(&context).await;
    let mut times: BTreeMap<u64, u64> = BTreeMap::new();
    for (number, count) in effects.values().flatten() {
        *times.entry(*number).or_default() += count;
    }
    let missing: Vec<_> = (0..ALL).filter(|n| !times.contains_key(n)).collect();
    assert!(missing.is_empty(), "lost: {missing:?}");
    let twice = times.values().filter(|count| **count > 1).count();
    println!("{twice} of {ALL} had their effect more than once; stays {stays}, added {added}");
    for (name, said) in [("stays", &stays), ("added", &added)] {
        let own: u64 = effects[name].values().sum();
        let count = |field: &str| said[field].as_u64().unwrap();
        assert_eq!(own, count("done") + count("redelivered"), "{name} reports what it did: {said}");
        assert_eq!((count("faulted"), count("unsettled")), (0, 0), "{name}: {said}");
        assert!(own > 0, "{name} had its share");
    }
    // nothing is done twice but what the one that was killed had in its hands, or what its report tells came again
    let open = 300;
    let again: u64 =
        [&stays, &added].map(|said| said["redelivered"].as_u64().unwrap()).iter().sum();
    let by_the_living = times
        .iter()
        .filter(|(number, count)| **count > 1 && !effects["killed"].contains_key(number))
        .count();
    assert!(twice <= open, "{twice} had their effect more than once");
    assert!(by_the_living as u64 <= again, "{by_the_living} of the living, {again} came again");
}

#[tokio::test]
async fn i10_a_record_that_kills_its_process_is_faulted_after_max_deliveries() {
    const ALL: u64 = 100;
    let server = Server::start();
    let context = server.context().await;
    context.create_stream(stream("EFFECTS")).await.unwrap();
    drop(orders(&context, Duration::from_secs(2)).open().await.unwrap());
    publish(&context, 0..ALL).await;
    // two deliveries kill; what the dead had comes again after the ack wait
    for life in ["first", "second"] {
        let mut worker = Worker::with(&server, life, Some(37));
        until("it is killed by its record", async || worker.is_dead()).await;
        assert_ne!(left(&context).await, (0, 0), "nobody has settled it");
    }
    let mut third = Worker::with(&server, "third", Some(37));
    until("all is settled", async || left(&context).await == (0, 0)).await;
    assert!(!third.is_dead(), "the third delivery is not tried");
    let said = third.report();
    assert_eq!(
        (said["faulted"].as_u64(), said["unsettled"].as_u64()),
        (Some(1), Some(0)),
        "{said}"
    );
    assert_eq!(said["classes"], json!(["crash_loop"]));
    let effects = effects(&context).await;
    let had: BTreeSet<u64> = effects.values().flat_map(|own| own.keys().copied()).collect();
    let missing: Vec<_> = (0..ALL).filter(|n| !had.contains(n)).collect();
    assert_eq!(missing, [37], "all others have their effect");
}

//! What the server is told of each record, as it goes over the wire: acknowledgements are messages, and anybody may
//! listen to them.

#![allow(clippy::unwrap_used)] // a test may

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use streambreaker::fault::FloodGuard;
use streambreaker::memory;
use streambreaker::prelude::*;
use streambreaker_nats::async_nats::jetstream::Context;
use streambreaker_nats::async_nats::jetstream::consumer::{Info, PullConsumer};
use support::*;

/// What was said of each record, by its sequence.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<BTreeMap<u64, Vec<String>>>>);

impl Said {
    /// Listens from now on, over a connection of its own.
    async fn listen(server: &Server) -> Self {
        let client = client(server.address()).await;
        let mut acks = client.subscribe("$JS.ACK.ORDERS.totals.>").await.unwrap();
        client.flush().await.unwrap();
        let said = Self::default();
        let log = said.clone();
        tokio::spawn(async move {
            while let Some(ack) = acks.next().await {
                // deliveries, sequence of the stream, of the consumer, time, pending
                let sequence = ack.subject.split('.').nth(5).unwrap().parse().unwrap();
                let text = String::from_utf8(ack.payload.to_vec()).unwrap();
                log.0.lock().unwrap().entry(sequence).or_default().push(text);
            }
            drop(client);
        });
        said
    }

    fn of(&self, sequence: u64) -> Vec<String> {
        self.0.lock().unwrap().get(&sequence).cloned().unwrap_or_default()
    }

    /// How often it was said of a record.
    fn count(&self, sequence: u64, what: &str) -> usize {
        self.of(sequence).iter().filter(|text| *text == what).count()
    }
}

async fn info(context: &Context) -> Info {
    let consumer: PullConsumer =
        context.get_consumer_from_stream("totals", "ORDERS").await.unwrap();
    consumer.cached_info().clone()
}

#[tokio::test]
async fn t5_what_is_settled_and_waits_for_its_commit_is_held() {
    let server = Server::start();
    let context = server.context().await;
    let wait = Duration::from_secs(3);
    let source = orders(&context, wait).open().await.unwrap();
    publish(&context, 0..20).await;
    let said = Said::listen(&server).await;
    let (ledger, db) = (Ledger::default(), db());
    let effects = ledger.clone();
    let (trigger, shutdown) = Shutdown::by_hand();
    let processor = numbers(source, memory::faults())
        // longer than the test: the drain makes the first commit
        .commit_every(Duration::from_secs(3_600), 1_000_000)
        .pipeline("all", move |flow| {
            let effects = effects.clone();
            flow.json::<u64>().parallel(8, &db, async move |n: &Event<u64>| {
                effects.note(**n);
                Ok(())
            })
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    until("all had their effect", async || ledger.len() == 20).await;
    // three of them make an ack wait: it is over once, and once more
    until("each was extended past its ack wait", async || {
        (1..=20).all(|sequence| said.count(sequence, "+WPI") >= 7)
    })
    .await;
    let before = info(&context).await;
    assert_eq!((before.num_ack_pending, before.num_redelivered), (20, 0), "held by this process");
    assert_eq!(before.delivered.consumer_sequence, 20, "none was delivered to anybody once more");
    assert!((1..=20).all(|sequence| said.count(sequence, "+ACK") == 0), "nothing is committed");
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.done, all.redelivered, report.unsettled()), (20, 0, 0), "{report}");
    assert_eq!((ledger.holds(0..20), left(&context).await), (0, (0, 0)));
    until("each is acknowledged, once", async || {
        (1..=20).all(|sequence| said.count(sequence, "+ACK") == 1)
    })
    .await;
}

#[tokio::test]
async fn each_fate_is_told_as_what_it_is() {
    let server = Server::start();
    let context = server.context().await;
    let source = orders(&context, Duration::from_secs(30)).open().await.unwrap();
    publish(&context, 0..4).await;
    let said = Said::listen(&server).await;
    let (faults, db) = (memory::faults(), db());
    let (trigger, shutdown) = Shutdown::by_hand();
    let processor = numbers(source, faults.clone())
        .flood_guard(FloodGuard::off())
        .pipeline("all", move |flow| {
            flow.json::<u64>().filter(|n| **n != 1).parallel(4, &db, async |n: &Event<u64>| {
                match **n {
                    2 => Err("a two").fault(),
                    3 => Err("the database is down").transient(),
                    _ => Ok(()),
                }
            })
        })
        .build()
        .unwrap();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    until("each was told of", async || (1..=4).all(|sequence| !said.of(sequence).is_empty())).await;
    trigger.pull();
    let report = run.await.unwrap().unwrap();
    let all = &report.pipelines["all"];
    assert_eq!((all.done, all.filtered, all.faulted, all.returned), (1, 1, 1, 1), "{report}");
    assert_eq!((said.of(1), said.of(2)), (vec!["+ACK".to_owned()], vec!["+ACK".to_owned()]));
    assert_eq!((said.of(3), faults.events().len()), (vec!["+TERM".to_owned()], 1));
    // at first; one that came again is given back at once when the processor ends
    let text = said.of(4).swap_remove(0);
    let delay = text.strip_prefix("-NAK ").unwrap_or_else(|| panic!("{text}"));
    let delay: serde_json::Value = serde_json::from_str(delay).unwrap();
    assert!(delay["delay"].as_u64().unwrap() > 0, "it is not to come at once: {text}");
}

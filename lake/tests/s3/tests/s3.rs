//! The lake on S3: the flights end to end, what creates an object where there is none, and what S3 does when it is busy.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use object_store::aws::S3ConditionalPut;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use streambreaker::prelude::*;
use streambreaker::sink::{OutcomeLog, Sink};
use streambreaker::{Position, Record, Report, Timestamp, memory};
use streambreaker_lake::{FaultLake, FaultSelection, Lake, LakeWriter, Selection};
use streambreaker_lake_s3::{Fate, PAGE, Server};

#[path = "../../support/flights.rs"]
mod flights;

fn records(from: u64, until: u64) -> Vec<Record> {
    (from..until)
        .map(|n| {
            let payload = format!(r#"{{"id":"{n}","type":"counted"}}"#);
            Record::new("numbers", "0", Position::from(n), payload)
                .with_arrival(Timestamp::from_millis(1_357_034_400_000 + n as i64))
        })
        .collect()
}

/// Stores them in objects of ten.
async fn store(lake: &Lake, records: Vec<Record>) -> Report {
    store_in_objects_of(10, lake, records).await
}

async fn store_in_objects_of(size: usize, lake: &Lake, records: Vec<Record>) -> Report {
    let retry = Retry::exponential().base(Duration::from_millis(1)).cap(Duration::from_millis(5));
    let store = Resource::builder("lake").timeout(Duration::from_secs(30)).retry(retry);
    let writer = LakeWriter::new(lake).records(size).linger(Duration::from_millis(50));
    Processor::builder("lake-writer")
        .faults(memory::faults())
        .pipeline("store", writer.pipeline(&store.build().unwrap()))
        .build()
        .unwrap()
        .run_from(memory::records(records).unwrap(), Shutdown::never())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn l1_l6_l8_the_flights_end_to_end() {
    let server = Server::start().await;
    let lake = Lake::new(server.store());
    flights::a_bug_is_mended_its_faults_sent_again_and_the_stream_replayed(&lake).await;
    assert_eq!(lake.streams().await.unwrap(), (vec!["flights".to_owned()], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn l1_l6_l8_the_flights_in_a_folder_of_a_bucket_that_throttles_and_has_conflicts() {
    let done = Fate::Done;
    let server = Server::with_fates(&[done, Fate::Conflict, done, done, Fate::Throttled]).await;
    let lake = Lake::new(server.store()).in_folder("team/lake");
    flights::a_bug_is_mended_its_faults_sent_again_and_the_stream_replayed(&lake).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l2_of_many_that_create_an_object_at_once_one_does() {
    let server = Server::start().await;
    let store = server.store();
    for round in 0..20 {
        let path = Path::from(format!("round/{round}"));
        let create = |n: usize| {
            let (store, path) = (store.clone(), path.clone());
            tokio::spawn(async move {
                let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
                store.put_opts(&path, format!("by {n}").into(), options).await
            })
        };
        let all = join_all((0..16).map(create)).await;
        let mut winners = Vec::new();
        for (n, result) in all.into_iter().enumerate() {
            match result.unwrap() {
                Ok(_) => winners.push(n),
                Err(Error::AlreadyExists { .. }) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        let there = store.get(&path).await.unwrap().bytes().await.unwrap();
        assert_eq!(there, format!("by {}", winners[0]));
    }
    assert_eq!(server.creates(), 20 * 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn l2_an_object_whose_reply_was_lost_is_found_and_not_written_twice() {
    let server = Server::with_fates(&[Fate::ReplyLost, Fate::Done, Fate::Throttled]).await;
    let lake = Lake::new(server.store());
    let report = store(&lake, records(0, 200)).await;
    assert_eq!(report.pipelines["store"].done, 200, "{report:?}");
    assert!(server.creates() > 20, "some came twice: {}", server.creates());
    let verified = lake.verify("numbers").await.unwrap();
    assert_eq!((verified.records, verified.objects, &*verified.findings), (200, 20, &[][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn l2_what_is_stored_is_adopted_after_a_restart() {
    let server = Server::start().await;
    store(&Lake::new(server.store()), records(0, 100)).await;
    let before = server.creates();
    let lake = Lake::new(server.store());
    assert_eq!(store(&lake, records(40, 140)).await.pipelines["store"].done, 100);
    assert_eq!(server.creates() - before, 4, "only what is new");
    let verified = lake.verify("numbers").await.unwrap();
    assert_eq!((verified.records, &*verified.findings), (140, &[][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn l2_l6_more_objects_than_a_page_of_a_list_has_are_found_adopted_and_replayed() {
    const MANY: u64 = 6 * PAGE as u64;
    let server = Server::start().await;
    let lake = Lake::new(server.store()).in_folder("lake");
    store_in_objects_of(1, &lake, records(0, MANY)).await;
    assert_eq!(server.creates() as u64, MANY);
    // faults lie beside them, and one more stream
    let faulting = Processor::builder("numbers")
        .faults(FaultLake::new(&lake))
        .pipeline("none", |flow| flow.ensure(|_| Err::<(), _>("none will do")))
        .flood_guard(streambreaker::fault::FloodGuard::off())
        .build()
        .unwrap();
    for record in records(0, 3) {
        faulting.process([record]).await;
    }

    // a writer that begins anew adopts those of the last pages, too
    let lake = Lake::new(server.store()).in_folder("lake");
    let (creates, pages) = (server.creates(), server.pages());
    let report = store_in_objects_of(1, &lake, records(MANY - 50, MANY + 1)).await;
    assert_eq!(report.pipelines["store"].done, 51);
    assert_eq!(server.creates() - creates, 1, "only what is new");
    assert!(server.pages() - pages >= 6, "the list has pages: {}", server.pages() - pages);

    let verified = lake.verify("numbers").await.unwrap();
    assert_eq!(
        (verified.objects, verified.records, &*verified.findings),
        (MANY + 1, MANY + 1, &[][..])
    );
    let manifest = lake.manifest("numbers").await.unwrap();
    assert_eq!(manifest.objects.len() as u64, MANY + 1);
    assert_eq!(manifest.covered(&"0".into()).len(), 1, "they join");
    assert_eq!(lake.dry_run(&Selection::of("numbers")).await.unwrap().records, MANY + 1);
    let one = Selection::of("numbers").id((MANY - 1).to_string());
    assert_eq!(lake.dry_run(&one).await.unwrap().records, 1);
    assert_eq!(lake.faults(&FaultSelection::of("numbers")).await.unwrap().faults.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_conditional_puts_nothing_is_stored_and_it_says_so() {
    let server = Server::start().await;
    let disabled = server.builder().with_conditional_put(S3ConditionalPut::Disabled);
    let store = Arc::new(disabled.build().unwrap());
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let error = store.put_opts(&Path::from("x"), "x".into(), options).await.unwrap_err();
    assert!(error.to_string().contains("conditional put is disabled"), "{error}");
    let lake = Lake::new(store);
    let items = records(0, 3);
    let mut log = OutcomeLog::new(items.len());
    assert!(LakeWriter::new(&lake).write(&items, &mut log.outcomes()).await.is_err());
    assert!((0..3).all(|at| !log.is_done(at)));
    assert_eq!(lake.verify("numbers").await.unwrap().objects, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn l2_on_a_server_that_ignores_conditions_one_writer_is_safe_and_two_creators_both_win() {
    let server = Server::start().await.deaf();
    let lake = Lake::new(server.store());
    for _ in 0..2 {
        assert_eq!(store(&lake, records(0, 50)).await.pipelines["store"].done, 50);
    }
    // a position that is taken is seen, for a writer looks before it writes
    let other = Record::new("numbers", "0", Position::from(7), "another");
    let mut log = OutcomeLog::new(1);
    let _ = LakeWriter::new(&lake).write(&[other], &mut log.outcomes()).await;
    assert!(!log.is_done(0));
    let verified = lake.verify("numbers").await.unwrap();
    assert_eq!((verified.records, verified.objects, &*verified.findings), (50, 5, &[][..]));

    // but of two at once both believe to be the first, which is why such a server is no place for a lake
    let (store, path) = (server.store(), Path::from("claim"));
    for by in ["ada", "bob"] {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        assert!(store.put_opts(&path, by.into(), options).await.is_ok());
    }
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "bob");
}

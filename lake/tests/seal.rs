//! Sealed objects and faults: unreadable without the key, whoever changes them is found out, old keys open old objects.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use streambreaker::prelude::*;
use streambreaker::sink::{OutcomeLog, Sink};
use streambreaker::source::{Change, Read, Reader, Room};
use streambreaker::{By, Class, Delivery, Position, Record, RunError, Source, memory};
use streambreaker_lake::{
    Bounds, Damage, FaultLake, FaultSelection, Key, KeyError, KeyProvider, Keys, Lake, LakeError,
    LakeWriter, Selection,
};
use support::{Shaky, TEN, records};

fn old() -> Keys {
    Keys::new("2025", Key::new([1; 32]))
}

fn both() -> Keys {
    old().and("2026", Key::new([2; 32]))
}

async fn write(lake: &Lake, items: &[Record]) -> OutcomeLog {
    let mut log = OutcomeLog::new(items.len());
    let _ = LakeWriter::new(lake).write(items, &mut log.outcomes()).await;
    log
}

/// The key that an object asks for in vain.
fn key_of<T>(result: Result<T, LakeError>) -> KeyError {
    match result {
        Err(LakeError::Sealed { path, source }) => {
            assert!(path.starts_with("stream="), "{path}");
            source
        }
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it opens"),
    }
}

async fn read(lake: &Lake) -> Result<u64, LakeError> {
    Ok(lake.dry_run(&Selection::of("orders")).await?.records)
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(start_paused = true)]
async fn l11_what_is_sealed_is_read_with_its_key_and_not_without() {
    let shaky = Shaky::default();
    let sealed = shaky.lake().with_keys(old());
    // packed, a text of its own stands as it is
    let secret = "q9Zr7LxW2mVb4TnK8sYd";
    let record = Record::new("orders", "0", Position::from(1), secret).with_arrival(TEN);
    assert!(write(&sealed, std::slice::from_ref(&record)).await.is_done(0));
    let path = shaky.paths().await.remove(0);
    assert!(!contains(&shaky.bytes_of(&path).await, secret));
    let open = Shaky::default();
    write(&open.lake(), std::slice::from_ref(&record)).await;
    assert!(contains(&open.bytes_of(&path).await, secret), "the test would see it");

    assert_eq!(read(&sealed).await.unwrap(), 1);
    let without = read(&shaky.lake()).await;
    assert!(matches!(key_of(without), KeyError::NoProvider { id } if id == "2025"));
    let unknown = read(&shaky.lake().with_keys(Keys::new("2026", Key::new([2; 32])))).await;
    assert!(matches!(key_of(unknown), KeyError::Unknown { id } if id == "2025"));
    let wrong = read(&shaky.lake().with_keys(Keys::new("2025", Key::new([9; 32])))).await;
    assert!(matches!(key_of(wrong), KeyError::Wrong { id } if id == "2025"));
    // that it is whole can be seen without a key
    let report = shaky.lake().verify("orders").await.unwrap();
    assert_eq!((report.records, &*report.findings), (1, &[][..]));
    // a replay without a key ends with an error, and not with fewer records
    let processor = Processor::builder("p")
        .faults(memory::faults())
        .pipeline("all", |flow| flow.filter(|_| true))
        .build()
        .unwrap();
    let refused =
        processor.run_from(shaky.lake().replay(Selection::of("orders")), Shutdown::never());
    assert!(matches!(refused.await, Err(RunError::Ended { .. })));
}

#[tokio::test(start_paused = true)]
async fn l11_keys_rotate_and_old_objects_stay_readable() {
    let shaky = Shaky::default();
    let all = records("orders", "0", 0..60);
    write(&shaky.lake(), &all[..20]).await;
    write(&shaky.lake().with_keys(old()), &all[20..40]).await;
    write(&shaky.lake().with_keys(both()), &all[40..]).await;
    assert_eq!(read(&shaky.lake().with_keys(both())).await.unwrap(), 60);
    let unknown = read(&shaky.lake().with_keys(old())).await;
    assert!(matches!(key_of(unknown), KeyError::Unknown { id } if id == "2026"));
    // given up for good it ends nothing: what it sealed is skipped, and told once an object
    let lake = shaky.lake().with_keys(both().forgotten("2025"));
    let counts = lake.dry_run(&Selection::of("orders")).await.unwrap();
    assert_eq!(counts.records, 40);
    let damaged = [(shaky.paths().await.remove(1), Damage::Forgotten("2025".to_owned()))];
    assert_eq!(counts.damaged, damaged);
    assert!(lake.verify("orders").await.unwrap().is_sound(), "that it is whole can still be seen");
}

/// A key service: what it wraps is worth nothing without it.
#[derive(Clone, Default)]
struct Service(Arc<Mutex<BTreeMap<String, [u8; 32]>>>);

#[async_trait]
impl KeyProvider for Service {
    async fn present(&self, _: &str) -> Result<(String, Key), KeyError> {
        let mut wrapped = self.0.lock().unwrap();
        let id = format!("wrapped/{}==#{}", wrapped.len(), "x".repeat(300));
        let key = [wrapped.len() as u8; 32];
        wrapped.insert(id.clone(), key);
        Ok((id, Key::new(key)))
    }

    async fn key(&self, id: &str) -> Result<Key, KeyError> {
        let key = self.0.lock().unwrap().get(id).copied();
        key.map(Key::new).ok_or_else(|| KeyError::Unknown { id: id.to_owned() })
    }
}

#[tokio::test(start_paused = true)]
async fn l11_each_object_may_have_a_data_key_that_a_service_wraps() {
    let (shaky, service) = (Shaky::default(), Service::default());
    let lake = shaky.lake().with_keys(service.clone());
    let all = records("orders", "0", 0..30);
    for items in all.chunks(10) {
        assert!(write(&lake, items).await.is_done(9));
    }
    assert_eq!(service.0.lock().unwrap().len(), 3, "a key an object");
    assert_eq!(read(&lake).await.unwrap(), 30);
    // what is stored already is adopted, whatever key would seal it now
    assert!(write(&lake, &all).await.is_done(29));
    assert_eq!(lake.manifest("orders").await.unwrap().objects.len(), 3);
    let stranger = shaky.lake().with_keys(Service::default());
    assert!(matches!(key_of(read(&stranger).await), KeyError::Unknown { .. }));
}

#[tokio::test(start_paused = true)]
async fn l4_l11_a_record_that_does_not_open_is_read_where_it_lies_anew() {
    let shaky = Shaky::default();
    let all = records("orders", "0", 0..20);
    let opens = shaky.lake().with_keys(both());
    write(&opens, &all).await;
    // the key that it was sealed by is given up; what the stream still has comes again, and is stored anew
    let lake = shaky.lake().with_keys(both().forgotten("2026").and("2027", Key::new([3; 32])));
    assert!(write(&lake, &all[5..10]).await.is_done(4));
    assert_eq!(shaky.paths().await.len(), 2);
    assert_eq!(read(&lake).await.unwrap(), 5);
}

#[tokio::test(start_paused = true)]
async fn l2_l11_the_same_records_make_the_same_sealed_object_and_are_adopted() {
    let (one, two) = (Shaky::default(), Shaky::default());
    let all = records("orders", "0", 0..30);
    for shaky in [&one, &two] {
        write(&shaky.lake().with_keys(old()), &all).await;
    }
    let path = one.paths().await.remove(0);
    assert_eq!(one.bytes_of(&path).await, two.bytes_of(&path).await);
    // adopted by a writer that seals by another key by now
    let log = write(&one.lake().with_keys(both()), &all[10..25]).await;
    assert!((0..15).all(|at| log.is_done(at)));
    assert_eq!(one.paths().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn l1_l5_what_would_be_too_large_when_it_is_sealed_is_not_stored() {
    let shaky = Shaky::default();
    let bounds = Bounds { record_bytes: 100, ..Bounds::default() };
    let lake = shaky.lake().with_bounds(bounds).with_keys(old());
    let of = |position: u64, bytes: usize| {
        Record::new("orders", "0", Position::from(position), vec![b'x'; bytes]).with_arrival(TEN)
    };
    let log = write(&lake, &[of(1, 71), of(2, 72)]).await;
    assert_eq!((log.is_done(0), log.is_done(1)), (true, false));
    assert_eq!(read(&lake).await.unwrap(), 1);
    assert!(lake.verify("orders").await.unwrap().findings.is_empty());
}

struct Flaky(AtomicUsize);

#[async_trait]
impl KeyProvider for Flaky {
    async fn present(&self, stream: &str) -> Result<(String, Key), KeyError> {
        if self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok()
        {
            return Err(KeyError::Unavailable("the key server is away".into()));
        }
        both().present(stream).await
    }

    async fn key(&self, id: &str) -> Result<Key, KeyError> {
        // those of the older one are at hand
        if id == "2026" {
            self.present("").await?;
        }
        both().key(id).await
    }
}

#[tokio::test(start_paused = true)]
async fn l1_l11_a_key_that_is_late_takes_nothing_along_that_was_opened_before() {
    let shaky = Shaky::default();
    let all = records("orders", "0", 0..20);
    let (even, odd): (Vec<Record>, Vec<Record>) =
        all.iter().cloned().partition(|record| record.position().as_u64().unwrap() % 2 == 0);
    // two owners at once, one of whom knows of the new key; both hold the first record
    shaky.hide_new(1);
    write(&shaky.lake().with_keys(old()), &even).await;
    write(&shaky.lake().with_keys(both()), &[&even[..1], &odd].concat()).await;
    shaky.show_all();
    let lake = shaky.lake().with_keys(Flaky(AtomicUsize::new(2)));
    let mut source = lake.replay(Selection::of("orders"));
    let Some(Change::Assigned { mut reader, .. }) = source.next().await.unwrap() else {
        panic!("there is a shard");
    };
    let (mut found, mut failed) = (Vec::new(), 0);
    loop {
        match reader.read(Room { records: 100, bytes: 1 << 20 }).await {
            Ok(Read::Records { records, .. }) => found.extend(records),
            Ok(_) => break,
            Err(_) => failed += 1,
        }
    }
    let found: Vec<_> = found.into_iter().map(|r| r.with_delivery(Delivery::Live)).collect();
    // where something was taken already the read ends with that
    assert_eq!((found, failed), (all, 1));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_cannot_be_had_leaves_records_to_the_stream() {
    let shaky = Shaky::default();
    let lake = shaky.lake().with_keys(Flaky(AtomicUsize::new(1)));
    let all = records("orders", "0", 0..5);
    let mut log = OutcomeLog::new(5);
    let error = LakeWriter::new(&lake).write(&all, &mut log.outcomes()).await.unwrap_err();
    assert_eq!(error.class(), Class::Transient);
    assert!(shaky.paths().await.is_empty(), "nothing is written in the open");
    assert!(write(&lake, &all).await.is_done(4));
}

#[tokio::test(start_paused = true)]
async fn l11_faults_are_sealed_too_and_can_be_sent_again() {
    let shaky = Shaky::default();
    let lake = shaky.lake().with_keys(old());
    let numbers = |bad: bool| {
        Processor::builder("numbers")
            .faults(FaultLake::new(&lake))
            .pipeline("one", move |flow| {
                flow.json::<String>().validate(move |_| if bad { Err("not yet") } else { Ok(()) })
            })
            .build()
            .unwrap()
    };
    let secret = r#""hunter2 hunter2""#;
    numbers(true).process([Record::new("numbers", "0", Position::from(1), secret)]).await;
    let path = shaky.paths().await.remove(0);
    let bytes = shaky.bytes_of(&path).await;
    assert!(!contains(&bytes, "hunter2") && !contains(&bytes, "not yet"));
    let all = FaultSelection::of("numbers");
    let without = shaky.lake().faults(&all).await;
    assert!(matches!(key_of(without), KeyError::NoProvider { .. }));
    let found = lake.faults(&all).await.unwrap();
    assert_eq!(found.faults[0].records[0].record.payload(), secret);

    // whoever changes it is found out
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let at = text.find(r#""sealed":""#).unwrap() + 40;
    let mut changed = bytes.to_vec();
    changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
    shaky.put_bytes(&path, changed).await;
    let found = lake.faults(&all).await.unwrap();
    assert_eq!((found.faults.len(), found.damaged.len()), (0, 1));
    shaky.put_bytes(&path, bytes).await;
    let report = lake.resubmit(all, By::new("ada", "mended")).run(&numbers(false)).await.unwrap();
    assert_eq!(report.succeeded, 1);
}

#[tokio::test(start_paused = true)]
async fn l11_faults_of_a_key_that_is_forgotten_are_told_and_do_not_hide_the_others() {
    let shaky = Shaky::default();
    let fault = |lake: Lake, n: u64| async move {
        let processor = Processor::builder("numbers")
            .faults(FaultLake::new(&lake))
            .pipeline("one", |flow| flow.json::<u64>())
            .build()
            .unwrap();
        processor.process([Record::new("numbers", "0", Position::from(n), "x")]).await;
    };
    fault(shaky.lake().with_keys(old()), 1).await;
    fault(shaky.lake().with_keys(both()), 2).await;
    fault(shaky.lake(), 3).await;
    let all = FaultSelection::of("numbers");

    // one that nobody has said anything of ends the search, and the error says which, where, and what can be done
    let unknown = shaky.lake().with_keys(Keys::new("2026", Key::new([2; 32])));
    let error = key_of(unknown.faults(&all).await);
    assert!(error.to_string().contains("name it as forgotten"), "{error}");

    let lake = shaky.lake().with_keys(both().forgotten("2025"));
    let found = lake.faults(&all).await.unwrap();
    assert_eq!(found.faults.len(), 2);
    let [(path, Damage::Forgotten(id))] = &found.damaged[..] else { panic!("{found:?}") };
    assert_eq!((id.as_str(), path.contains("/kind=fault/")), ("2025", true));
    let mended = Processor::builder("numbers")
        .faults(memory::faults())
        .pipeline("one", |flow| flow.filter(|_| true))
        .build()
        .unwrap();
    let report = lake.resubmit(all, By::new("ada", "mended")).run(&mended).await.unwrap();
    assert_eq!((report.succeeded, report.damaged), (2, 1));
}

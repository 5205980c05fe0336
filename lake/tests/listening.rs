//! Whoever listens to the log, or counts metrics, may ask there and then how far a replay is: nothing of it is locked.

mod support;

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use streambreaker::sink::{OutcomeLog, Sink};
use streambreaker::source::{Change, Read, Reader, Room, Source};
use streambreaker_lake::{LakeWriter, Progress, Selection};
use support::{Shaky, records};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};

/// Asks how far the replay is whenever it hears something, and notes how many objects were damaged then.
#[derive(Clone, Default)]
struct Asks {
    progress: Arc<Mutex<Option<Progress>>>,
    logged: Arc<Mutex<Vec<usize>>>,
    counted: Arc<Mutex<Vec<usize>>>,
}

impl Asks {
    fn note(&self, heard: &Mutex<Vec<usize>>) {
        let progress = self.progress.lock().unwrap().clone();
        if let Some(progress) = progress {
            heard.lock().unwrap().push(progress.counts().damaged.len());
        }
    }
}

impl Subscriber for Asks {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "streambreaker::lake"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        self.note(&self.logged);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Recorder for Asks {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        if key.name() == "streambreaker_lake_damaged_total" {
            self.note(&self.counted);
        }
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// A replay of a lake in which one object cannot be opened, and one that a manifest knows is not what it was.
async fn replay(asks: Asks) -> usize {
    let shaky = Shaky::default();
    let lake = shaky.lake();
    for chunk in records("orders", "0", 0..40).chunks(10) {
        let mut log = OutcomeLog::new(chunk.len());
        LakeWriter::new(&lake).write(chunk, &mut log.outcomes()).await.unwrap();
    }
    let paths = shaky.paths().await;
    let size = shaky.bytes_of(&paths[2]).await.len();
    lake.store_manifest(&lake.manifest("orders").await.unwrap()).await.unwrap();
    shaky.put_bytes(&paths[1], "not Parquet any more").await;
    shaky.put_bytes(&paths[2], vec![0; size]).await;

    let mut source = lake.replay(Selection::of("orders"));
    *asks.progress.lock().unwrap() = Some(source.progress());
    let mut found = 0;
    while let Some(Change::Assigned { mut reader, .. }) = source.next().await.unwrap() {
        loop {
            match reader.read(Room { records: 7, bytes: 1 << 20 }).await.unwrap() {
                Read::Records { records, .. } => found += records.len(),
                Read::Gap { .. } => {}
                _ => break,
            }
        }
    }
    found
}

#[test]
fn whoever_hears_of_damage_may_ask_how_far_it_is() {
    let asks = Asks::default();
    let (listener, (done, watch)) = (asks.clone(), mpsc::channel());
    // apart, so that a lock that is held is a failure, and not a test that never ends
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let found = tracing::subscriber::with_default(listener.clone(), || {
            metrics::with_local_recorder(&listener, || runtime.block_on(replay(listener.clone())))
        });
        done.send(found).unwrap();
    });
    let found = watch.recv_timeout(Duration::from_secs(60)).expect("it hangs, or it panicked");
    assert_eq!(found, 20);
    // each is told when it stands among what is damaged
    assert_eq!(*asks.logged.lock().unwrap(), [1, 2]);
    assert_eq!(*asks.counted.lock().unwrap(), [1, 2]);
}

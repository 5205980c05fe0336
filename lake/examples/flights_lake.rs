//! A file of flights into a lake on disk, and what that costs: the figures of `docs/lake.md`.
//!
//! ```text
//! cargo run --release -p streambreaker-lake --example flights_lake [FILE] [FOLDER] [HOURS]
//! ```
//!
//! FILE is `examples/data/flights.ndjson` unless told, FOLDER `target/flights-lake`, HOURS 720; what is in FOLDER is adopted,
//! not written again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use streambreaker::prelude::*;
use streambreaker::{BoxError, Timestamp, file, memory, shutdown};
use streambreaker_lake::{Lake, LakeWriter, Selection};

/// When an event arrived: as it says.
fn arrival(line: &[u8]) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Stamp {
        timestamp: i64,
    }
    let stamp: Stamp = serde_json::from_slice(line).ok()?;
    Some(Timestamp::from_millis(stamp.timestamp))
}

fn per_second(count: u64, took: Duration) -> String {
    format!("{:.0} a second", count as f64 / took.as_secs_f64().max(1e-9))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("a workspace")?;
    let hours = std::env::args().nth(3).map_or(Ok(24 * 30), |hours| hours.parse())?;
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let raw = args.next().unwrap_or_else(|| package.join("examples/data/flights.ndjson"));
    let folder = args.next().unwrap_or_else(|| package.join("target/flights-lake"));

    let lake = Lake::local(&folder)?;
    let store = Resource::builder("lake").timeout(Duration::from_secs(60)).build()?;
    // 38 flights an hour: an object each hour would hold no more
    let writer = LakeWriter::new(&lake).linger(Duration::from_secs(10)).hours(hours);
    let processor = Processor::builder("lake-writer")
        .source(
            file::Source::open(&raw)
                .stream("flights")
                .shards(4)
                .key_field("partitionKey")
                .arrival_by(arrival),
        )
        .faults(memory::faults())
        // an object is never larger than what may be in flight
        .in_flight(60_000, 256 << 20)
        .pipeline("store", writer.pipeline(&store))
        .build()?;

    let began = Instant::now();
    let report = processor.run(shutdown()).await?;
    let took = began.elapsed();
    println!("{report}");

    let began = Instant::now();
    let verified = lake.verify("flights").await?;
    println!("\n{verified}\nverified in {:.1} s", began.elapsed().as_secs_f64());
    if !verified.is_sound() {
        return Err("the lake is not sound".into());
    }
    let size = std::fs::metadata(&raw)?.len();
    let events = verified.records.max(1);
    println!(
        "raw {} bytes an event, in the lake {} bytes an event, {} objects",
        size / events,
        verified.bytes / events,
        verified.objects
    );
    println!("stored {events} events in {:.1} s: {}", took.as_secs_f64(), per_second(events, took));

    // both through a processor that only counts
    let counting = || {
        Processor::builder("counting")
            .faults(memory::faults())
            .pipeline("count", |flow| {
                flow.filter(|received: &Received| !received.payload().is_empty())
            })
            .build()
    };
    let began = Instant::now();
    let report = counting()?.run_from(lake.replay(Selection::of("flights")), shutdown()).await?;
    let (took, done) = (began.elapsed(), report.pipelines["count"].done);
    println!("replayed {done} events in {:.1} s: {}", took.as_secs_f64(), per_second(done, took));
    let began = Instant::now();
    let source =
        file::Source::open(&raw).stream("flights").key_field("partitionKey").arrival_by(arrival);
    let report = counting()?.run_from(source, shutdown()).await?;
    let (took, done) = (began.elapsed(), report.pipelines["count"].done);
    println!(
        "read the raw file's {done} in {:.1} s: {}",
        took.as_secs_f64(),
        per_second(done, took)
    );
    let began = Instant::now();
    std::io::copy(
        &mut std::fs::File::open(&raw)?,
        &mut std::fs::File::create(folder.join("_copy"))?,
    )?;
    println!("copied the raw file in {:.2} s", began.elapsed().as_secs_f64());
    std::fs::remove_file(folder.join("_copy"))?;

    // a manifest spares opening every object to see what time it is of
    let manifest = lake.manifest("flights").await?;
    lake.store_manifest(&manifest).await?;
    #[derive(Deserialize)]
    struct Id {
        id: String,
    }
    let text = std::fs::read_to_string(&raw)?;
    let middle = text.lines().nth(usize::try_from(events / 2)?).ok_or("an event in the middle")?;
    let Id { id } = serde_json::from_str(middle)?;
    let began = Instant::now();
    let found = lake.dry_run(&Selection::of("flights").id(&*id)).await?;
    let took = began.elapsed().as_secs_f64();
    println!("found {} event of the id {id} in {:.0} ms", found.records, took * 1e3);
    Ok(())
}

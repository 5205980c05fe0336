//! A small lake in which everything occurs that people's own tools meet there: several streams, with names that a disk would
//! confuse, keys and headers that are no text, payloads that are no events, events that came twice or late, a jump in the
//! positions, faults, a ledger, a manifest. For `scripts/lake-tools`.
//!
//! ```text
//! cargo run -p streambreaker-lake --example mixed_lake FOLDER
//! ```

use std::path::PathBuf;
use std::time::Duration;

use streambreaker::prelude::*;
use streambreaker::{BoxError, Record, Timestamp, memory};
use streambreaker_lake::{FaultLake, FaultSelection, Lake, LakeWriter};

const STREAMS: [&str; 3] = ["Orders", "orders", "shop/Ünits 50%"];

/// Record `n` of 60, in three shards.
fn record(stream: &str, n: u64) -> Result<Record, BoxError> {
    let began: Timestamp = "2026-11-01T22:30:00Z".parse()?;
    let happened = began.plus(Duration::from_secs(60 * n));
    // an odd one repeats the event before it
    let (id, kind) = (n / 2, if n % 3 == 0 { "order" } else { "invoice" });
    let payload = match n {
        13 => b"no event".to_vec(),
        14 => b"\xff no text".to_vec(),
        n => format!(
            r#"{{"id":"{stream}-{id}","type":"{kind}","timestamp":{},"n":{n}}}"#,
            happened.as_micros() / 1_000
        )
        .into_bytes(),
    };
    let late = if n % 10 == 0 { 7_200 } else { 1 };
    // 30 and what follows is counted on from a hundred
    let position = if n < 30 { n } else { n + 100 };
    let mut record = Record::new(stream, (n % 3).to_string(), position.into(), payload)
        .with_arrival(happened.plus(Duration::from_secs(late)));
    if n % 2 == 0 {
        let headers: [(&str, &[u8]); 3] = [("tenant", b"acme"), ("x", b"\xff\0"), ("x", b"second")];
        record = record.with_headers(headers.into_iter().collect());
    }
    Ok(match n % 4 {
        0 => record,
        1 => record.with_key(vec![0, 0xff, 0x17]),
        _ => record.with_key(format!("customer-{}", n % 5)),
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).ok_or("say a FOLDER")?;
    let lake = Lake::local(&folder)?;
    let mut records = Vec::new();
    for stream in STREAMS {
        for n in 0..60 {
            records.push(record(stream, n)?);
        }
    }
    let store = Resource::builder("lake").timeout(Duration::from_secs(60)).build()?;
    let writer = Processor::builder("lake-writer")
        .faults(memory::faults())
        .pipeline("store", LakeWriter::new(&lake).pipeline(&store))
        .build()?;
    let stored = writer.process(records.clone()).await.settled.len();
    let numbers = Processor::builder("numbers")
        .faults(FaultLake::new(&lake))
        .pipeline("all", |flow| flow.json::<serde_json::Value>())
        .build()?;
    let faults = numbers.process(records).await.faults.len();
    // the ledger lies there, too
    let by = streambreaker::By::new("ada", "to leave something in the ledger");
    let some = FaultSelection::of(STREAMS[0]);
    println!("{}", lake.resubmit(some, by).most(1).run(&numbers).await?);
    for stream in STREAMS {
        let manifest = lake.manifest(stream).await?;
        lake.store_manifest(&manifest).await?;
        if !lake.verify(stream).await?.is_sound() {
            return Err(format!("{stream} is not sound").into());
        }
    }
    println!("{stored} records, {faults} faults");
    Ok(())
}

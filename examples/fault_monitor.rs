//! Reads the faults of a processor as a stream, and alerts at most once an hour for each kind of fault.
//!
//! `cargo run --example fault_monitor [faults.ndjson] [--follow]`

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streambreaker::fault::FaultEvent;
use streambreaker::prelude::*;
use streambreaker::{BoxError, Timestamp, file, shutdown};

const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (follow, paths): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|a| a == "--follow");
    let path = paths.first().map_or("target/flights/faults.ndjson", String::as_str);
    let pager = Resource::builder("pager").timeout(Duration::from_secs(5)).build()?;
    let alerted: Arc<Mutex<HashMap<String, Timestamp>>> = Arc::default();

    let processor = Processor::builder("fault-monitor")
        .source(file::Source::open(path).follow(!follow.is_empty()))
        // what is no fault event is a fault too, and goes elsewhere: a processor must not read its own
        .faults(file::faults(format!("{path}.unreadable"))?)
        .pipeline("alerts", move |flow| {
            let alerted = alerted.clone();
            flow.decode(|record: &Received| Ok(FaultEvent::from_json(record.payload())?))
                .group_by(
                    |fault| fault.fingerprint.clone(),
                    Window::items(1_000).linger(Duration::from_secs(1)),
                )
                .call(&pager, async move |kind: &Group<String, Event<FaultEvent>>| {
                    let first = &kind.items[0];
                    let mut alerted = alerted.lock().unwrap();
                    if alerted.get(&kind.key).is_none_or(|last| first.timestamp >= last.plus(HOUR))
                    {
                        alerted.insert(kind.key.clone(), first.timestamp);
                        let FaultEvent { class, pipeline, stage, err, .. } = &**first;
                        let (key, name, count) = (&kind.key, &err.name, kind.items.len());
                        println!(
                            "ALERT {key} {class} in {pipeline}/{stage}: {name} ({count} at once)"
                        );
                    }
                    Ok(())
                })
        })
        .build()?;
    println!("{}", processor.run(shutdown()).await?);
    Ok(())
}

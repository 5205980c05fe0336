//! What the other cases do wrong, done right: this one compiles.

use std::sync::Arc;
use std::time::Duration;
use streambreaker::memory::{self, Collect};
use streambreaker::prelude::*;

#[derive(Debug)]
struct MyError;
impl std::fmt::Display for MyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("mine")
    }
}
impl std::error::Error for MyError {}

async fn handler(_: &Event<u32>) -> Result<(), MyError> {
    Err(MyError)
}

fn totals(flow: Flow<Input>, db: &Resource) -> Flow<impl Stage<Out = ()> + use<>> {
    flow.json::<u32>().call(db, async |n: &Event<u32>| Ok(handler(n).await?))
}

fn main() {
    let db = Resource::builder("db").timeout(Duration::from_secs(1)).build().unwrap();
    let shared = Arc::new(1);
    let _ = Processor::builder("p")
        .faults(memory::faults())
        .pipeline("totals", {
            let db = db.clone();
            move |flow| totals(flow, &db)
        })
        .pipeline("search", move |flow| {
            let shared = shared.clone();
            flow.json::<u32>()
                .map(|n| *n)
                .call(&db, async move |n| {
                    "1".parse::<u32>()?;
                    Ok(n + *shared)
                })
                .bulk_write(&db, Collect::<u32>::new())
        })
        .build();
}

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

/// What a `?` makes is found without being named, whatever the shape of the closure.
fn shapes(flow: Flow<Input>, db: &Resource) -> Flow<impl Stage<Out = Vec<u32>> + use<>> {
    flow.json::<u32>()
        .with(2, db, async |n| Ok(n.to_string().parse::<u32>()?))
        .parallel(2, db, async |(n, twice): &(Event<u32>, u32)| match **n {
            1 => Err(MyError.into()),
            2 => Err("two").fault(),
            3 => Ok(handler(n).await.map(|()| 0)?),
            _ => Ok(*twice),
        })
        .parallel_by_key(2, |n| *n, db, async |n| {
            for digit in n.to_string().chars() {
                if digit == '7' {
                    return Ok(vec![*n]);
                }
                digit.to_string().parse::<u8>()?;
            }
            let all = (0..*n).collect();
            Ok(all)
        })
}

fn main() {
    let _ = shapes;
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

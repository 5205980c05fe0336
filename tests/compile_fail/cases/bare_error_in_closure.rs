//! The same in a closure: its type is checked against the bound before any trait of ours is asked, so what can be
//! shown is the name of the type that is wanted.

//~ expected `StepError`, found `MyError`

use streambreaker::prelude::*;

#[derive(Debug)]
struct MyError;
impl std::fmt::Display for MyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("mine")
    }
}
impl std::error::Error for MyError {}

async fn write(_: &Event<u32>) -> Result<(), MyError> {
    Err(MyError)
}

fn totals(flow: Flow<Input>, db: &Resource) -> Flow<impl Stage<Out = ()> + use<>> {
    flow.json::<u32>().call(db, async |n: &Event<u32>| write(n).await)
}

fn main() {
    let _ = totals;
}

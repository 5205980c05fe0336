//! The same in a closure.

//~ a handler returns `Result<_, StepError>`, not `Result<(), MyError>`
//~ an error of your own becomes a `StepError` by `?`

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

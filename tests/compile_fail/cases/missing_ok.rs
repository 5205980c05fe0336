//! A handler that returns nothing.

//~ a handler returns `Result<_, StepError>`, not `()`
//~ a handler that has nothing to return ends with `Ok(())`

use streambreaker::prelude::*;

async fn handler(n: &Event<u32>) {
    let _ = **n;
}

fn totals(flow: Flow<Input>, db: &Resource) -> Flow<impl Stage<Out = ()> + use<>> {
    flow.json::<u32>().call(db, handler)
}

fn main() {
    let _ = totals;
}

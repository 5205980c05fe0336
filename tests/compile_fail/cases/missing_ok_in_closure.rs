//! The same in a closure.

//~ a handler returns `Result<_, StepError>`, not `()`
//~ a handler that has nothing to return ends with `Ok(())`

use streambreaker::prelude::*;

fn totals(flow: Flow<Input>, db: &Resource) -> Flow<impl Stage<Out = ()> + use<>> {
    flow.json::<u32>().call(db, async |n: &Event<u32>| {
        let _ = **n;
    })
}

fn main() {
    let _ = totals;
}

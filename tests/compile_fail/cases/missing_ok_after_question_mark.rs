//! The same where a `?` shows that a `Result` is meant: the compiler says so in its own words, too.

//~ a handler returns `Result<_, StepError>`, not `()`
//~ a handler that has nothing to return ends with `Ok(())`

use streambreaker::prelude::*;

fn totals(flow: Flow<Input>, db: &Resource) -> Flow<impl Stage<Out = ()> + use<>> {
    flow.json::<u32>().call(db, async |n: &Event<u32>| {
        n.to_string().parse::<u32>()?;
    })
}

fn main() {
    let _ = totals;
}

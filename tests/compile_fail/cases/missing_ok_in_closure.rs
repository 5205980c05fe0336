//! The same in a closure; see `bare_error_in_closure`.

//~ expected `Result<_, StepError>`, found `()`

use streambreaker::prelude::*;

fn totals(flow: Flow<Input>, db: &Resource) -> Flow<impl Stage<Out = ()> + use<>> {
    flow.json::<u32>().call(db, async |n: &Event<u32>| {
        n.to_string().parse::<u32>()?;
    })
}

fn main() {
    let _ = totals;
}

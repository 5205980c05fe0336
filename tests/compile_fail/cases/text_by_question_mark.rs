//! A `?` on what is no error type, here text.

//~ no `std::error::Error`: say what is to be done about it, as in `.fault()?` or `.transient()?`

use streambreaker::prelude::*;

fn check(n: u32) -> Result<(), String> {
    if n > 0 { Ok(()) } else { Err("not above zero".into()) }
}

fn totals(flow: Flow<Input>, db: &Resource) -> Flow<impl Stage<Out = ()> + use<>> {
    flow.json::<u32>().call(db, async |n: &Event<u32>| Ok(check(**n)?))
}

fn main() {
    let _ = totals;
}

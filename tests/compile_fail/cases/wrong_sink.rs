//! A sink for another item.

//~ `Collect<String>` does not write items of type `Event<u32>`
//~ `map` them to what it takes

use streambreaker::memory::Collect;
use streambreaker::prelude::*;

fn totals(flow: Flow<Input>, db: &Resource) -> Flow<impl Stage + use<>> {
    flow.json::<u32>().bulk_write(db, Collect::<String>::new())
}

fn main() {
    let _ = totals;
}

//! A capture that is not `Send`.

//~ `Rc<u32>` cannot be
//~ lanes run on any thread: `Arc` for `Rc`, `Mutex` for `RefCell`
//~ required by this bound in `ProcessorBuilder::pipeline`

use std::rc::Rc;
use streambreaker::memory;
use streambreaker::prelude::*;

fn build(db: Resource) {
    let _ = Processor::builder("p")
        .faults(memory::faults())
        .pipeline("totals", move |flow| {
            let cache = Rc::new(1);
            flow.json::<u32>().call(&db, async move |n: &Event<u32>| Ok(**n + *cache))
        })
        .build();
}

fn main() {
    let _ = build;
}

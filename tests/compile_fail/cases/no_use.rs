//! A flow function without `use<>`: its flow borrows the resource. Lifetimes are checked when all traits have been asked,
//! and no attribute reaches there: the words are in the documentation of the crate and of `pipeline`.

//~ returning this value requires that `'1` must outlive `'2`
//~ return type of closure `streambreaker::Flow<impl streambreaker::Stage<Out = ()>>` contains a lifetime

use streambreaker::memory;
use streambreaker::prelude::*;

fn totals(flow: Flow<Input>, db: &Resource) -> Flow<impl Stage<Out = ()>> {
    flow.json::<u32>().call(db, async |_| Ok(()))
}

fn build(db: Resource) {
    let _ = Processor::builder("p")
        .faults(memory::faults())
        .pipeline("totals", move |flow| totals(flow, &db))
        .build();
}

fn main() {
    let _ = build;
}

//! The stack of a fault names lines of the component, not of this crate.

#![allow(clippy::unwrap_used)] // a test that cannot go on may panic

use std::time::Duration;

use streambreaker::prelude::*;
use streambreaker::{Processor, memory};

#[tokio::test(start_paused = true)]
async fn a_fault_names_the_line_of_a_handler_and_none_of_ours() {
    let faults = memory::faults();
    let db = Resource::builder("db").timeout(Duration::from_secs(1)).build().unwrap();
    let processor = Processor::builder("p")
        .source(memory::stream(["not JSON", r#""x""#]))
        .faults(faults.clone())
        .pipeline("all", move |flow| {
            flow.json::<String>().call(&db, async |text: &Event<String>| Ok(text.parse::<u64>()?))
        })
        .build()
        .unwrap();
    processor.run(Shutdown::never()).await.unwrap();

    let stack = |stage: &str| {
        let found = faults.events().into_iter().find(|fault| fault.stage == stage);
        found.unwrap().err.stack
    };
    assert!(stack("call").contains(&format!("at {}:", file!())), "{}", stack("call"));
    assert!(!stack("json").contains(".rs:"), "{}", stack("json"));
    assert!(stack("json").contains("caused by: expected"), "{}", stack("json"));
}

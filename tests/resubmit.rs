//! What a resubmission asks of the engine: a faulted group comes back as a group, to its pipeline and only there, and
//! the caller is told of the faults.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use streambreaker::prelude::*;
use streambreaker::{Delivery, Record, memory};

fn orders(group: usize, sizes: &Arc<Mutex<Vec<usize>>>, fails: bool) -> Processor {
    let guard = Resource::builder("table").timeout(Duration::from_secs(1)).build().unwrap();
    let sizes = sizes.clone();
    Processor::builder("orders")
        .faults(memory::faults())
        .pipeline("totals", move |flow| {
            let sizes = sizes.clone();
            flow.json::<u64>().group_by(|_| 0u8, Window::items(group)).call(
                &guard,
                async move |group: &Group<u8, Event<u64>>| {
                    sizes.lock().unwrap().push(group.items.len());
                    if fails { Err("no such table").fault() } else { Ok(()) }
                },
            )
        })
        .formerly("sums")
        .pipeline("other", |flow| flow.json::<u64>())
        .build()
        .unwrap()
}

fn records() -> Vec<Record> {
    (0..9u64).map(|n| Record::new("s", "0", n.into(), n.to_string())).collect()
}

#[tokio::test(start_paused = true)]
async fn l8_a_group_comes_back_whole_although_groups_have_become_smaller() {
    let sizes = Arc::default();
    let outcome = orders(9, &sizes, true).process(records()).only("totals").await;
    assert_eq!((outcome.faulted.len(), outcome.faults.len()), (9, 1));
    let fault = outcome.faults[0];
    let again: Vec<Record> = records()
        .into_iter()
        .map(|record| {
            let part = streambreaker::PartPath::whole();
            record.with_delivery(Delivery::Resubmit { fault, attempt: 1, part, run: None })
        })
        .collect();
    sizes.lock().unwrap().clear();
    // live ones go by the new limit
    orders(2, &sizes, false).process(records()).only("totals").await;
    assert_eq!(*sizes.lock().unwrap(), [2, 2, 2, 2, 1]);
    sizes.lock().unwrap().clear();
    let outcome = orders(2, &sizes, false).process(again.clone()).only("totals").await;
    assert_eq!(*sizes.lock().unwrap(), [9]);
    assert_eq!((outcome.settled.len(), outcome.faults.len()), (9, 0));
    // what fails again is another fault, and the same one each time
    let ids = [
        orders(2, &sizes, true).process(again.clone()).only("totals").await.faults,
        orders(2, &sizes, true).process(again).only("totals").await.faults,
    ];
    assert_eq!(ids[0], ids[1]);
    assert_ne!(ids[0], [fault]);
}

#[test]
fn a_processor_knows_the_pipelines_it_has_and_had() {
    let processor = orders(2, &Arc::default(), false);
    assert_eq!(processor.name(), "orders");
    assert!(processor.has_pipeline("totals") && processor.has_pipeline("sums"));
    assert!(!processor.has_pipeline("total"));
}

//! The example ends, and is right, the first time and the second.

#![allow(clippy::unwrap_used)] // a test may

mod support;

#[path = "../examples/orders.rs"]
#[allow(dead_code)] // its `main`
mod orders;

use std::collections::BTreeMap;

use support::*;

#[tokio::test]
async fn orders_ends_with_the_totals_and_goes_on_behind_what_is_settled() {
    let server = Server::start();
    let url = format!("nats://{}", server.address());
    // 100 for the first order, 100 more for each one after it; the tenth and the twentieth are bad
    let mut expected = BTreeMap::new();
    for n in (0..20).filter(|n| n % 10 != 9) {
        *expected.entry(["ada", "bob", "eve"][n % 3].to_owned()).or_default() +=
            n as u64 * 100 + 100;
    }
    for (read, faulted, totals) in [(20, 2, expected), (0, 0, BTreeMap::new())] {
        let run = tokio::time::timeout(PATIENCE, orders::run(&url));
        let (report, found) = run.await.expect("it ends").unwrap();
        let all = &report.pipelines["totals"];
        assert_eq!((all.read, all.faulted, report.unsettled()), (read, faulted, 0), "{report}");
        assert_eq!(found, totals);
    }
    let faults = server.context().await.get_stream("FAULTS").await.unwrap();
    assert_eq!(faults.cached_info().state.messages, 2);

    let nobody = free();
    let error = orders::run(&format!("nats://{nobody}")).await.unwrap_err().to_string();
    assert!(error.contains("start one with `nats-server -js`"), "{error}");
}

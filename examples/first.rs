//! The program of the README: orders are decoded, checked, and written through a guarded resource.

use std::time::Duration;

use streambreaker::prelude::*;
use streambreaker::{BoxError, memory};

#[derive(serde::Deserialize)]
struct Order {
    customer: String,
    cents: i64,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let ledger = Resource::builder("ledger").timeout(Duration::from_millis(800)).build()?;
    let processor = Processor::builder("orders")
        .source(memory::stream([
            r#"{"type":"order","customer":"ann","cents":1250}"#,
            r#"{"type":"order","customer":"bob","cents":-1}"#,
            r#"{"type":"order","customer":"ann""#,
            r#"{"type":"invoice","total":7}"#,
        ]))
        .faults(memory::faults())
        .pipeline("totals", move |flow| {
            flow.of_type("order")
                .json::<Order>()
                .validate(|order: &Order| if order.cents > 0 { Ok(()) } else { Err("not a price") })
                .parallel(16, &ledger, async |order: &Event<Order>| {
                    println!("{} pays {}", order.customer, order.cents);
                    Ok(())
                })
        })
        .build()?;
    println!("{}", processor.run(Shutdown::never()).await?);
    Ok(())
}

//! A test bed for components: feed events, run to the end, and look at what became of each.
//!
//! A [`TestBed`] holds events and the pipelines under test. [`run`](TestBed::run) drives a whole processor over a
//! stream in memory, as in production, until every event is settled; [`Ran`] then says what became of each event,
//! which faults there are, and what was done ([`Effects`]). A failed assertion shows what differs.
//!
//! Delivery is at least once and in no order that a handler may rely on. So the same events can be fed *twice* and
//! *shuffled*, and [`same_however_fed`] holds it against a component that its tables end the same
//! ([`same_however_late`] where disorder has a limit). [`Flaky`] makes
//! sinks and handlers fail as real ones do.
//!
//! All of it goes by tokio's paused time: `#[tokio::test(start_paused = true)]`.
//!
//! ```
//! use std::time::Duration;
//!
//! use streambreaker::Fate::{Done, Faulted, Filtered};
//! use streambreaker::prelude::*;
//! use streambreaker_testkit::bed::{Effects, TestBed};
//!
//! #[derive(serde::Deserialize)]
//! struct Order {
//!     customer: String,
//!     cents: i64,
//! }
//!
//! // of the component: a pipeline as a function
//! fn totals(flow: Flow<Input>, paid: Effects<(String, i64)>, db: &Resource) -> Flow<impl Stage<Out = ()> + use<>> {
//!     flow.of_type("order")
//!         .json::<Order>()
//!         .validate(|order: &Order| if order.cents > 0 { Ok(()) } else { Err("not a price") })
//!         .call(db, async move |order: &Event<Order>| {
//!             paid.note((order.customer.clone(), order.cents));
//!             Ok(())
//!         })
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! # tokio::time::pause();
//! let (paid, db) = (Effects::new(), Resource::builder("db").timeout(Duration::from_secs(1)).build().unwrap());
//! let noted = paid.clone();
//! let ran = TestBed::new()
//!     .feed([
//!         r#"{"type":"order","customer":"ann","cents":1250}"#,
//!         r#"{"type":"order","customer":"bob","cents":-1}"#,
//!         r#"{"type":"invoice","total":7}"#,
//!     ])
//!     .pipeline("totals", move |flow| totals(flow, noted.clone(), &db))
//!     .run()
//!     .await;
//!
//! ran.assert_fates("totals", [Done, Faulted, Filtered]);
//! assert_eq!(ran.fault_of("totals", 1).stage, "validate");
//! paid.assert_in_order([("ann".to_owned(), 1250)]);
//! # }
//! ```

mod differ;
mod effects;
mod feed;
mod flaky;
mod ran;
mod same;
mod tap;

pub use self::effects::Effects;
pub use self::feed::TestBed;
pub use self::flaky::{Flaky, Troubles};
pub use self::ran::Ran;
pub use self::same::{same_however_fed, same_however_late};
pub use crate::suite::source::Message;

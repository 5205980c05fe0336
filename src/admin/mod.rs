//! A small HTTP listener for operators and probes (feature `admin`): liveness, readiness, status, metrics, and
//! the switches of a [`Handle`](crate::Handle).
//!
//! | request | answer |
//! |---|---|
//! | `GET /livez` | 200, or 503 when one of the processor's own tasks has died: restart the process |
//! | `GET /readyz` | 200 while it runs and takes events, else 503 |
//! | `GET /status` | the [`Status`](crate::Status) as JSON |
//! | `GET /metrics` | what the [`Recorder`] holds, in the text format of Prometheus |
//! | `POST /pipelines/{name}/pause`, `…/resume` | [`Handle::pause`](crate::Handle::pause), [`Handle::resume`](crate::Handle::resume) |
//! | `POST /pipelines/{name}/flood_guard` | [`Handle::flood_guard`](crate::Handle::flood_guard): the fields of [`FloodConfig`](crate::config::FloodConfig); what is not named stays as it is, and one that is switched on again is as it was built |
//! | `POST /resources/{name}/breaker` | [`Handle::breaker`](crate::Handle::breaker): `{"control": "open"}`, `"close"` or `"auto"` |
//! | `POST /resources/{name}/on_open` | [`Handle::on_open`](crate::Handle::on_open): `{"on_open": "fault"}`, `"pause"` or `"siphon"` |
//! | `POST /resources/{name}/siphon` | [`Handle::siphon`](crate::Handle::siphon): `{"on": true}` or `false` |
//! | `POST /skip` | [`Handle::skip`](crate::Handle::skip): `{"shard": "0", "position": "42"}`; the answer says in which `pipelines` it is set aside, or that it is `when_it_comes`; 409 where it is settled |
//!
//! Each POST also takes `who` and `why`, both mandatory: they stand in the audit line. What is wrong is
//! answered by a status of 4xx and `{"error": …}`, which says what is accepted.
//!
//! ```
//! use streambreaker::prelude::*;
//! use streambreaker::{Processor, admin, memory};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let recorder = admin::recorder()?;                     // before the first metric
//! let processor = Processor::builder("numbers")
//!     .source(memory::stream(["1", "2"]))
//!     .faults(memory::faults())
//!     .pipeline("all", |flow| flow.json::<u64>())
//!     .build()?;
//! let listener = admin::Listener::bind("127.0.0.1:0").metrics(recorder).await?;
//! let serving = listener.spawn(processor.handle());      // until it is dropped
//! processor.run(Shutdown::never()).await?;
//! serving.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//! curl -X POST localhost:9464/resources/db/breaker -H 'content-type: application/json' \
//!      -d '{"control": "open", "who": "ada", "why": "the database is being moved"}'
//! ```
//!
//! # Who may ask
//!
//! Whoever reaches the listener: it has no authentication and no encryption, so it is off unless it is bound, refuses
//! addresses that are not of the loopback unless told otherwise ([`Bind::allow_any_address`]), and may be a Unix
//! socket, where the file system says who may connect ([`Listener::bind_unix`]).
//!
//! The kubelet's probes and a Prometheus come from outside of the pod's loopback. Give them a listener that turns no
//! switches ([`Bind::read_only`], with [`Bind::allow_any_address`]) and those who operate the component a Unix socket of
//! their own: one processor may have several listeners.
//!
//! A web page in the browser of somebody who can reach the loopback must not get at it either. So a request is
//! refused whose `Host` is a name that was not allowed (a name can be rebound to 127.0.0.1, an IP address
//! cannot), and so is a switch that comes with an `Origin`, or not as `application/json` (which a page of
//! another origin cannot send unasked).
//!
//! # What it costs
//!
//! One task, and one for each connection, of which there are at most 32, each of one request and at most
//! 10 s long; heads up to 16 KiB, bodies up to 64 KiB. It never touches what events pass through.

mod connection;
mod guard;
mod listener;
mod recorder;
mod reply;
mod route;
#[cfg(unix)]
mod socket;
mod switch;

pub use self::listener::{AdminError, Bind, Listener, Serving};
pub use self::recorder::{Recorder, recorder};

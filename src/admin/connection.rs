//! One connection: one request, within limits, and its answer.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::guard::{self, Hosts};
use super::reply::Reply;
use super::route::{Look, Route};
use super::switch;
use crate::processor::Handle;

/// Of the request line and all headers.
const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// Of the body of a switch.
const MAX_BODY: usize = 64 << 10;
/// From the first byte to the last; nothing that is asked for takes long.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// What is under way when the listener is dropped may go on for so long.
const GRACE: Duration = Duration::from_secs(2);

/// Gives the text for `/metrics`.
pub(super) type Render = Arc<dyn Fn() -> String + Send + Sync>;

/// What all connections share.
pub(super) struct App {
    pub(super) handle: Handle,
    pub(super) hosts: Hosts,
    pub(super) read_only: bool,
    pub(super) metrics: Option<Render>,
}

/// Serves one request.
///
/// # Cancel safety
/// Dropping it closes the connection; a switch is turned whole or not at all.
pub(super) async fn serve<IO>(io: IO, app: Arc<App>, stop: CancellationToken)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let until = Instant::now() + TIMEOUT;
    let service = service_fn(|request| {
        let app = app.clone();
        async move { Ok::<_, Infallible>(app.answer(request, until).await) }
    });
    // one request a connection: then one limit covers idling, slow heads, slow bodies and slow readers
    let connection = http1::Builder::new()
        .keep_alive(false)
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        // garbage, a reset or a limit: the peer's affair, and nothing that a log should be filled with
        _ = timeout_at(until, connection.as_mut()) => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = timeout_at(until.min(Instant::now() + GRACE), connection).await;
        }
    }
}

impl App {
    async fn answer(&self, request: Request<Incoming>, until: Instant) -> Response<Full<Bytes>> {
        let reply = match self.try_answer(request, until).await {
            Ok(reply) | Err(reply) => reply,
        };
        reply.into_response()
    }

    async fn try_answer(&self, request: Request<Incoming>, until: Instant) -> Result<Reply, Reply> {
        let (head, body) = request.into_parts();
        let route = Route::of(&head.method, head.uri.path())?;
        if self.read_only && matches!(route, Route::Turn(_)) {
            return Err(Reply::error(
                StatusCode::FORBIDDEN,
                "this listener turns no switches; accepted: GET /livez, /readyz, /status, /metrics",
            ));
        }
        guard::check(&head, &self.hosts)?;
        match route {
            Route::Look(look) => Ok(self.look(look)),
            Route::Turn(turn) => {
                let body = collect(body, until).await?;
                Ok(switch::turn(&self.handle, &turn, &body))
            }
        }
    }

    fn look(&self, look: Look) -> Reply {
        let code = |good| if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        match look {
            Look::Live => {
                let live = self.handle.live();
                Reply::json(code(live), &json!({ "live": live }))
            }
            Look::Ready => {
                let ready = self.handle.ready();
                Reply::json(code(ready), &json!({ "ready": ready }))
            }
            Look::Status => Reply::json(StatusCode::OK, &self.handle.status()),
            Look::Metrics => match &self.metrics {
                Some(render) => Reply::text(render()),
                None => Reply::error(
                    StatusCode::NOT_FOUND,
                    "no recorder: give one to the listener by `metrics`",
                ),
            },
        }
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("handle", &self.handle).finish_non_exhaustive()
    }
}

async fn collect<B>(body: B, until: Instant) -> Result<Bytes, Reply>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // some time is left to say so
    let until = until - TIMEOUT / 5;
    match timeout_at(until, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Reply::error(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("accepted: a body of at most {MAX_BODY} bytes"),
        )),
        Ok(Err(_)) => Err(Reply::error(StatusCode::BAD_REQUEST, "the body could not be read")),
        Err(_) => Err(Reply::error(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not come within {} s", (TIMEOUT - TIMEOUT / 5).as_secs()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;
    use crate::processor::Processor;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::task::JoinHandle;

    fn connect(stop: &CancellationToken) -> (DuplexStream, JoinHandle<()>) {
        let processor = Processor::builder("p")
            .faults(memory::faults())
            .pipeline("all", |flow| flow.json::<u64>())
            .build()
            .expect("valid");
        let hosts = Hosts::Known(Vec::new());
        let app =
            Arc::new(App { handle: processor.handle(), hosts, read_only: false, metrics: None });
        let (ours, theirs) = tokio::io::duplex(256);
        (ours, tokio::spawn(serve(theirs, app, stop.clone())))
    }

    async fn rest(client: &mut DuplexStream) -> String {
        let mut text = String::new();
        client.read_to_string(&mut text).await.expect("ends in order");
        text
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_or_half_a_head_is_cut_off_at_the_limit() {
        for half in ["", "GET /livez HTTP/1.1\r\nHost: local"] {
            let began = Instant::now();
            let (mut client, server) = connect(&CancellationToken::new());
            client.write_all(half.as_bytes()).await.expect("there is room");
            server.await.expect("no panic");
            assert_eq!(began.elapsed().as_secs(), TIMEOUT.as_secs(), "{half}");
            assert_eq!(rest(&mut client).await, "");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_told_so() {
        let (mut client, server) = connect(&CancellationToken::new());
        let head = "POST /skip HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                    Content-Length: 100\r\n\r\n{\"who\"";
        client.write_all(head.as_bytes()).await.expect("there is room");
        let answer = rest(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        server.await.expect("no panic");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_cut_off_at_the_limit() {
        let began = Instant::now();
        let (mut client, server) = connect(&CancellationToken::new());
        client.write_all(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("room");
        // the pipe holds less than the answer
        let _ = client.read_u8().await;
        server.await.expect("no panic");
        assert_eq!(began.elapsed().as_secs(), TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_listener_is_dropped_what_is_under_way_is_answered_and_the_rest_is_closed() {
        let stop = CancellationToken::new();
        let (mut idle, idling) = connect(&stop);
        let (mut busy, serving) = connect(&stop);
        let body = r#"{"who": "ada", "why": "a test"}"#;
        let head = format!(
            "POST /pipelines/all/pause HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        busy.write_all(head.as_bytes()).await.expect("there is room");
        tokio::time::sleep(Duration::from_millis(1)).await;
        let began = Instant::now();
        stop.cancel();
        tokio::time::sleep(Duration::from_secs(1)).await;
        busy.write_all(body.as_bytes()).await.expect("still there");
        let answer = rest(&mut busy).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(rest(&mut idle).await, "");
        serving.await.expect("no panic");
        idling.await.expect("no panic");
        assert!(began.elapsed() <= GRACE + Duration::from_millis(1));
    }
}

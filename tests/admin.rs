//! The listener for operators and probes, over real sockets. Its time limits are tested in paused time beside it.
#![cfg(feature = "admin")]

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use streambreaker::admin::{self, AdminError, Listener, Serving};
use streambreaker::fault::FloodGuard;
use streambreaker::memory::{self, Stream};
use streambreaker::prelude::*;
use streambreaker::{Processor, Trigger};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

mod heard;

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }
}

/// Sends bytes as they are, and takes what comes until the other side closes.
async fn exchange<IO: AsyncRead + AsyncWrite + Unpin>(mut io: IO, bytes: &[u8]) -> Option<Answer> {
    // a server that has heard enough may close before all is sent
    let _ = io.write_all(bytes).await;
    let mut text = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(n @ 1..) = io.read(&mut chunk).await {
        text.extend_from_slice(&chunk[..n]);
    }
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
}

async fn raw(at: SocketAddr, bytes: &[u8]) -> Option<Answer> {
    exchange(TcpStream::connect(at).await.unwrap(), bytes).await
}

async fn get(at: SocketAddr, path: &str) -> Answer {
    raw(at, format!("GET {path} HTTP/1.1\r\nHost: {at}\r\n\r\n").as_bytes()).await.unwrap()
}

fn posted(path: &str, host: &str, more: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n{more}Content-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

async fn post_text(at: SocketAddr, path: &str, body: &str) -> Answer {
    let json = "Content-Type: application/json; charset=utf-8\r\n";
    raw(at, &posted(path, "localhost", json, body)).await.unwrap()
}

async fn post(at: SocketAddr, path: &str, mut body: Value) -> Answer {
    body["who"] = "ada".into();
    body["why"] = "a test".into();
    post_text(at, path, &body.to_string()).await
}

struct Running {
    at: SocketAddr,
    serving: Serving,
    trigger: Trigger,
    run: tokio::task::JoinHandle<u64>,
    stream: Stream,
}

fn processor(stream: &Stream) -> Processor {
    let db = Resource::builder("orders/db")
        .timeout(Duration::from_secs(1))
        .retry(Retry::none())
        .breaker(Breaker::failure_ratio(0.5).on_open(OnOpen::Fault))
        .build()
        .unwrap();
    Processor::builder("p")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .flood_guard(FloodGuard::ratio(0.4))
        .pipeline("all", move |flow| {
            flow.json::<u64>().call(
                &db,
                async |n: &Event<u64>| {
                    if **n == 4 { Err("never").transient() } else { Ok(()) }
                },
            )
        })
        .build()
        .unwrap()
}

async fn start() -> Running {
    let stream = Stream::new("numbers", 1);
    let processor = processor(&stream);
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let serving = listener.spawn(processor.handle());
    let at = serving.local_addr().unwrap();
    let (trigger, shutdown) = Shutdown::by_hand();
    let run =
        tokio::spawn(async move { processor.run(shutdown).await.unwrap().pipelines["all"].done });
    Running { at, serving, trigger, run, stream }
}

/// Asks until the status is as wanted: what a processor does takes a few turns.
async fn until(at: SocketAddr, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..5_000 {
        let status = get(at, "/status").await.json();
        if wanted(&status) {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn probes_follow_the_life_of_the_processor() {
    let stream = Stream::new("numbers", 1);
    let processor = processor(&stream);
    let serving = Listener::bind("localhost:0").await.unwrap().spawn(processor.handle());
    let at = serving.local_addr().unwrap();
    assert_eq!(get(at, "/livez").await.status, 200);
    let ready = get(at, "/readyz").await;
    assert_eq!((ready.status, ready.json()), (503, json!({"ready": false})));
    let (trigger, shutdown) = Shutdown::by_hand();
    let run = tokio::spawn(async move { processor.run(shutdown).await });
    until(at, "ready", |status| status["ready"] == true).await;
    let ready = get(at, "/readyz").await;
    assert_eq!((ready.status, ready.json()), (200, json!({"ready": true})));
    trigger.pull();
    run.await.unwrap().unwrap();
    assert_eq!(get(at, "/readyz").await.status, 503);
    let live = get(at, "/livez").await;
    assert_eq!((live.status, live.json()), (200, json!({"live": true})));
    assert!(live.head.contains("content-type: application/json"), "{}", live.head);
    assert!(live.head.contains("cache-control: no-store"), "{}", live.head);
    let head = format!("HEAD /livez HTTP/1.1\r\nHost: {at}\r\n\r\n");
    let head = raw(at, head.as_bytes()).await.unwrap();
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    serving.stop().await;
    assert!(TcpStream::connect(at).await.is_err());
}

#[tokio::test]
async fn switches_are_turned_and_say_who_and_why() {
    let heard = heard::Heard::default();
    let _listening = heard.listen();
    let Running { at, serving, trigger, run, stream } = start().await;
    let none = || json!({});
    assert_eq!(post(at, "/pipelines/all/pause", none()).await.json(), json!({"done": true}));
    until(at, "paused", |status| status["pipelines"]["all"]["paused"] == true).await;
    assert_eq!(post(at, "/pipelines/all/resume", none()).await.status, 200);
    let breaker = "/resources/orders%2Fdb/breaker";
    for (control, shown, state) in [
        ("open", "held_open", "open"),
        ("close", "held_closed", "closed"),
        ("auto", "auto", "closed"),
    ] {
        assert_eq!(post(at, breaker, json!({ "control": control })).await.status, 200);
        let status = get(at, "/status").await.json();
        let breaker = &status["resources"][0]["breaker"];
        assert_eq!((&breaker["control"], &breaker["state"]), (&json!(shown), &json!(state)));
    }
    let on_open = json!({"on_open": "siphon"});
    assert_eq!(post(at, "/resources/orders%2Fdb/on_open", on_open).await.status, 200);
    let status = get(at, "/status").await.json();
    assert_eq!(status["resources"][0]["breaker"]["on_open"], "siphon");
    // off, it is as it was built again, whatever was turned before
    let siphon = "/resources/orders%2Fdb/siphon";
    for (on, control, on_open) in [(true, "held_open", "siphon"), (false, "auto", "fault")] {
        assert_eq!(post(at, siphon, json!({ "on": on })).await.status, 200);
        let breaker = &get(at, "/status").await.json()["resources"][0]["breaker"];
        assert_eq!((&breaker["control"], &breaker["on_open"]), (&json!(control), &json!(on_open)));
    }
    post(at, breaker, json!({"control": "close"})).await;
    post(at, breaker, json!({"control": "auto"})).await;
    let guard = json!({"ratio": 0.9, "cool_down": "1s"});
    assert_eq!(post(at, "/pipelines/all/flood_guard", guard).await.status, 200);
    // off and on again, it is as it was built
    for enabled in [false, true] {
        let guard = json!({ "enabled": enabled });
        assert_eq!(post(at, "/pipelines/all/flood_guard", guard).await.status, 200);
    }
    for n in 0..10u64 {
        stream.push(n.to_string());
    }
    let stuck = until(at, "stuck", |status| status["lanes"][0]["waits_for"] == "restart").await;
    let lane = &stuck["lanes"][0];
    let skip = json!({"shard": lane["shard"], "position": lane["oldest"]});
    let skipped = post(at, "/skip", skip.clone()).await.json();
    assert_eq!(skipped, json!({"done": true, "pipelines": ["all"]}));
    until(at, "skipped", |status| status["pipelines"]["all"]["done"] == 9).await;
    until(at, "all settled", |status| status["in_flight_records"] == 0).await;
    let settled = post(at, "/skip", skip).await;
    assert_eq!(settled.status, 409);
    assert!(settled.error().contains("is settled already"), "{}", settled.body);
    let later = json!({"shard": "0", "position": "4711"});
    assert_eq!(post(at, "/skip", later).await.json(), json!({"done": true, "when_it_comes": true}));
    trigger.pull();
    assert_eq!(run.await.unwrap(), 9);
    serving.stop().await;
    let audits: Vec<_> =
        heard.lines().into_iter().filter(|line| line.target == "streambreaker::audit").collect();
    let switches: Vec<&str> = audits.iter().map(|line| line.field("switch")).collect();
    assert_eq!(
        switches,
        [
            "\"pause\"",
            "\"resume\"",
            "\"breaker\"",
            "\"breaker\"",
            "\"breaker\"",
            "\"on_open\"",
            "\"siphon\"",
            "\"siphon\"",
            "\"breaker\"",
            "\"breaker\"",
            "\"flood_guard\"",
            "\"flood_guard\"",
            "\"flood_guard\"",
            "\"skip\"",
            "\"skip\""
        ]
    );
    assert!(audits.iter().all(|line| line.field("who") == "ada" && line.field("why") == "a test"));
    let guard = audits[10].field("value");
    assert!(guard.contains("90 %") && guard.contains("1s") && guard.contains("1000"), "{guard}");
    assert!(audits[11].field("value").contains("off"), "{}", audits[11].field("value"));
    assert!(audits[12].field("value").contains("40 %"), "{}", audits[12].field("value"));
}

#[tokio::test]
async fn an_audit_line_cannot_be_forged() {
    let heard = heard::Heard::default();
    let _listening = heard.listen();
    let running = start().await;
    let body = json!({"who": "ada\nINFO all is well", "why": "\u{1b}[2Ja test"}).to_string();
    assert_eq!(post_text(running.at, "/pipelines/all/pause", &body).await.status, 200);
    let line = heard.with("a switch was turned").remove(0);
    assert!(line.fields.values().all(|value| !value.contains(char::is_control)), "{line:?}");
    assert!(line.field("who").contains(r"ada\nINFO"), "{line:?}");
    running.trigger.pull();
    running.run.await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_is_answered_by_what_is_accepted() {
    let Running { at, serving: _serving, trigger, run, .. } = start().await;
    let pause = "/pipelines/all/pause";
    let breaker = "/resources/orders%2Fdb/breaker";
    let flood = "/pipelines/all/flood_guard";
    let deep = "[".repeat(10_000);
    let long = json!({"who": "a".repeat(1_001), "why": "b"}).to_string();
    for (path, body, status, says) in [
        (pause, "", 400, "\"who\" and \"why\""),
        (pause, "{", 400, "not a JSON object"),
        (pause, "[]", 400, "not a JSON object"),
        (pause, "\u{feff}{}", 400, "not a JSON object"),
        (pause, &deep, 400, "not a JSON object"),
        (pause, "{}", 400, "`who` must"),
        (pause, r#"{"who": "ada"}"#, 400, "`why` must"),
        (pause, r#"{"who": "ada", "why": " "}"#, 400, "`why` must"),
        (pause, r#"{"who": 1, "why": "b"}"#, 400, "`who` must"),
        (pause, &long, 400, "at most 1000"),
        (pause, r#"{"who": "a", "why": "b", "when": "c"}"#, 400, "unknown field `when`"),
        (breaker, r#"{"who": "a", "why": "b"}"#, 400, "missing field `control`"),
        (breaker, r#"{"who": "a", "why": "b", "control": "shut"}"#, 400, "`open`, `close`, `auto`"),
        (flood, r#"{"who": "a", "why": "b"}"#, 400, "nothing to change"),
        (flood, r#"{"who": "a", "why": "b", "ratio": 7}"#, 400, "a number from 0 to 1"),
        (flood, r#"{"who": "a", "why": "b", "cool_down": "30"}"#, 400, "800ms"),
        ("/pipelines/al/pause", r#"{"who": "a", "why": "b"}"#, 404, "there is all"),
        (
            "/resources/db/on_open",
            r#"{"who": "a", "why": "b", "on_open": "fault"}"#,
            404,
            "orders/db",
        ),
        ("/resources/db/on_open", r#"{"who": "a", "why": "b", "on_open": "no"}"#, 400, "`siphon`"),
        (
            "/resources/orders%2Fdb/siphon",
            r#"{"who": "a", "why": "b", "on": 1}"#,
            400,
            "true or false",
        ),
        ("/skip", r#"{"who": "a", "why": "b", "shard": "9", "position": "1"}"#, 404, "shard"),
        ("/skip", r#"{"who": "a", "why": "b", "shard": "0", "position": ""}"#, 400, "position"),
        ("/skip/", "{}", 404, "/resources/{name}/breaker"),
        ("/livez", "{}", 405, "GET"),
    ] {
        let answer = post_text(at, path, body).await;
        let shown = &body[..body.len().min(80)];
        assert_eq!(answer.status, status, "{path} {shown}: {}", answer.body);
        assert!(answer.error().contains(says), "{path} {shown}: {}", answer.body);
    }
    let answer = get(at, pause).await;
    assert_eq!(answer.status, 405);
    assert!(answer.head.contains("allow: post"), "{}", answer.head);
    assert_eq!(get(at, "/metrics").await.status, 404);
    assert_eq!(get(at, "/status").await.json()["pipelines"]["all"]["paused"], false);
    trigger.pull();
    run.await.unwrap();
}

#[tokio::test]
async fn a_web_page_can_neither_read_nor_turn() {
    let Running { at, serving: _serving, trigger, run, .. } = start().await;
    let json = "Content-Type: application/json\r\n";
    let body = r#"{"who": "mallory", "why": "because"}"#;
    let pause = "/pipelines/all/pause";
    let origin = format!("{json}Origin: http://localhost\r\n");
    for (request, status) in [
        (b"GET /status HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_vec(), 421),
        (b"GET /status HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n".to_vec(), 400),
        (b"GET /status HTTP/1.1\r\n\r\n".to_vec(), 400),
        (b"GET http://evil.example/status HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), 421),
        (b"GET /status HTTP/1.0\r\nHost: evil.example\r\n\r\n".to_vec(), 421),
        (posted(pause, "evil.example:9464", json, body), 421),
        (posted(pause, "localhost", &origin, body), 403),
        (posted(pause, "localhost", "", body), 415),
        (posted(pause, "localhost", "Content-Type: text/plain\r\n", body), 415),
        (
            posted(pause, "localhost", "Content-Type: application/x-www-form-urlencoded\r\n", body),
            415,
        ),
        (
            b"OPTIONS /skip HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n"
                .to_vec(),
            405,
        ),
    ] {
        let answer = raw(at, &request).await.unwrap();
        assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(&request));
        assert!(!answer.head.contains("access-control"), "{}", answer.head);
    }
    assert_eq!(get(at, "/status").await.json()["pipelines"]["all"]["paused"], false);
    trigger.pull();
    run.await.unwrap();
}

#[tokio::test]
async fn a_read_only_listener_shows_all_and_turns_nothing() {
    // where the audit line is first said while nobody listens, a test that begins to listen then may miss its own
    let heard = heard::Heard::default();
    let _listening = heard.listen();
    let stream = Stream::new("numbers", 1);
    let processor = processor(&stream);
    let bind = Listener::bind("127.0.0.1:0").read_only().metrics_by(|| "a 1\n".to_owned());
    let serving = bind.await.unwrap().spawn(processor.handle());
    let at = serving.local_addr().unwrap();
    for path in ["/livez", "/status", "/metrics"] {
        assert_eq!(get(at, path).await.status, 200, "{path}");
    }
    let refused = post(at, "/pipelines/all/pause", json!({})).await;
    assert_eq!(refused.status, 403);
    assert!(refused.error().contains("GET /livez"), "{}", refused.error());
    assert_eq!(get(at, "/status").await.json()["pipelines"]["all"]["paused"], false);

    // a second listener of the same processor turns them
    let other = Listener::bind("127.0.0.1:0").await.unwrap().spawn(processor.handle());
    let turned = post(other.local_addr().unwrap(), "/pipelines/all/pause", json!({})).await;
    assert_eq!(turned.status, 200, "{}", turned.body);
    assert_eq!(get(at, "/status").await.json()["pipelines"]["all"]["paused"], true);
}

#[tokio::test]
async fn only_the_loopback_unless_told_otherwise() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let error = Listener::bind(address).await.unwrap_err();
        assert!(matches!(error, AdminError::NotLoopback { .. }), "{error}");
        assert!(error.to_string().contains("allow_any_address"), "{error}");
    }
    for address in ["", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:http\n"] {
        let error = Listener::bind(address).await.unwrap_err();
        assert!(matches!(error, AdminError::Bind { .. }), "{error}");
    }
    let first = Listener::bind("127.0.0.1:0").await.unwrap();
    let taken = first.local_addr().unwrap().to_string();
    let error = Listener::bind(&taken).await.unwrap_err();
    assert!(error.to_string().contains(&taken), "{error}");

    let stream = Stream::new("numbers", 1);
    let any = Listener::bind("0.0.0.0:0").allow_any_address().allow_host("orders.internal");
    let serving = any.await.unwrap().spawn(processor(&stream).handle());
    let at = SocketAddr::from(([127, 0, 0, 1], serving.local_addr().unwrap().port()));
    for (host, status) in [("orders.internal", 200), ("10.9.8.7:80", 200), ("other.internal", 421)]
    {
        let request = format!("GET /livez HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(raw(at, request.as_bytes()).await.unwrap().status, status, "{host}");
    }
}

#[tokio::test]
async fn metrics_are_rendered_with_the_questions_they_answer() {
    let recorder = admin::recorder().unwrap();
    assert!(admin::recorder().is_ok(), "the second call gives the same");
    let stream = Stream::new("numbers", 2);
    for n in 0..20u64 {
        stream.push(n.to_string());
    }
    stream.close();
    let processor = Processor::builder("rendered")
        .source(stream.consumer("g"))
        .faults(memory::faults())
        .pipeline("all", |flow| flow.json::<u64>())
        .build()
        .unwrap();
    let listener = Listener::bind("127.0.0.1:0").metrics(recorder.clone()).await.unwrap();
    let serving = listener.spawn(processor.handle());
    processor.run(Shutdown::never()).await.unwrap();
    let answer = get(serving.local_addr().unwrap(), "/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    let text = answer.body;
    assert!(text.contains("# TYPE streambreaker_records_total counter"), "{text}");
    assert!(
        text.contains("# HELP streambreaker_records_total What became of the records?"),
        "{text}"
    );
    let done: Vec<&str> = text
        .lines()
        .filter(|l| l.starts_with("streambreaker_records_total{") && l.contains("\"rendered\""))
        .collect();
    assert_eq!(done.len(), 1, "{text}");
    assert!(done[0].contains("fate=\"done\"") && done[0].ends_with(" 20"), "{}", done[0]);
    assert_eq!(recorder.render().contains("rendered"), text.contains("rendered"));

    let own = Listener::bind("127.0.0.1:0").metrics_by(|| "up 1\n".to_owned()).await.unwrap();
    let own = own.spawn(processor.handle());
    assert_eq!(get(own.local_addr().unwrap(), "/metrics").await.body, "up 1\n");
}

#[tokio::test]
async fn garbage_is_refused_and_the_listener_goes_on() {
    let Running { at, serving: _serving, trigger, run, .. } = start().await;
    let json = "Content-Type: application/json\r\n";
    let long = "a".repeat(100_000);
    let many: String = (0..1_000).map(|n| format!("x-{n}: y\r\n")).collect();
    let chunked = format!(
        "POST /skip HTTP/1.1\r\nHost: localhost\r\n{json}Transfer-Encoding: chunked\r\n\r\n186A0\r\n{long}\r\n0\r\n\r\n"
    );
    let mut noise = 7u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (noise >> 24) as u8
    })
    .take(4_000)
    .chain(*b"\r\n\r\n")
    .collect();
    let cases: [(&str, Vec<u8>, &[u16]); 9] = [
        ("noise", noise, &[400]),
        ("nearly nothing", b"GET\r\n\r\n".to_vec(), &[400]),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), &[400]),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), &[400, 505]),
        (
            "a long path",
            format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n").into(),
            &[414, 431],
        ),
        (
            "a long header",
            format!("GET / HTTP/1.1\r\nHost: localhost\r\nx: {long}\r\n\r\n").into(),
            &[431],
        ),
        ("many headers", format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n").into(), &[431]),
        ("a long body", posted("/skip", "localhost", json, &long), &[413]),
        ("a long body in chunks", chunked.into(), &[413]),
    ];
    for (what, bytes, expected) in cases {
        // a server that closes with bytes unread resets the connection, which may outrun its answer
        if let Some(answer) = raw(at, &bytes).await {
            assert!(expected.contains(&answer.status), "{what}: {}", answer.status);
        }
        assert_eq!(get(at, "/livez").await.status, 200, "after {what}");
    }
    let not_utf8 = b"GET /status HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n";
    assert_eq!(raw(at, not_utf8).await.unwrap().status, 421);
    trigger.pull();
    run.await.unwrap();
}

#[tokio::test]
async fn connections_are_bounded_and_each_takes_one_request() {
    let stream = Stream::new("numbers", 1);
    let listener = Listener::bind("127.0.0.1:0").max_connections(2).await.unwrap();
    let serving = listener.spawn(processor(&stream).handle());
    let at = serving.local_addr().unwrap();
    let first = TcpStream::connect(at).await.unwrap();
    let _second = TcpStream::connect(at).await.unwrap();
    let mut third = TcpStream::connect(at).await.unwrap();
    let request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    third.write_all(request).await.unwrap();
    let mut byte = [0; 1];
    let early = tokio::time::timeout(Duration::from_millis(300), third.peek(&mut byte)).await;
    assert!(early.is_err(), "two connections were allowed, and the third was served");
    drop(first);
    assert_eq!(exchange(third, b"").await.unwrap().status, 200);

    let twice = [&request[..], &request[..]].concat();
    let answer = raw(at, &twice).await.unwrap();
    assert!(!answer.body.contains("HTTP/1.1"), "{}", answer.body);
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_is_its_users_alone_and_replaces_only_what_is_dead() {
    use std::os::unix::fs::PermissionsExt;
    use tokio::net::UnixStream;

    let dir = std::env::temp_dir().join(format!("streambreaker-admin-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("admin.sock");
    let _ = std::fs::remove_file(&path);
    // what a dead process leaves behind
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let stream = Stream::new("numbers", 1);
    let processor = processor(&stream);
    let serving = Listener::bind_unix(&path).await.unwrap().spawn(processor.handle());
    assert_eq!(serving.local_addr(), None);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let request = b"GET /livez HTTP/1.1\r\nHost: any-name\r\n\r\n";
    let answer = exchange(UnixStream::connect(&path).await.unwrap(), request).await.unwrap();
    assert_eq!(answer.status, 200);

    let source = |error| match error {
        AdminError::Bind { source, .. } => source.kind(),
        other => panic!("{other}"),
    };
    let error = Listener::bind_unix(&path).await.unwrap_err();
    assert_eq!(source(error), io::ErrorKind::AddrInUse);
    let file = dir.join("precious");
    std::fs::write(&file, "kept").unwrap();
    let error = Listener::bind_unix(&file).await.unwrap_err();
    assert_eq!(source(error), io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");

    serving.stop().await;
    assert!(!path.exists(), "it is removed in the end");
    let listener = Listener::bind_unix(&path).await.unwrap();
    // a successor has put its own there
    std::fs::remove_file(&path).unwrap();
    let successor = std::os::unix::net::UnixListener::bind(&path).unwrap();
    drop(listener);
    assert!(path.exists(), "the successor's socket is not touched");
    drop(successor);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn dropping_what_serves_closes_the_listener() {
    let stream = Stream::new("numbers", 1);
    let handle = processor(&stream).handle();
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let serving = tokio::spawn(listener.serve(handle));
    assert_eq!(get(at, "/livez").await.status, 200);
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    assert!(TcpStream::connect(at).await.is_err());
}

//! Who, when, why and how many: every command that changes something leaves a line. Those of switches are left by the process
//! that runs.
//!
//! Each test listens: whoever says a line first decides whether it is made at all.

#[path = "../../tests/heard/mod.rs"]
mod heard;
mod support;

use std::time::Duration;

use heard::{Heard, Line};
use streambreaker::Shutdown;
use streambreaker::admin::Listener;
use streambreaker::memory::Stream;
use streambreaker_operator::{Exit, Task};
use support::{Keeps, World};

const BY: [&str; 4] = ["--why", "round numbers are\u{1b}[2J orders, too", "--who", "ada"];

#[track_caller]
fn audit(heard: &Heard, message: &str) -> Line {
    let mut lines = heard.with(message);
    assert_eq!(lines.len(), 1, "{:?}", heard.lines());
    let line = lines.remove(0);
    assert_eq!((&*line.target, line.field("who")), ("streambreaker::audit", "\"ada\""));
    assert_eq!(line.field("why"), r#""round numbers are\u{1b}[2J orders, too""#);
    line
}

#[tokio::test]
async fn a_replay_leaves_an_audit_line() {
    let heard = Heard::default();
    let _listening = heard.listen();
    let world = World::new(Keeps::Lake);
    world.store().await;
    world.ask(&["replay"]).await;
    assert!(heard.with("records were replayed").is_empty(), "a dry run changes nothing");
    let sent = world.ask(&[&["replay", "--id", "7", "--send"], &BY[..]].concat()).await;
    assert_eq!(sent.exit, Exit::Done, "{}", sent.err);
    assert!(sent.out.contains("orders ran for"), "{}", sent.out);
    let line = audit(&heard, "records were replayed");
    assert_eq!((line.field("records"), line.field("stream")), ("1", "\"orders\""));
    assert_eq!(world.take_done(), ["search:7", "totals:7"]);
}

#[tokio::test]
async fn a_repair_leaves_an_audit_line() {
    let heard = Heard::default();
    let _listening = heard.listen();
    let world = World::new(Keeps::Lake);
    world.store().await;
    let gap = ["repair", "--shard", "1", "--from", "15", "--to", "19"];
    world.ask(&gap).await;
    assert!(heard.with("records were replayed").is_empty(), "a dry run changes nothing");
    world.ask(&[&gap[..], &["--send"], &BY].concat()).await;
    let line = audit(&heard, "records were replayed");
    assert_eq!((line.field("records"), line.field("stream")), ("2", "\"orders\""));
    assert_eq!(world.take_done(), ["search:15", "search:17", "totals:15", "totals:17"]);
}

#[tokio::test]
async fn a_resubmission_leaves_an_audit_line() {
    let heard = Heard::default();
    let _listening = heard.listen();
    let world = World::with_faults(Keeps::Lake).await;
    world.mend();
    let kinds = world.ask(&["faults", "group", "--json"]).await.json();
    let fingerprint = kinds["kinds"][0]["fingerprint"].as_str().unwrap().to_owned();
    let words = ["resubmit", "--fingerprint", &fingerprint, "--max", "3"];
    assert_eq!(world.ask(&words).await.exit, Exit::Done);
    assert!(heard.with("faults were resubmitted").is_empty(), "a dry run changes nothing");
    let send = [&words[..], &["--send"], &BY].concat();
    let sent = world.ask(&send).await;
    assert_eq!(sent.exit, Exit::Done, "{}", sent.err);
    assert!(sent.out.contains("3 sent") && sent.out.contains("there are more"), "{}", sent.out);
    assert_eq!(world.take_done().len(), 3);
    assert_eq!(audit(&heard, "faults were resubmitted").field("sent"), "3");
    let sent = world.ask(&send).await;
    assert!(sent.out.contains("1 sent") && sent.out.contains("3 settled before"), "{}", sent.out);
}

#[tokio::test]
async fn dismissals_leave_an_audit_line() {
    let heard = Heard::default();
    let _listening = heard.listen();
    let world = World::with_faults(Keeps::File).await;
    let words = ["faults", "dismiss", "--stage", "json"];
    world.ask(&words).await;
    assert!(heard.with("faults were dismissed").is_empty(), "a dry run changes nothing");
    world.ask(&[&words[..], &["--yes"], &BY].concat()).await;
    assert_eq!(audit(&heard, "faults were dismissed").field("dismissed"), "2");
}

#[tokio::test]
async fn every_switch_leaves_an_audit_line_in_the_process_that_runs() {
    let heard = Heard::default();
    let _listening = heard.listen();
    let world = World::new(Keeps::File);
    let stream = Stream::new("orders", 1);
    let component = world.component(Task::Run).unwrap().source(stream.consumer("g"));
    let processor = component.build().unwrap();
    let serving = Listener::bind("127.0.0.1:0").await.unwrap().spawn(processor.handle());
    let url = format!("http://{}", serving.local_addr().unwrap());
    let (trigger, shutdown) = Shutdown::by_hand();
    let handle = processor.handle();
    let run = tokio::spawn(async move { processor.run(shutdown).await.unwrap() });
    while !handle.ready() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let switches: [(&[&str], [&str; 3]); 9] = [
        (&["pause", "totals"], ["pause", "totals", ""]),
        (&["resume", "totals"], ["resume", "totals", ""]),
        (&["breaker", "index", "open"], ["breaker", "index", "Open"]),
        (&["breaker", "index", "auto"], ["breaker", "index", "Auto"]),
        (&["siphon", "on", "index"], ["siphon", "index", "on"]),
        (&["siphon", "off", "index"], ["siphon", "index", "off"]),
        (&["flood-guard", "off", "search"], ["flood_guard", "search", "off"]),
        (&["flood-guard", "on", "search"], ["flood_guard", "search", ""]),
        (&["skip", "--shard", "0", "--position", "7"], ["skip", "0", "7"]),
    ];
    for (at, (words, [switch, on, value])) in switches.into_iter().enumerate() {
        let turned = world.ask(&[words, &["--url", &url], &BY].concat()).await;
        assert_eq!(turned.exit, Exit::Done, "{words:?}: {}", turned.err);
        let lines = heard.with("a switch was turned");
        assert_eq!(lines.len(), at + 1, "{words:?}");
        let line = &lines[at];
        assert_eq!(line.target, "streambreaker::audit");
        assert!(line.field("switch").contains(switch), "{line:?}");
        assert!(line.field("on").contains(on) && line.field("value").contains(value), "{line:?}");
        assert_eq!(line.field("who"), "ada");
        assert!(line.field("why").starts_with("round numbers are"), "{line:?}");
        assert!(!line.field("why").contains(char::is_control), "{line:?}");
    }
    trigger.pull();
    run.await.unwrap();
    serving.stop().await;
}

//! A session of somebody who operates the component, by the program itself: the database is away, and everything goes on
//! without it; then what was set aside is sent again, and the stream replayed into a fresh view.
#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

mod support;
use support::{RULES, expected};

struct Session {
    data: PathBuf,
    config: PathBuf,
}

impl Session {
    fn new() -> Self {
        let data = Path::new(env!("CARGO_TARGET_TMPDIR")).join("orders-session");
        let _ = fs::remove_dir_all(&data);
        fs::create_dir_all(&data).unwrap();
        // the path of a Unix socket may have a hundred characters only
        let socket =
            std::env::temp_dir().join(format!("orders-session-{}.sock", std::process::id()));
        let config = data.join("config.toml");
        fs::write(&config, format!("[admin]\nsocket = {socket:?}\n")).unwrap();
        Self { data, config }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orders"));
        command.args(words).arg("--data").arg(&self.data).arg("--config").arg(&self.config);
        command
    }

    #[track_caller]
    fn ends(&self, code: i32, words: &[&str]) -> Output {
        let output = self.command(words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        output
    }

    /// The one document of JSON that stands on standard output.
    #[track_caller]
    fn json(&self, words: &[&str]) -> Value {
        let output = self.ends(0, &[words, &["--json"]].concat());
        let said = String::from_utf8_lossy(&output.stdout);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{words:?}: {e}: {said}"))
    }

    #[track_caller]
    fn until(&self, what: &str, is: impl Fn(&Value) -> bool) {
        let began = Instant::now();
        loop {
            let asked = self.command(&["status", "--json"]).output().unwrap();
            let status: Value = serde_json::from_slice(&asked.stdout).unwrap_or_default();
            if is(&status) {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "not {what}: {status}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.data.join("events.ndjson")).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.data.join(name)).unwrap()
    }
}

/// A child that does not outlive a test that fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const BY: [&str; 4] = ["--why", "the database is restored", "--who", "ada"];

#[test]
fn what_was_set_aside_is_sent_again_and_the_stream_is_replayed_into_a_fresh_view() {
    let session = Session::new();
    session.ends(0, &["generate", "--orders", "20", "--seed", "5", "--poison", "0.05"]);
    let lines = session.lines();
    let expected = expected(&lines, RULES);

    // the component runs, and its database is taken away before the first event comes
    fs::write(session.data.join("events.ndjson"), "").unwrap();
    let child = session.command(&["run"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut running = Running(child.unwrap());
    session.until("ready", |status| status["ready"] == true);
    session.ends(2, &["siphon", "on", "store"]);
    session.ends(0, &[&["siphon", "on", "store"], &BY[..]].concat());
    fs::write(session.data.join("events.ndjson"), lines.join("\n") + "\n").unwrap();
    let read = |status: &Value, pipeline: &str| {
        let pipeline = &status["pipelines"][pipeline];
        let settled =
            ["done", "filtered", "faulted"].map(|fate| pipeline[fate].as_u64().unwrap_or(0));
        settled.iter().sum::<u64>()
    };
    let all = lines.len() as u64;
    session.until("set aside", |s| read(s, "rules") == all && read(s, "view") == all);
    session.ends(0, &[&["siphon", "off", "store"], &BY[..]].concat());
    let kill = Command::new("kill").arg(running.0.id().to_string()).status().unwrap();
    assert!(kill.success());
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
    session.ends(1, &["status"]);

    // what was set aside, and why
    let kinds = session.json(&["faults", "group"]);
    let kinds = kinds["kinds"].as_array().unwrap();
    let aside: u64 = kinds
        .iter()
        .filter(|kind| kind["class"] == "circuit_open")
        .map(|kind| kind["count"].as_u64().unwrap())
        .sum();
    assert!(aside > 100, "{kinds:?}");
    let poison: usize = expected.poison.values().map(|lines| lines.len()).sum();
    let broken = kinds.iter().filter(|kind| kind["class"] == "fault");
    let broken: u64 = broken.map(|kind| kind["count"].as_u64().unwrap()).sum();
    assert_eq!(broken, poison as u64);

    // it is sent again, once
    let which = ["resubmit", "--class", "circuit_open"];
    let (faults, database) = (session.bytes("faults.ndjson"), session.bytes("orders.db"));
    let dry = session.json(&which);
    assert_eq!(dry["streams"]["order-events"]["sent"], aside);
    assert_eq!(session.bytes("faults.ndjson"), faults);
    assert_eq!(session.bytes("orders.db"), database);
    let send = [&which[..], &["--send"], &BY].concat();
    let sent = session.json(&send);
    assert_eq!(sent["streams"]["order-events"]["succeeded"], aside, "{sent}");
    assert_eq!(session.json(&send)["streams"]["order-events"]["settled_before"], aside);
    assert_eq!(support::view(&session.data.join("orders.db")).unwrap(), expected.view);

    // what is left is no order
    let open = session.json(&["faults", "ls", "--open", "--limit", "1000"]);
    assert_eq!(open["total"], poison);
    session.ends(0, &[&["faults", "dismiss", "--class", "fault", "--yes"], &BY[..]].concat());
    assert_eq!(session.json(&["faults", "ls", "--open"])["total"], 0);

    // the stream is stored, and replayed into a fresh view
    session.ends(0, &["store", "--once"]);
    assert_eq!(session.json(&["lake", "verify"])["sound"], true);
    let fresh = session.data.join("fresh.db");
    let replay = ["replay", "--pipeline", "view", "--database", fresh.to_str().unwrap()];
    assert_eq!(session.json(&replay)["records"], all);
    let published = session.bytes("published.ndjson");
    let sent = session.json(&[&replay[..], &["--send"], &BY].concat());
    assert_eq!(sent["report"]["pipelines"]["view"]["read"], all);
    assert_eq!(support::view(&fresh).unwrap(), expected.view);
    assert_eq!(session.bytes("published.ndjson"), published, "a replay publishes nothing");

    // one event, from the lake
    let id = serde_json::from_str::<Value>(&lines[0]).unwrap()["id"].clone();
    let found = session.json(&["lake", "grep", "--id", id.as_str().unwrap(), "--limit", "1"]);
    assert_eq!(found["payload"], json!(lines[0]));
}

//! The component as a process: exit codes, kills, probes, switches.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use streambreaker::fault::FaultEvent;
use streambreaker::file;

mod support;
use support::{RULES, Said, expected, faulted};

fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("orders").join(name);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    directory
}

fn orders(data: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orders"));
    command.args(words).arg("--data").arg(data);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn run(data: &Path, words: &[&str]) -> Output {
    orders(data, words).output().unwrap()
}

fn succeeds(data: &Path, words: &[&str]) {
    let output = run(data, words);
    assert!(output.status.success(), "{:?}: {}", output.status, text(&output.stderr));
}

fn lines(data: &Path) -> Vec<String> {
    let text = fs::read_to_string(data.join("events.ndjson")).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn faults(data: &Path) -> Vec<FaultEvent> {
    // a line that a kill cut off was never confirmed, and comes again behind it
    file::read_faults(data.join("faults.ndjson")).unwrap().filter_map(Result::ok).collect()
}

/// Ids, and what they say of which order.
fn published(data: &Path) -> (BTreeSet<String>, Said) {
    let (mut ids, mut said) = (BTreeSet::new(), Said::new());
    for line in fs::read_to_string(data.join("published.ndjson")).unwrap_or_default().lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        let word = |name: &str| event[name].as_str().unwrap().to_owned();
        ids.insert(word("id"));
        said.insert((word("type"), word("partitionKey")));
    }
    (ids, said)
}

fn database(data: &Path) -> PathBuf {
    data.join("orders.db")
}

#[test]
fn i4_a_demo_ends_with_what_an_independent_computation_finds() {
    let data = directory("demo");
    succeeds(&data, &["demo", "--seed", "11", "--orders", "300"]);
    let (lines, (ids, said)) = (lines(&data), published(&data));
    let expected = expected(&lines, RULES);
    assert_eq!(said, expected.said);
    assert_eq!(ids.len(), said.len());
    assert_eq!(support::view(&database(&data)).unwrap(), expected.view);
    for pipeline in ["rules", "view"] {
        assert_eq!(faulted(&faults(&data), pipeline), expected.poison[pipeline], "{pipeline}");
    }
    // other events are not written over these
    let other = run(&data, &["demo", "--seed", "12", "--orders", "300"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(text(&other.stderr).contains("by --data"), "{}", text(&other.stderr));
    // once more from the beginning: the same ids, the same tables
    fs::remove_file(data.join("orders.checkpoint")).unwrap();
    let once: BTreeSet<_> = faults(&data).iter().map(|fault| fault.id).collect();
    succeeds(&data, &["demo", "--seed", "11", "--orders", "300"]);
    assert_eq!(published(&data).0, ids);
    assert_eq!(support::view(&database(&data)).unwrap(), expected.view);
    // (the ids of faults hold when a line arrived, which of a line that does not say is when the file was opened first)
    assert!(faults(&data).iter().filter(|fault| once.contains(&fault.id)).count() > once.len());
}

/// Waits for something that another process does; a minute is more than any machine takes.
fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let began = Instant::now();
    while !reached() {
        assert!(began.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(unix)]
#[test]
fn s6_killed_at_any_moment_and_run_again_it_ends_with_the_same_tables_and_the_same_news() {
    use std::os::unix::process::ExitStatusExt;

    let (data, undisturbed) = (directory("killed"), directory("undisturbed"));
    // a life that is killed on purpose says nothing about the events
    let config = data.join("config.toml");
    fs::write(&config, "follow = false\n[engine.processor]\nmax_deliveries = 10000\n").unwrap();
    let config = config.to_str().unwrap();
    let made = ["--seed", "12", "--orders", "400"];
    succeeds(&data, &[&["generate"], &made[..]].concat());
    succeeds(&undisturbed, &[&["demo"], &made[..]].concat());
    let (all, _) = published(&undisturbed);

    let (mut killed, mut amidst) = (0, 0);
    let mut life = |until: &dyn Fn() -> bool| {
        let mut child = orders(&data, &["run", "--config", config])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while !until() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        if child.wait().unwrap().signal() == Some(9) {
            killed += 1;
            amidst += usize::from((1..all.len()).contains(&published(&data).0.len()));
        }
    };
    for so_far in [1, 60, 120, 180, 240, 300, 360] {
        life(&|| published(&data).0.len() >= so_far);
    }
    for millis in [3, 20, 40, 60, 90, 120] {
        let began = Instant::now();
        life(&|| began.elapsed() >= Duration::from_millis(millis));
    }
    assert!(killed > 0 && amidst > 0, "{killed} were killed, {amidst} with half the work done");

    succeeds(&data, &["run", "--config", config]);
    assert_eq!(published(&data), published(&undisturbed), "after {killed} kills");
    let view = |data: &Path| support::view(&database(data)).unwrap();
    assert_eq!(view(&data), view(&undisturbed));
    assert_eq!(view(&data), expected(&lines(&data), RULES).view);
    for pipeline in ["rules", "view"] {
        let of = |data: &Path| faulted(&faults(data), pipeline);
        assert_eq!(of(&data), of(&undisturbed), "{pipeline}");
    }
}

#[test]
fn mistakes_end_with_2_and_say_where_and_what_is_accepted() {
    let data = directory("mistakes");
    let config = data.join("config.toml");
    for (toml, parts) in [
        ("[engine.processor]\ndrian = '5s'", &["engine.processor.drian", "`drain`"][..]),
        (
            "[engine.resources.stor]\ntimeout = '5s'",
            &["resources is `stor`", "accepted: one of store, bus"],
        ),
        ("[engine.pipelines.rules.stages.evaluat]\nn = 5", &["evaluat", "evaluate"]),
        ("[engine.resources.bus]\ntimeout = '0s'", &["`bus`: timeout is zero", "above zero"]),
        ("[log]\nfilter = 'loud=?'", &["log.filter", "warn,streambreaker=info"]),
        ("[rules]\ngrace = 6", &["rules.grace", "800ms"]),
    ] {
        fs::write(&config, toml).unwrap();
        let output = run(&data, &["check", "--config", config.to_str().unwrap()]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{toml}: {said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?} in {said}");
    }
    for (words, part) in [
        (&["fly"][..], "--help"),
        (&["run", "--what"], "--help"),
        (&["run", "--seed", "1"], "unexpected argument '--seed'"),
        (&["demo", "--orders", "many"], "invalid value 'many'"),
        (&["demo", "--poison", "2"], "a share from 0 to 1"),
        (&["status"], "where does the component listen?"),
        (&["replay"], "store something first"),
        (&["run", "--config", "nowhere.toml"], "nowhere.toml cannot be read"),
    ] {
        let output = run(&data, words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(text(&output.stderr).contains(part), "{words:?}: {}", text(&output.stderr));
    }
    assert!(run(&data, &["--help"]).status.success());
}

#[test]
fn the_plan_is_printed_with_what_the_configuration_says() {
    let data = directory("check");
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.toml");
    let output = run(&data, &["check", "--config", config.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let plan = text(&output.stdout);
    for part in ["5000 records and 32MiB a shard", "evaluate (64 at once, `store`)", "publish"] {
        assert!(plan.contains(part), "{part} in\n{plan}");
    }
}

#[test]
fn a_source_that_is_not_there_ends_with_1_and_says_what_to_do() {
    let data = directory("missing");
    let output = run(&data, &["run"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("events.ndjson") && said.contains("check the path"), "{said}");
}

/// A component that runs, and what it says.
struct Life {
    child: Child,
    data: PathBuf,
    config: PathBuf,
    address: String,
}

impl Life {
    fn start(name: &str, more: &str) -> Self {
        let data = directory(name);
        let config = data.join("config.toml");
        // a path of its own that is short: that of a Unix socket may have a hundred characters only
        let socket =
            std::env::temp_dir().join(format!("orders-{name}-{}.sock", std::process::id()));
        let toml = format!("[admin]\nlisten = \"127.0.0.1:0\"\nsocket = {socket:?}\n{more}");
        fs::write(&config, toml).unwrap();
        succeeds(&data, &["generate", "--orders", "50"]);
        let mut child = orders(&data, &["run", "--config", config.to_str().unwrap()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // the log says which port is free; what comes after that is read on, or the pipe would fill
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let bound = log.by_ref().find(|line| line.contains("listener=127.0.0.1:")).unwrap();
        let address = bound.split("listener=").nth(1).unwrap().trim().to_owned();
        std::thread::spawn(move || log.for_each(drop));
        Self { child, data, config, address }
    }

    fn http(&self, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.address);
        stream.write_all(format!("{head}Content-Length: 0\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn ask(&self, words: &[&str]) -> Output {
        run(&self.data, &[words, &["--config", self.config.to_str().unwrap()]].concat())
    }

    /// Turns a switch.
    fn turn(&self, words: &[&str]) -> Output {
        self.ask(&[words, &["--who", "ada", "--why", "a test"]].concat())
    }

    /// SIGTERM, as an orchestrator sends it; the exit code and what stood on standard output.
    fn terminate(mut self) -> (Option<i32>, String) {
        let kill = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(kill.success());
        let mut report = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut report).unwrap();
        (self.child.wait().unwrap().code(), report)
    }
}

#[cfg(unix)]
#[test]
fn probes_look_switches_are_turned_on_the_socket_alone_and_sigterm_ends_it_with_0() {
    let life = Life::start("probes", "");
    until("ready", || life.http("GET", "/readyz").0 == 200);
    assert_eq!(life.http("GET", "/livez").0, 200);
    until("all is settled", || {
        let metrics = life.http("GET", "/metrics").1;
        metrics.contains(r#"fate="done""#) && metrics.contains("streambreaker_commits_total")
    });
    assert_eq!(
        life.http("POST", "/pipelines/rules/pause").0,
        403,
        "from outside nothing is turned"
    );

    let turned = life.turn(&["pause", "rules"]);
    assert!(turned.status.success(), "{}", text(&turned.stderr));
    let status: Value = serde_json::from_slice(&life.ask(&["status", "--json"]).stdout).unwrap();
    assert_eq!(status["pipelines"]["rules"]["paused"], true);
    let refused = life.turn(&["pause", "rulez"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("there is rules, view"), "{}", text(&refused.stderr));
    assert!(life.turn(&["resume", "rules"]).status.success());
    let metrics = text(&life.ask(&["metrics", "records_total", "--nonzero"]).stdout);
    let done = r#"streambreaker_records_total{processor="orders",pipeline="view",fate="done"} "#;
    assert!(metrics.lines().any(|line| line.starts_with(done)), "{metrics}");
    assert!(
        metrics.lines().all(|line| line.starts_with("streambreaker_records_total{")),
        "{metrics}"
    );

    let (code, report) = life.terminate();
    assert_eq!(code, Some(0), "{report}");
    assert!(report.contains("orders ran for"), "{report}");
}

#[cfg(unix)]
#[test]
fn a_drain_that_runs_into_its_limit_ends_with_3_and_the_next_life_does_the_rest() {
    let slow = "[engine.processor]\ndrain = \"100ms\"\n";
    let life = Life::start("drain", slow);
    until("ready", || life.http("GET", "/readyz").0 == 200);
    until("settled", || {
        let status: Value = serde_json::from_str(&life.http("GET", "/status").1).unwrap();
        status["lanes"].as_array().is_some_and(|lanes| {
            !lanes.is_empty() && lanes.iter().all(|lane| lane["oldest"].is_null())
        })
    });
    assert!(life.turn(&["pause", "rules"]).status.success());
    // one event more, which cannot be finished now
    let path = life.data.join("events.ndjson");
    let last =
        lines(&life.data).iter().rev().find(|line| line.contains("order-due")).unwrap().clone();
    fs::OpenOptions::new()
        .append(true)
        .open(path)
        .unwrap()
        .write_all(format!("{last}\n").as_bytes())
        .unwrap();
    // a pipeline that is paused waits for its operator also while there is nothing to do
    until("it waits", || {
        let status: Value = serde_json::from_str(&life.http("GET", "/status").1).unwrap();
        let lanes = status["lanes"].as_array().unwrap();
        lanes.iter().any(|lane| !lane["oldest"].is_null() && lane["waits_for"] == "operator")
    });
    let (data, config) = (life.data.clone(), life.config.clone());
    let (code, report) = life.terminate();
    assert_eq!(code, Some(3), "{report}");
    fs::write(&config, "follow = false\n").unwrap();
    succeeds(&data, &["run", "--config", config.to_str().unwrap()]);
    assert_eq!(published(&data).1, expected(&lines(&data), RULES).said);
}

/// The words of a command in the runbook, without what reads its answer.
#[cfg(unix)]
fn words(command: &str) -> Vec<&str> {
    let command = command.split(" #").next().unwrap().split(" | ").next().unwrap();
    let quoted = command.split('"').enumerate();
    let words = quoted.flat_map(|(at, part)| match at % 2 {
        0 => part.split_whitespace().collect(),
        _ => vec![part],
    });
    words.collect()
}

#[cfg(unix)]
#[test]
fn the_commands_of_the_runbook_are_answered() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let [operating, known] =
        ["operating.md", "metrics.md"].map(|name| fs::read_to_string(docs.join(name)).unwrap());
    let runbook = operating.split("\n## ").find(|chapter| chapter.starts_with("Runbook")).unwrap();
    let commands: Vec<&str> =
        runbook.lines().filter_map(|line| line.strip_prefix("orders ")).collect();
    assert!(commands.len() > 20, "{commands:?}");
    let life = Life::start("runbook", "");
    succeeds(&life.data, &["store", "--once"]);
    until("ready", || life.http("GET", "/readyz").0 == 200);
    for command in commands {
        let words = words(command);
        // as in the image: its environment says where the configuration is, and nobody is logged in
        let mut orders = orders(&life.data, &words);
        orders.env("ORDERS_CONFIG", &life.config);
        for name in ["USER", "LOGNAME", "USERNAME"] {
            orders.env_remove(name);
        }
        let answer = orders.output().unwrap();
        let no = answer.status.code() == Some(4);
        if words[0] == "metrics" && no {
            // nothing to count yet; the names are right all the same
            let mut names = words[1..].iter().filter(|word| !word.starts_with("--"));
            let is_known = |name: &&str| known.contains(&format!("`streambreaker_{name}"));
            assert!(names.all(is_known), "orders {command}");
        } else if words[0] == "skip" && no {
            // it has gone well since
            assert!(text(&answer.stderr).contains("is settled already"), "{answer:?}");
        } else {
            assert!(answer.status.success(), "orders {command}: {answer:?}");
        }
    }
    let (code, report) = life.terminate();
    assert_eq!(code, Some(0), "{report}");
}

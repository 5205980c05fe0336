//! The example `flights` on its 5,000 events, as a process: what it writes, compared with a computation that shares
//! nothing with it; run twice; killed again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use streambreaker::fault::FaultEvent;
use streambreaker::file;

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/flights.ndjson");

/// Builds the example and says where it is: a test alone would run whatever was built last.
fn example() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
        cargo.args(["build", "--quiet", "--example", "flights", "--message-format=json"]);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        if cfg!(feature = "gzip") {
            cargo.args(["--features", "gzip"]);
        }
        let output = cargo.stderr(Stdio::inherit()).output().expect("cargo runs");
        assert!(output.status.success(), "the example is built");
        let messages = String::from_utf8(output.stdout).expect("text");
        let message = |line: &str| serde_json::from_str::<Value>(line).ok();
        let executable = messages.lines().filter_map(message).find_map(|message| {
            (message["target"]["name"] == "flights")
                .then(|| message["executable"].as_str().map(PathBuf::from))?
        });
        executable.expect("cargo says where it is")
    })
}

/// A directory of its own for a test, empty.
fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("flights").join(name);
    let _ = fs::remove_dir_all(&directory);
    directory
}

fn flights(file: &str, out: &Path) -> Command {
    let mut command = Command::new(example());
    command.arg(file).arg("--json").arg("--out").arg(out);
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// Runs it to its end; the report, which is all that is on standard output.
fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{:?}: {}", output.status, text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the report as JSON, and nothing else")
}

type Delays = BTreeMap<(String, String), (i64, i64, i64)>;
type Aircraft = BTreeMap<String, (String, i64)>;

#[derive(Debug, Default, PartialEq)]
struct Tables {
    delays: Delays,
    aircraft: Aircraft,
}

fn open(out: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(out.join("flights.db"), OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn tables(out: &Path) -> rusqlite::Result<Tables> {
    let database = open(out)?;
    let mut delays =
        database.prepare("SELECT origin, day, flights, total_delay, worst_delay FROM delays")?;
    let delays = delays.query_map([], |row| {
        Ok(((row.get(0)?, row.get(1)?), (row.get(2)?, row.get(3)?, row.get(4)?)))
    })?;
    let mut aircraft = database.prepare("SELECT tailnum, dest, at FROM aircraft")?;
    let aircraft = aircraft.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
    Ok(Tables {
        delays: delays.collect::<Result<_, _>>()?,
        aircraft: aircraft.collect::<Result<_, _>>()?,
    })
}

/// What has to come out, from the raw lines.
struct Expected {
    tables: Tables,
    diverted: BTreeSet<u64>,
    without_tail: BTreeSet<u64>,
    with_tail: usize,
}

fn expected() -> Expected {
    expected_of(SAMPLE)
}

fn expected_of(file: &str) -> Expected {
    let mut expected = Expected {
        tables: Tables::default(),
        diverted: BTreeSet::new(),
        without_tail: BTreeSet::new(),
        with_tail: 0,
    };
    let mut offset = 0;
    for line in fs::read_to_string(file).expect("the events").lines() {
        let event: Value = serde_json::from_str(line).expect("JSON");
        let flight = &event["flight"];
        let word = |field: &str| flight[field].as_str().map(str::to_owned);
        match event["type"].as_str() {
            Some("flight-departed") => {
                let at = event["timestamp"].as_i64().expect("a number");
                let seen = (word("dest").expect("a place"), at);
                let last = expected
                    .tables
                    .aircraft
                    .entry(word("tailnum").expect("all have one"))
                    .or_insert_with(|| seen.clone());
                if last.1 < at {
                    *last = seen;
                }
                match flight["arr_delay"].as_i64() {
                    Some(delay) => {
                        let day = word("scheduled").expect("a time")[..10].to_owned();
                        let key = (word("origin").expect("a place"), day);
                        let sum = expected.tables.delays.entry(key).or_insert((0, 0, i64::MIN));
                        *sum = (sum.0 + 1, sum.1 + delay, sum.2.max(delay));
                    }
                    None => drop(expected.diverted.insert(offset)),
                }
            }
            Some("flight-cancelled") if word("tailnum").is_some() => expected.with_tail += 1,
            Some("flight-cancelled") => drop(expected.without_tail.insert(offset)),
            other => panic!("{other:?} is not in the sample"),
        }
        offset += line.len() as u64 + 1;
    }
    expected
}

fn faults(out: &Path) -> Vec<FaultEvent> {
    file::read_faults(out.join("faults.ndjson"))
        .expect("faults")
        // a line that a kill cut off was never confirmed, and comes again behind it
        .filter_map(Result::ok)
        .collect()
}

fn positions(faults: &[FaultEvent], pipeline: &str, stage: &str) -> BTreeSet<u64> {
    let of = |fault: &&FaultEvent| fault.pipeline == pipeline && fault.stage == stage;
    let position =
        |fault: &FaultEvent| fault.records[0].record.position().as_u64().expect("an offset");
    faults.iter().filter(of).map(position).collect()
}

fn ids(faults: &[FaultEvent]) -> BTreeSet<String> {
    faults.iter().map(|fault| fault.id.to_string()).collect()
}

#[test]
fn i4_f11_tables_and_faults_are_those_of_an_independent_computation() {
    let (out, expected) = (directory("once"), expected());
    let report = report(&flights(SAMPLE, &out).output().expect("it runs"));
    assert_eq!(tables(&out).expect("tables"), expected.tables);

    let faults = faults(&out);
    assert_eq!(positions(&faults, "delays", "validate"), expected.diverted);
    assert_eq!(positions(&faults, "cancellations", "validate"), expected.without_tail);
    let rejected = positions(&faults, "cancellations", "bulk_write").len();
    assert!(rejected > 0, "the index rejects one of these");
    assert_eq!(ids(&faults).len(), faults.len(), "each unit is faulted once");
    assert_eq!(report["faults_stored"], faults.len());
    assert_eq!(report["stopped"], false, "its source came to its end");
    assert_eq!(faults.len(), expected.diverted.len() + expected.without_tail.len() + rejected);

    let of = |pipeline: &str| {
        ["read", "done", "filtered", "faulted", "returned", "open"]
            .map(|fate| report["pipelines"][pipeline][fate].as_u64().expect("a number"))
    };
    let (cancelled, diverted) =
        (expected.with_tail + expected.without_tail.len(), expected.diverted.len());
    let numbers = |fates: [usize; 4]| {
        let [done, filtered, faulted, rest] = fates.map(|n| n as u64);
        [5_000, done, filtered, faulted, rest, rest]
    };
    assert_eq!(of("delays"), numbers([5_000 - cancelled - diverted, cancelled, diverted, 0]));
    assert_eq!(of("aircraft"), numbers([5_000 - cancelled, cancelled, 0, 0]));
    let faulted = expected.without_tail.len() + rejected;
    assert_eq!(
        of("cancellations"),
        numbers([expected.with_tail - rejected, 5_000 - cancelled, faulted, 0])
    );
}

#[test]
fn f4_l10_running_it_again_changes_no_table_and_makes_no_new_fault() {
    let out = directory("twice");
    let first = report(&flights(SAMPLE, &out).output().expect("it runs"));
    let (tables_then, faults_then) = (tables(&out).expect("tables"), faults(&out));
    let second = report(&flights(SAMPLE, &out).output().expect("it runs"));
    assert_eq!(first["pipelines"], second["pipelines"], "it did all the work again");
    assert_eq!(tables(&out).expect("tables"), tables_then);
    let faults_now = faults(&out);
    assert_eq!(faults_now.len(), 2 * faults_then.len());
    assert_eq!(ids(&faults_now), ids(&faults_then));
}

/// How far a run has come: flights whose delay was counted.
fn seen(out: &Path) -> i64 {
    let sum = |database: Connection| {
        database.query_row("SELECT sum(flights) FROM delays", [], |row| row.get(0))
    };
    open(out).and_then(sum).unwrap_or(0)
}

/// `KILLS=1000 FLIGHTS=flights-2013.ndjson cargo test --release --test flights s6` for longer; `SEED` for other moments.
#[cfg(unix)]
#[test]
fn s6_killed_at_any_moment_and_run_again_it_ends_with_the_same_tables() {
    use std::os::unix::process::ExitStatusExt;

    let set = |name| std::env::var(name).ok();
    let number = |name, default| set(name).and_then(|text| text.parse().ok()).unwrap_or(default);
    let file = set("FLIGHTS").unwrap_or_else(|| SAMPLE.to_owned());
    let (kills, seed) = (number("KILLS", 50), number("SEED", 1));
    let random = streambreaker::clock::Random::seeded(seed);
    let dice = |sides: u64| random.next_u64() % sides;
    let (out, expected) = (directory("killed"), expected_of(&file));
    let all = expected.tables.delays.values().map(|(flights, ..)| flights).sum::<i64>();
    let (undisturbed, begun) = (directory("undisturbed"), std::time::Instant::now());
    report(&flights(&file, &undisturbed).output().expect("it runs"));
    let whole = begun.elapsed().as_millis() as u64;
    assert_eq!(tables(&undisturbed).expect("tables"), expected.tables);
    let without = ids(&faults(&undisturbed));
    let (mut killed, mut lives, mut amidst) = (0, 0, 0_usize);
    while killed < kills {
        lives += 1;
        assert!(lives <= 10 * kills, "SEED={seed}: {killed} of {lives} lives could be killed");
        let mut child = flights(&file, &out).stdout(Stdio::null()).spawn().expect("it runs");
        // every second one when it has come so far, the others after a while, be it before they have begun
        let (by_progress, so_far) = (dice(2) == 0, 1 + dice(all as u64) as i64);
        let (started, limit) =
            (std::time::Instant::now(), Duration::from_millis(dice(whole / 3 + 1)));
        let is_over = |out| match by_progress {
            true => seen(out) >= so_far,
            false => started.elapsed() >= limit,
        };
        while !is_over(&out) && child.try_wait().expect("a child").is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().expect("it can be killed");
        if child.wait().expect("a child").signal() == Some(9) {
            killed += 1;
            amidst += usize::from((1..all).contains(&seen(&out)));
        }
        // all the work is done, some of it more than once: there must be no trace of that, and it begins anew
        if seen(&out) >= all || killed == kills {
            report(&flights(&file, &out).output().expect("it runs"));
            let said = format!("SEED={seed}: after {killed} kills");
            assert_eq!(tables(&out).expect("tables"), expected.tables, "{said}");
            assert_eq!(ids(&faults(&out)), without, "{said}");
            directory("killed");
        }
    }
    assert!(amidst > 0, "SEED={seed}: none of {killed} was killed with half the work done");
    eprintln!("{killed} kills in {lives} lives, {amidst} of them with a part of the work done");
}

#[test]
fn it_says_what_is_wrong_and_what_to_do() {
    let out = directory("wrong");
    let missing = flights("nowhere.ndjson", &out).output().expect("it runs");
    assert_eq!(missing.status.code(), Some(1));
    let said = text(&missing.stderr);
    assert!(said.contains("nowhere.ndjson") && said.contains("check the path"), "{said}");

    let unknown = Command::new(example()).arg("--what").output().expect("it runs");
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("--help"));
    let help = Command::new(example()).arg("--help").output().expect("it runs");
    assert!(help.status.success() && text(&help.stdout).contains("--out DIR"));
}

/// The sample, packed by hand: stored blocks need no compressor.
fn gzip(content: &[u8]) -> Vec<u8> {
    let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut blocks = content.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        let length = block.len() as u16;
        packed.push(u8::from(blocks.peek().is_none()));
        packed.extend(length.to_le_bytes());
        packed.extend((!length).to_le_bytes());
        packed.extend(block);
    }
    let crc = content.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    });
    packed.extend((!crc).to_le_bytes());
    packed.extend((content.len() as u32).to_le_bytes());
    packed
}

#[test]
fn a_packed_file_is_read_or_refused_with_the_feature_it_needs() {
    let out = directory("packed");
    fs::create_dir_all(&out).expect("a directory");
    let packed = out.join("flights.ndjson.gz");
    fs::write(&packed, gzip(&fs::read(SAMPLE).expect("the sample"))).expect("written");
    let output = flights(packed.to_str().expect("text"), &out).output().expect("it runs");
    if cfg!(feature = "gzip") {
        assert_eq!(report(&output)["pipelines"]["delays"]["read"], 5_000);
        assert_eq!(tables(&out).expect("tables"), expected().tables);
    } else {
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("feature `gzip`"), "{}", text(&output.stderr));
    }
}

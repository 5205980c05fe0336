//! What is printed on a terminal and elsewhere, by the program itself: on a pseudoterminal of `script`, which is in every
//! Debian (`bsdutils`).
#![cfg(target_os = "linux")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn filled(name: &str) -> PathBuf {
    let data = Path::new(env!("CARGO_TARGET_TMPDIR")).join("orders-terminal").join(name);
    let _ = fs::remove_dir_all(&data);
    fs::create_dir_all(&data).unwrap();
    for words in [&["demo", "--orders", "20", "--poison", "0.05"][..], &["store", "--once"]] {
        let mut orders = Command::new(env!("CARGO_BIN_EXE_orders"));
        let done = orders.args(words).arg("--data").arg(&data).output().unwrap();
        assert!(done.status.success(), "{words:?}: {done:?}");
    }
    data
}

/// The command line, for a shell; `more` stands behind it.
fn line(data: &Path, words: &str, more: &str) -> String {
    format!("'{}' {words} --data '{}' {more}", env!("CARGO_BIN_EXE_orders"), data.display())
}

/// Runs a line in a shell on a terminal: what stands there afterwards, byte by byte, and the exit code.
fn on_terminal(line: &str, env: &[(&str, &str)]) -> (String, Option<i32>) {
    let mut script = Command::new("script");
    script.args(["-qec", line, "/dev/null"]).stdin(Stdio::null());
    script
        .env_remove("NO_COLOR")
        .env_remove("COLUMNS")
        .env("TERM", "xterm")
        .env("SHELL", "/bin/sh")
        .envs(env.to_vec());
    let output = script.output().expect("`script` of util-linux is there");
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

const SLOWLY: &str = "replay --pipeline view --rate 40 --send --why 'a test' --who ada";
/// Back to the beginning of the line, which is cleared.
const AFRESH: &str = "\r\u{1b}[2K";

#[test]
fn colours_are_on_a_terminal_that_wants_them_and_nowhere_else() {
    let data = filled("colours");
    for (words, coloured) in [
        ("faults group", "\u{1b}[1mFAULTS"),
        ("faults ls", "\u{1b}[1mTIME"),
        ("lake ls", "\u{1b}[1mSTREAM"),
        ("lake verify", "\u{1b}[32msound\u{1b}[0m"),
    ] {
        let (shown, code) = on_terminal(&line(&data, words, ""), &[]);
        assert!(shown.contains(coloured), "{words}: {shown:?}");
        assert_eq!(code, Some(0));
        for plain in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            let (shown, _) = on_terminal(&line(&data, words, ""), &[plain]);
            assert!(!shown.contains('\u{1b}') && shown.len() > 40, "{words} {plain:?}: {shown:?}");
        }
        // an empty value is none
        assert!(on_terminal(&line(&data, words, ""), &[("NO_COLOR", "")]).0.contains(coloured));
        let (piped, _) = on_terminal(&line(&data, words, "| cat"), &[]);
        assert!(!piped.contains('\u{1b}') && piped.len() > 40, "{words}: {piped:?}");
        let (json, _) = on_terminal(&line(&data, words, "--json"), &[]);
        assert!(!json.contains('\u{1b}') && json.starts_with('{'), "{words}: {json:?}");
    }
    let (_, code) = on_terminal(&line(&data, "lake grep nowhere", ""), &[]);
    assert_eq!(code, Some(4), "the exit code is the program's");
}

#[test]
fn tables_are_cut_to_the_width_of_the_terminal() {
    let data = filled("width");
    let widest = |before: &str, env: &[(&str, &str)]| {
        let command = format!("{before} {}", line(&data, "faults ls", "2>/dev/null"));
        let (shown, code) = on_terminal(&command, &[env, &[("NO_COLOR", "1")]].concat());
        assert_eq!(code, Some(0), "{shown}");
        shown.lines().map(|line| line.trim_end().chars().count()).max().unwrap()
    };
    let whole = widest("stty rows 24 cols 400;", &[]);
    assert!(whole > 120, "{whole}");
    let cut = widest("stty rows 24 cols 120;", &[]);
    assert!(cut > 80 && cut <= 120, "{cut}");
    let told = widest("stty rows 24 cols 120;", &[("COLUMNS", "80")]);
    assert!(told <= 80, "{told}");
    assert_eq!(widest("stty rows 24 cols 0;", &[]), whole, "a terminal that knows no size");
}

#[test]
fn progress_is_drawn_on_a_terminal_and_leaves_nothing_behind() {
    let data = filled("progress");
    let (shown, code) = on_terminal(&line(&data, SLOWLY, ""), &[]);
    assert_eq!(code, Some(0), "{shown}");
    let drawn: Vec<&str> = shown.split(AFRESH).filter(|part| part.starts_with('[')).collect();
    assert!(drawn.len() >= 3, "{shown:?}");
    let percent = |part: &&str| {
        let behind = part.split_once("] ").unwrap().1.trim_start();
        behind.split_once(" %").unwrap().0.parse::<u32>().unwrap()
    };
    let parts: Vec<u32> = drawn.iter().map(percent).collect();
    assert!(parts.is_sorted() && parts.last() > parts.first(), "{parts:?}");
    for part in drawn {
        // the cursor goes back to the beginning, so that a line of the log is written over it
        let (bar, _) = part.split_once('\r').unwrap();
        assert!(bar.contains(" records, ") && bar.contains("/s"), "{part:?}");
    }
    // at last it is cleared
    let (_, last) = shown.rsplit_once(AFRESH).unwrap();
    assert!(last.contains("orders ran for") && !last.contains('\u{1b}'), "{last:?}");

    // results may go elsewhere while somebody watches
    let file = data.join("report.json");
    let elsewhere = format!("--json > '{}'", file.display());
    let (shown, _) = on_terminal(&line(&data, SLOWLY, &elsewhere), &[("NO_COLOR", "1")]);
    assert!(shown.contains(" %  ") && shown.contains(AFRESH), "{shown:?}");
    let report: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(report["dry_run"], false);

    let (dumb, _) = on_terminal(&line(&data, SLOWLY, ""), &[("TERM", "dumb")]);
    assert!(!dumb.contains('\u{1b}') && dumb.contains("orders ran for"), "{dumb:?}");
    let nobody = Command::new("sh").args(["-c", &line(&data, SLOWLY, "2>&1")]).output().unwrap();
    let nobody = String::from_utf8(nobody.stdout).unwrap();
    assert!(!nobody.contains(['\u{1b}', '\r']) && nobody.contains("orders ran for"), "{nobody:?}");
}

//! The commonest mistakes do not compile, and the compiler says what to do.
//!
//! Each case names the decisive lines of its error (`//~ …`); the rest of what the compiler prints may change with
//! its version. That is why this is not a comparison of whole outputs. The cases are checked as programs of a crate
//! of their own that depends on this one, as a user's would.

use std::path::{Path, PathBuf};
use std::process::Command;

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compile_fail/cases")
}

/// Checks one program: whether it compiles, and what was printed, spaces made alike.
fn check(name: &str) -> (bool, String) {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compile_fail");
    let output = Command::new(env!("CARGO"))
        .args(["check", "--quiet", "--offline", "--color=never", "--bin", name])
        .arg("--manifest-path")
        .arg(root.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(root.join("target"))
        .env_remove("RUSTFLAGS")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn prepare() {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compile_fail");
    let programs = root.join("src/bin");
    std::fs::create_dir_all(&programs).unwrap();
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = format!(
        "[package]\nname = \"cases\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n\
         streambreaker = {{ path = {own:?} }}\n\n[workspace]\n"
    );
    std::fs::write(root.join("Cargo.toml"), manifest).unwrap();
    // the same versions, so that nothing has to be looked up
    let lock = own.join("Cargo.lock");
    if lock.exists() {
        std::fs::copy(lock, root.join("Cargo.lock")).unwrap();
    }
    for case in std::fs::read_dir(cases()).unwrap() {
        let case = case.unwrap().path();
        std::fs::copy(&case, programs.join(case.file_name().unwrap())).unwrap();
    }
}

#[test]
fn mistakes_do_not_compile_and_the_compiler_says_what_to_do() {
    prepare();
    let (good, text) = check("control");
    assert!(good, "the case without a mistake does not compile: {text}");
    let mut seen = 0;
    for case in std::fs::read_dir(cases()).unwrap() {
        let case = case.unwrap().path();
        let name = case.file_stem().unwrap().to_str().unwrap();
        if name == "control" {
            continue;
        }
        seen += 1;
        let source = std::fs::read_to_string(&case).unwrap();
        let wanted: Vec<&str> =
            source.lines().filter_map(|line| line.strip_prefix("//~ ")).collect();
        assert!(!wanted.is_empty(), "{name} does not say what the compiler is to say");
        let (good, text) = check(name);
        assert!(!good, "{name} compiles");
        for line in wanted {
            assert!(text.contains(line), "{name}: the compiler does not say `{line}`, but: {text}");
        }
    }
    assert_eq!(seen, 9);
}

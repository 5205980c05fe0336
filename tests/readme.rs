//! What the README says exists, does.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All Rust code below a directory of the package.
fn code(directory: &str) -> String {
    let mut code = String::new();
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                code.push_str(&fs::read_to_string(path).expect("text"));
            }
        }
    }
    code
}

#[test]
fn the_first_program_is_the_example_first() {
    let example = read("examples/first.rs");
    let (_docs, program) = example.split_once("\n\n").expect("docs, then a program");
    assert!(read("README.md").contains(&format!("```rust\n{program}```")), "copy it anew");
}

#[test]
fn the_first_program_prints_what_is_said() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(["run", "--quiet", "--example", "first"]);
    let output = cargo.stderr(Stdio::inherit()).output().expect("cargo runs");
    assert!(output.status.success(), "{:?}", output.status);
    let printed = String::from_utf8(output.stdout).expect("text");
    assert!(printed.starts_with("ann pays 1250\norders ran for "), "{printed}");
    let readme = read("README.md");
    let (_, rest) = readme.split_once("```text\npipeline       read").expect("the report");
    let said = format!("pipeline       read{}", rest.split_once("```").expect("its end").0);
    assert!(printed.contains(&said), "said:\n{said}\nprinted:\n{printed}");
    assert!(printed.contains("2 faults in"), "{printed}");
}

#[test]
fn every_file_that_is_linked_is_there() {
    let readme = read("README.md");
    let links: Vec<&str> = readme
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(link, _)| link))
        .filter(|link| !link.starts_with("http"))
        .collect();
    assert!(links.len() > 5, "{links:?}");
    for link in links {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(link);
        assert!(path.exists(), "there is no {link}");
    }
}

#[test]
fn every_test_that_is_named_is_there() {
    let (readme, code) = (read("README.md"), code("src") + &code("tests"));
    let (_, rest) = readme.split_once("| rule | what holds | test |\n").expect("the table");
    let rows = rest.lines().take_while(|line| line.starts_with('|')).skip(1);
    let last = |row: &str| {
        row.trim_end_matches([' ', '|']).rsplit_once('|').map(|cells| cells.1.to_owned())
    };
    let cells: Vec<String> = rows.filter_map(last).collect();
    let named: Vec<&str> =
        cells.iter().flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert!(named.len() > 10, "the table of guarantees is found: {named:?}");
    for name in named {
        assert!(code.contains(&format!("fn {name}(")), "there is no test `{name}`");
    }
}

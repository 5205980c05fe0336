//! Names of log fields are an interface: `docs/metrics.md` lists what the code says, and nothing else.

use std::collections::BTreeSet;
use std::path::Path;

/// The names in the first column of the table of fields.
fn documented() -> BTreeSet<String> {
    let text = include_str!("../docs/metrics.md");
    let table = text.split("| field | what it is |").nth(1).expect("the table of fields");
    table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .flat_map(|line| {
            let cell = line.split('|').nth(1).expect("a cell");
            cell.split(',').map(|name| name.trim().trim_matches('`').to_owned())
        })
        .collect()
}

/// The arguments of a macro call whose text begins after its opening parenthesis.
fn arguments(text: &str) -> Vec<String> {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    let mut all = vec![String::new()];
    for c in text.chars() {
        let last = all.last_mut().expect("there is always one");
        match c {
            _ if quoted => {
                quoted = escaped || c != '"';
                escaped = c == '\\' && !escaped;
                last.push(c);
            }
            ')' | ']' | '}' if depth == 0 => break,
            ',' if depth == 0 => all.push(String::new()),
            _ => {
                match c {
                    '"' => quoted = true,
                    '(' | '[' | '{' => depth += 1,
                    ')' | ']' | '}' => depth -= 1,
                    _ => {}
                }
                last.push(c);
            }
        }
    }
    all.into_iter().map(|argument| argument.trim().to_owned()).collect()
}

fn fields_in(dir: &Path, fields: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("a directory of sources") {
        let path = entry.expect("a file").path();
        if path.is_dir() {
            fields_in(&path, fields);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source");
            for level in ["error", "warn", "info", "debug", "trace"] {
                for call in text.split(&format!("tracing::{level}!(")).skip(1) {
                    fields.extend(arguments(call).iter().filter_map(|argument| field(argument)));
                }
            }
        }
    }
}

/// The name of the field that an argument gives a value to; the target and the message are none.
fn field(argument: &str) -> Option<String> {
    if argument.is_empty() || argument.starts_with("target:") || argument.starts_with('"') {
        return None;
    }
    let name = argument.split(" = ").next().unwrap_or(argument);
    Some(name.trim_start_matches(['%', '?']).to_owned())
}

#[test]
fn the_document_lists_the_fields_that_the_code_says_and_nothing_else() {
    let mut code = BTreeSet::new();
    fields_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut code);
    assert_eq!(code, documented());
}

#[test]
fn a_stream_and_its_shard_are_named_as_opentelemetry_does() {
    let documented = documented();
    for name in ["stream", "shard", "topic", "partition", "group"] {
        assert!(!documented.contains(name), "{name} has a name in the conventions");
    }
    assert!(documented.contains("messaging.destination.name"));
    assert!(documented.contains("messaging.destination.partition.id"));
}

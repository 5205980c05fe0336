//! `metrics`: what a component that runs counts and measures.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;
use serde_json::{Number, Value, json};
use streambreaker::{BoxError, ProcessorBuilder};

use super::Where;
use crate::args::Output;
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::operator::{Operator, Task};
use crate::text::escaped_lines;

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $0 metrics                                    all, as Prometheus sees them
  $0 metrics waiting source_waiting --nonzero   what units wait for
  $0 metrics faults_total --json | jq '.samples[] | {stage: .labels.stage, value}'

It ends with 4 where there is none of that name.")]
pub(crate) struct MetricsArgs {
    /// Only those whose name has one of these in it
    name: Vec<String>,
    /// Leave out what is zero
    #[arg(long, help_heading = "Output")]
    nonzero: bool,
    #[command(flatten)]
    at: Where,
    #[command(flatten)]
    output: Output,
}

/// One line of the text format of Prometheus.
#[derive(Debug, PartialEq, Serialize)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: Value,
}

impl<F> Operator<F>
where
    F: AsyncFn(Task) -> Result<ProcessorBuilder, BoxError>,
{
    pub(crate) async fn metrics(
        &self,
        args: &MetricsArgs,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        let url = self.url(&args.at)?;
        let text = url.text("/metrics").await?;
        let (mut found, mut zero) = (Vec::new(), false);
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let sample = sample(line).ok_or_else(|| {
                Failure::failed(format!("the metrics of {url} have a line that is none: {line}"))
            })?;
            if args.is_named(&sample) {
                match args.nonzero && sample.value.as_f64() == Some(0.0) {
                    true => zero = true,
                    false => found.push((line, sample)),
                }
            }
        }
        // a recorder may tell them in any order
        found.sort_by(|(_, a), (_, b)| (&a.name, &a.labels).cmp(&(&b.name, &b.labels)));
        if args.output.json {
            let samples: Vec<&Sample> = found.iter().map(|(_, sample)| sample).collect();
            console.json(&json!({ "samples": samples }))?;
        } else if args.name.is_empty() && !args.nonzero {
            console.print(&escaped_lines(&text))?;
        } else {
            let lines: String = found.iter().flat_map(|(line, _)| [line, "\n"]).collect();
            console.print(&escaped_lines(&lines))?;
        }
        match found.is_empty() {
            true if zero => Err(Failure::no("every one of them is zero")),
            true => Err(Failure::no("no such metric, or not yet")),
            false => Ok(Exit::Done),
        }
    }
}

impl MetricsArgs {
    fn is_named(&self, sample: &Sample) -> bool {
        self.name.is_empty() || self.name.iter().any(|part| sample.name.contains(part))
    }
}

/// `name{label="value",…} value`, perhaps with a time behind it.
fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, behind) = rest.trim_start_matches(',').split_once("=\"")?;
            let (value, behind) = unquoted(behind)?;
            labels.insert(label.trim().to_owned(), value);
            rest = behind;
        }
        rest = &rest[1..];
    }
    let value = rest.split_whitespace().next()?;
    value.parse::<f64>().ok()?;
    // what is no number is none in JSON: NaN, +Inf
    let number = serde_json::from_str::<Number>(value);
    let value = number.map_or_else(|_| value.into(), Value::Number);
    Some(Sample { name: name.to_owned(), labels, value })
}

/// A text up to the quotation mark that ends it, and what is behind that.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    loop {
        match chars.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            (_, other) => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_a_name_labels_and_a_value() {
        let of = |line: &str| {
            let Sample { name, labels, value } = sample(line).unwrap_or_else(|| panic!("{line}"));
            let labels: Vec<_> =
                labels.into_iter().map(|(name, value)| name + "=" + &value).collect();
            (name, labels.join(";"), value)
        };
        assert_eq!(of("up 1"), ("up".into(), String::new(), json!(1)));
        assert_eq!(of("a{} 0.5 1700000000000"), ("a".into(), String::new(), json!(0.5)));
        let line = r#"b_total{stage="a \"b\" \\ {c}, d=\n",for="x"} +Inf"#;
        let labels = "for=x;stage=a \"b\" \\ {c}, d=\n".to_owned();
        assert_eq!(of(line), ("b_total".into(), labels, json!("+Inf")));
        for bad in ["", "up", "up one", "a{b=\"c} 1", "a{b} 1", "a{b=\"c\"", "{"] {
            assert_eq!(sample(bad), None, "{bad}");
        }
    }
}

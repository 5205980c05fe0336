//! `status`.

use std::collections::BTreeMap;

use clap::Args;
use serde::Deserialize;
use serde_json::Value;
use streambreaker::{BoxError, Gap, ProcessorBuilder};

use super::Where;
use crate::args::Output;
use crate::console::{Console, Tone};
use crate::failure::{Exit, Failure};
use crate::operator::{Operator, Task};
use crate::text::{Align, Table, bytes_counted, counted, escaped, span, thousands};

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $0 status
  $0 status --url unix:/run/orders/admin.sock --json | jq '.lanes[] | select(.oldest)'")]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    at: Where,
    #[command(flatten)]
    output: Output,
}

/// Of more lanes than these, only those are shown that have something open, or had an error.
const LANES: usize = 40;

/// What is shown of a status. A process of another release may leave things out, and add others.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Shown {
    processor: String,
    release: Option<String>,
    instance: String,
    phase: String,
    live: bool,
    ready: bool,
    pipelines: BTreeMap<String, Pipeline>,
    lanes: Vec<Lane>,
    resources: Vec<Resource>,
    sources: Vec<Source>,
    gaps: Vec<Gap>,
    faults: Faults,
    in_flight_records: u64,
    in_flight_bytes: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Pipeline {
    read: u64,
    done: u64,
    filtered: u64,
    faulted: u64,
    returned: u64,
    open: u64,
    restarts: u64,
    enabled: bool,
    paused: bool,
    flood_guard: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Lane {
    shard: String,
    pipeline: String,
    position: Option<String>,
    oldest: Option<String>,
    iterator_age_seconds: f64,
    in_flight: u64,
    restarts: u64,
    last_class: Option<String>,
    waits_for: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Resource {
    name: String,
    attempts: u64,
    successes: u64,
    retries: u64,
    breaker: Option<Breaker>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Breaker {
    state: String,
    control: String,
    on_open: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Source {
    shard: String,
    lag_records: Option<u64>,
    last_error: Option<(String, f64)>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Faults {
    stored: u64,
    unconfirmed: u64,
    oldest_seconds: f64,
}

impl<F> Operator<F>
where
    F: AsyncFn(Task) -> Result<ProcessorBuilder, BoxError>,
{
    pub(crate) async fn status(
        &self,
        args: &StatusArgs,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        let url = self.url(&args.at)?;
        let status: Value = url.get("/status").await?;
        if args.output.json {
            console.json(&status)?;
            return Ok(Exit::Done);
        }
        let shown: Shown = serde_json::from_value(status).map_err(|error| {
            Failure::because(
                format!("the status of {url} is of another release; see it by --json"),
                error,
            )
        })?;
        let text = text(&shown, console);
        console.print(&text)?;
        Ok(Exit::Done)
    }
}

fn text(status: &Shown, console: &Console) -> String {
    let head = |head: &str| console.toned(Tone::Head, head);
    let well = |good: bool, yes: &str, no: &str| match good {
        true => console.toned(Tone::Good, yes),
        false => console.toned(Tone::Bad, no),
    };
    let mut text = format!(
        "{} {} on {}: {}, {}, {}\n",
        head(&escaped(&status.processor)),
        escaped(status.release.as_deref().unwrap_or("without a release")),
        escaped(&status.instance),
        escaped(&status.phase),
        well(status.live, "live", "one of its tasks has died"),
        well(status.ready, "ready", "not ready"),
    );
    let Faults { stored, unconfirmed, oldest_seconds } = status.faults;
    text.push_str(&format!(
        "{} in flight ({}), {} stored",
        counted(status.in_flight_records, "record"),
        bytes_counted(status.in_flight_bytes),
        counted(stored, "fault")
    ));
    if unconfirmed > 0 {
        let waits = format!(", {unconfirmed} not yet stored, for {}", span(oldest_seconds));
        text.push_str(&console.toned(Tone::Bad, &waits));
    }
    text.push('\n');
    for Gap { stream, shard, from, to, .. } in &status.gaps {
        let lost = format!("{stream}/{shard}: {from} up to {to} was lost before it was read");
        text.push_str(&console.toned(Tone::Bad, &escaped(&lost)));
        text.push_str(": `repair`\n");
    }
    text.push('\n');

    let right = |name| (name, Align::Right);
    let left = |name| (name, Align::Left);
    let mut table = Table::new([
        left("PIPELINE"),
        right("READ"),
        right("DONE"),
        right("FILTERED"),
        right("FAULTED"),
        right("RETURNED"),
        right("OPEN"),
        right("RESTARTS"),
        left("STATE"),
    ]);
    for (name, p) in &status.pipelines {
        let mut state = Vec::new();
        if !p.enabled {
            state.push("disabled".to_owned());
        }
        if p.paused {
            state.push("paused".to_owned());
        }
        if p.flood_guard != "closed" {
            state.push(format!("flood guard {}", p.flood_guard));
        }
        let counts = [p.read, p.done, p.filtered, p.faulted, p.returned, p.open, p.restarts];
        let state = if state.is_empty() { "runs".to_owned() } else { state.join(", ") };
        let cells = counts.iter().map(|count| thousands(*count));
        table.row(std::iter::once(name.clone()).chain(cells).chain([state]));
    }
    text.push_str(&console.table(&table));

    if !status.lanes.is_empty() {
        let mut table = Table::new([
            left("SHARD"),
            left("PIPELINE"),
            right("SETTLED"),
            right("OLDEST"),
            right("AGE"),
            right("OPEN"),
            right("UNREAD"),
            right("RESTARTS"),
            left("WAITS FOR"),
            left("LAST ERROR"),
        ])
        .shortens(&["LAST ERROR"])
        .leaves_out(&["UNREAD", "SETTLED"]);
        let few = status.lanes.len() <= LANES;
        let mut quiet = 0;
        for lane in &status.lanes {
            if !few && lane.oldest.is_none() && lane.last_class.is_none() {
                quiet += 1;
                continue;
            }
            let source = status.sources.iter().find(|source| source.shard == lane.shard);
            let unread = source.and_then(|source| source.lag_records).map(thousands);
            let failed = source.and_then(|source| source.last_error.as_ref());
            let error = match failed {
                Some((class, ago)) => Some(format!("source: {class}, {} ago", span(*ago))),
                None => lane.last_class.clone(),
            };
            let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
            table.row([
                lane.shard.clone(),
                lane.pipeline.clone(),
                or_dash(lane.position.clone()),
                or_dash(lane.oldest.clone()),
                span(lane.iterator_age_seconds),
                thousands(lane.in_flight),
                or_dash(unread),
                thousands(lane.restarts),
                or_dash(lane.waits_for.clone()),
                or_dash(error),
            ]);
        }
        text.push('\n');
        text.push_str(&console.table(&table));
        if quiet > 0 {
            text.push_str(&format!("and {} with nothing open: --json\n", counted(quiet, "lane")));
        }
    }

    if !status.resources.is_empty() {
        let mut table = Table::new([
            left("RESOURCE"),
            right("ATTEMPTS"),
            right("FAILED"),
            right("RETRIES"),
            left("BREAKER"),
            left("WHILE OPEN"),
        ]);
        for resource in &status.resources {
            let breaker = resource.breaker.as_ref();
            let state = breaker.map(|breaker| match breaker.control.as_str() {
                "auto" => breaker.state.clone(),
                held => format!("{} ({held})", breaker.state),
            });
            table.row([
                resource.name.clone(),
                thousands(resource.attempts),
                thousands(resource.attempts.saturating_sub(resource.successes)),
                thousands(resource.retries),
                state.unwrap_or_else(|| "-".to_owned()),
                breaker.map_or_else(|| "-".to_owned(), |breaker| breaker.on_open.clone()),
            ]);
        }
        text.push('\n');
        text.push_str(&console.table(&table));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_many_lanes_those_are_shown_that_something_is_open_in() {
        let lane =
            |n: u64| json!({ "shard": format!("s{n}"), "oldest": (n == 7).then_some("4711") });
        let shown = |lanes: u64| {
            let lanes: Vec<Value> = (0..lanes).map(lane).collect();
            let status = serde_json::from_value(json!({ "lanes": lanes })).unwrap();
            text(&status, &Console::captured().0)
        };
        let few = shown(40);
        assert!(few.contains("\ns39 ") && !few.contains("nothing open"), "{few}");
        let many = shown(41);
        assert!(many.contains("\ns7 ") && !many.contains("\ns39 "), "{many}");
        assert!(many.contains("and 40 lanes with nothing open: --json\n"), "{many}");
    }
}

//! `lake stats`.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value, json};
use streambreaker::{BoxError, ProcessorBuilder};

use super::Sum;
use crate::args::{LakeAt, Output};
use crate::console::{Console, Tone};
use crate::failure::{Exit, Failure};
use crate::operator::{Operator, Task};
use crate::text::{Align, Table, bytes_counted, counted, escaped, thousands};

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $0 lake stats
  $0 lake stats orders --json | jq '.streams[].days'

A day is that of an object's first record. An object of few records costs more than they do: see `docs/lake.md`, What it costs.")]
pub(crate) struct Stats {
    /// The stream [default: all]
    stream: Option<String>,
    #[command(flatten)]
    lake: LakeAt,
    #[command(flatten)]
    output: Output,
}

impl<F> Operator<F>
where
    F: AsyncFn(Task) -> Result<ProcessorBuilder, BoxError>,
{
    pub(crate) async fn lake_stats(
        &self,
        stats: &Stats,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        let lake = self.places.lake(&stats.lake)?;
        let streams = self.places.streams(&lake, stats.stream.as_deref()).await?;
        if streams.is_empty() && !stats.output.json {
            console.print("no streams\n")?;
        }
        let mut told = Vec::new();
        for stream in streams {
            let manifest = lake.manifest(&stream).await?;
            let sum = Sum::of(&manifest.objects);
            let mut days: BTreeMap<String, Sum> = BTreeMap::new();
            for object in &manifest.objects {
                // the folder it lies in, which is that of its first record
                let day = object.path.split('/').find_map(|part| part.strip_prefix("date="));
                days.entry(day.unwrap_or("-").to_owned()).or_default().add(object);
            }
            if stats.output.json {
                let days: Vec<Value> = days
                    .iter()
                    .map(|(day, sum)| {
                        let mut json = sum.json();
                        json["day"] = json!(day);
                        json
                    })
                    .collect();
                let mut json = sum.json();
                json["stream"] = json!(stream);
                json["shards"] = json!(manifest.shards().len());
                json["days"] = json!(days);
                told.push(json);
                continue;
            }
            let each = |of: u64, by: u64| of as f64 / by.max(1) as f64;
            let mut text = format!(
                "{}  {} of {}, {:.0} bytes a record, {:.0} records an object\n",
                console.toned(Tone::Head, &escaped(&stream)),
                counted(sum.records, "record"),
                counted(manifest.shards().len() as u64, "shard"),
                each(sum.bytes, sum.records),
                each(sum.records, sum.objects),
            );
            let mut table = Table::new([
                ("DAY", Align::Left),
                ("RECORDS", Align::Right),
                ("OBJECTS", Align::Right),
                ("SIZE", Align::Right),
            ]);
            for (day, sum) in &days {
                let counts = [sum.records, sum.objects].map(thousands);
                table
                    .row([day.clone()].into_iter().chain(counts).chain([bytes_counted(sum.bytes)]));
            }
            text.push_str(&console.table(&table));
            console.print(&text)?;
        }
        if stats.output.json {
            console.json(&json!({ "streams": told }))?;
        }
        Ok(Exit::Done)
    }
}

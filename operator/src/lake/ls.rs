//! `lake ls`.

use clap::Args;
use serde_json::{Value, json};
use streambreaker::{BoxError, ProcessorBuilder};

use super::Sum;
use crate::args::{LakeAt, Output};
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::operator::{Operator, Task};
use crate::text::{Align, Table, bytes_counted, second, thousands};

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $0 lake ls                    the streams
  $0 lake ls orders             the objects of one
  $0 lake ls orders --json | jq '.objects[].path'")]
pub(crate) struct Ls {
    /// The stream whose objects are listed
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
    pub(crate) async fn lake_ls(&self, ls: &Ls, console: &mut Console) -> Result<Exit, Failure> {
        let lake = self.places.lake(&ls.lake)?;
        if let Some(stream) = &ls.stream {
            let stream = self.places.stream(&lake, Some(stream)).await?;
            let manifest = lake.manifest(&stream).await?;
            if ls.output.json {
                console.json(&json!({ "stream": stream, "objects": manifest.objects }))?;
                return Ok(Exit::Done);
            }
            let mut table = Table::new([
                ("RECORDS", Align::Right),
                ("SIZE", Align::Right),
                ("FIRST ARRIVAL", Align::Left),
                ("LAST ARRIVAL", Align::Left),
                ("PATH", Align::Left),
            ])
            .leaves_out(&["LAST ARRIVAL", "FIRST ARRIVAL"]);
            for object in &manifest.objects {
                table.row([
                    thousands(object.footer.records),
                    bytes_counted(object.size),
                    second(object.footer.arrival_min),
                    second(object.footer.arrival_max),
                    object.path.clone(),
                ]);
            }
            let text = console.table(&table);
            console.print(&text)?;
            return Ok(Exit::Done);
        }
        let (streams, foreign) = lake.streams().await?;
        let mut sums = Vec::with_capacity(streams.len());
        for stream in streams {
            let manifest = lake.manifest(&stream).await?;
            sums.push((stream, Sum::of(&manifest.objects)));
        }
        if ls.output.json {
            let streams: Vec<Value> = sums.iter().map(|(stream, sum)| row(stream, sum)).collect();
            console.json(&json!({ "streams": streams, "foreign": foreign }))?;
            return Ok(Exit::Done);
        }
        if sums.is_empty() {
            console.print("no streams\n")?;
        } else {
            let mut table = Table::new([
                ("STREAM", Align::Left),
                ("RECORDS", Align::Right),
                ("OBJECTS", Align::Right),
                ("SIZE", Align::Right),
                ("FIRST ARRIVAL", Align::Left),
                ("LAST ARRIVAL", Align::Left),
            ]);
            for (stream, sum) in &sums {
                let [first, last] = sum.span();
                table.row([
                    stream.clone(),
                    thousands(sum.records),
                    thousands(sum.objects),
                    bytes_counted(sum.bytes),
                    first,
                    last,
                ]);
            }
            let text = console.table(&table);
            console.print(&text)?;
        }
        for folder in foreign {
            console.note(&format!("foreign, and left alone: {folder}"));
        }
        Ok(Exit::Done)
    }
}

fn row(stream: &str, sum: &Sum) -> Value {
    let [first, last] = sum.arrivals();
    let mut json = sum.json();
    json["stream"] = json!(stream);
    json["first_arrival"] = json!(first);
    json["last_arrival"] = json!(last);
    json
}

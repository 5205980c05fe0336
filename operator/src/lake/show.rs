//! `lake show`.

use clap::Args;
use serde_json::{Value, json};
use streambreaker::{BoxError, ProcessorBuilder};

use super::Sum;
use crate::args::{LakeAt, Output};
use crate::console::{Console, Tone};
use crate::failure::{Exit, Failure};
use crate::operator::{Operator, Task};
use crate::text::{bytes_counted, counted, escaped};

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $0 lake show orders

It opens the ends of the objects only; `lake verify` reads them.")]
pub(crate) struct Show {
    /// The stream [default: the component's, or the only one that there is]
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
    pub(crate) async fn lake_show(
        &self,
        show: &Show,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        let lake = self.places.lake(&show.lake)?;
        let stream = self.places.stream(&lake, show.stream.as_deref()).await?;
        let manifest = lake.manifest(&stream).await?;
        let missing: Vec<&str> = manifest.missing.iter().map(|entry| entry.path.as_str()).collect();
        let damaged: Vec<String> =
            manifest.damaged.iter().map(|(path, damage)| format!("{path}: {damage}")).collect();
        let mut proven = false;
        let (mut shards, mut text) = (Vec::new(), String::new());
        let sum = Sum::of(&manifest.objects);
        let [first, last] = sum.span();
        text.push_str(&format!(
            "{}  {} in {}, {}, arrived {first} to {last}\n",
            console.toned(Tone::Head, &escaped(&stream)),
            counted(sum.records, "record"),
            counted(sum.objects, "object"),
            bytes_counted(sum.bytes),
        ));
        for shard in manifest.shards() {
            let (covered, gaps) = (manifest.covered(&shard), manifest.gaps(&shard));
            for range in &covered {
                text.push_str(&format!(
                    "shard {}: {} to {}, {}\n",
                    escaped(shard.as_str()),
                    escaped(&range.first.to_string()),
                    escaped(&range.last.to_string()),
                    counted(range.records, "record"),
                ));
            }
            for gap in &gaps {
                proven |= gap.proven;
                let what = if gap.proven {
                    console.toned(Tone::Bad, "missing")
                } else {
                    "perhaps missing".to_owned()
                };
                text.push_str(&format!(
                    "shard {}: {what} between {} and {}\n",
                    escaped(shard.as_str()),
                    escaped(&gap.after.to_string()),
                    escaped(&gap.before.to_string()),
                ));
            }
            shards.push(json!({ "shard": shard, "covered": covered, "gaps": gaps }));
        }
        let named = [
            ("deleted", missing.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>()),
            ("damaged", damaged.clone()),
            ("foreign", manifest.foreign.clone()),
        ];
        for (what, places) in named {
            for place in places {
                text.push_str(&format!("{what}: {}\n", escaped(&place)));
            }
        }
        match show.output.json {
            true => {
                let mut json = sum.json();
                json["stream"] = json!(stream);
                json["shards"] = Value::Array(shards);
                json["deleted"] = json!(missing);
                json["damaged"] = json!(damaged);
                json["foreign"] = json!(manifest.foreign);
                console.json(&json)?;
            }
            false => console.print(&text)?,
        }
        let whole = !proven && missing.is_empty() && damaged.is_empty();
        Ok(if whole { Exit::Done } else { Exit::No })
    }
}

//! `lake verify`.

use clap::Args;
use serde_json::{Value, json};
use streambreaker::{BoxError, ProcessorBuilder};
use streambreaker_lake::Finding;

use crate::args::{LakeAt, Output};
use crate::console::{Console, Tone};
use crate::failure::{Exit, Failure};
use crate::operator::{Operator, Task};
use crate::text::{bytes_counted, counted, escaped};

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $0 lake verify
  $0 lake verify orders || echo \"the lake is not sound\"

It ends with 4 where records are lost or in doubt. What is foreign, twice there or unproven is named, and harms no replay.")]
pub(crate) struct Verify {
    /// The streams [default: all]
    stream: Vec<String>,
    #[command(flatten)]
    lake: LakeAt,
    #[command(flatten)]
    output: Output,
}

impl<F> Operator<F>
where
    F: AsyncFn(Task) -> Result<ProcessorBuilder, BoxError>,
{
    pub(crate) async fn lake_verify(
        &self,
        verify: &Verify,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        let lake = self.places.lake(&verify.lake)?;
        let mut streams = Vec::new();
        for stream in &verify.stream {
            streams.push(self.places.stream(&lake, Some(stream)).await?);
        }
        if streams.is_empty() {
            streams = self.places.streams(&lake, None).await?;
        }
        if streams.is_empty() && !verify.output.json {
            console.print("no streams\n")?;
        }
        let (mut exit, mut reports, mut deleted) = (Exit::Done, Vec::new(), false);
        for stream in streams {
            let report = lake.verify(&stream).await?;
            let sound = report.is_sound();
            deleted |= report.findings.iter().any(|f| matches!(f, Finding::Deleted { .. }));
            if !sound {
                exit = Exit::No;
            }
            if verify.output.json {
                let mut json = json!(report);
                json["sound"] = sound.into();
                reports.push(json);
                continue;
            }
            let verdict = match sound {
                true => console.toned(Tone::Good, "sound"),
                false => console.toned(Tone::Bad, "not sound"),
            };
            let mut text = format!(
                "{}: {verdict}, {} in {}, {}\n",
                escaped(&stream),
                counted(report.records, "record"),
                counted(report.objects, "object"),
                bytes_counted(report.bytes)
            );
            for finding in &report.findings {
                text.push_str(&format!("  {}\n", escaped(&finding.to_string())));
            }
            console.print(&text)?;
        }
        if verify.output.json {
            let sound = exit == Exit::Done;
            console.json(&json!({ "sound": sound, "streams": Value::Array(reports) }))?;
        }
        if deleted {
            console.note("what was deleted on purpose is forgotten by `lake forget`");
        }
        Ok(exit)
    }
}

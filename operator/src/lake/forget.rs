//! `lake forget`.

use clap::Args;
use serde_json::json;
use streambreaker::{BoxError, ProcessorBuilder};

use crate::args::{LakeAt, Output, Who};
use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::operator::{Operator, Task};
use crate::replay::tell;
use crate::text::{counted, escaped};

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $0 lake forget orders                  which objects that would be
  $0 lake forget orders --yes --why \"a customer asked for it\"

What is deleted from the beginning of a shard, as a rule of the bucket does by age, is forgotten by itself. Without --yes
nothing is forgotten.")]
pub(crate) struct Forget {
    /// The stream
    stream: String,
    /// Forget them; without it, only say which they are
    #[arg(long, help_heading = "How")]
    yes: bool,
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    lake: LakeAt,
    #[command(flatten)]
    output: Output,
}

impl<F> Operator<F>
where
    F: AsyncFn(Task) -> Result<ProcessorBuilder, BoxError>,
{
    pub(crate) async fn lake_forget(
        &self,
        forget: &Forget,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        let by = forget.yes.then(|| forget.who.by()).transpose()?;
        let lake = self.places.lake(&forget.lake)?;
        let stream = self.places.stream(&lake, Some(&forget.stream)).await?;
        let mut manifest = lake.manifest(&stream).await?;
        let gone: Vec<String> = manifest.missing.iter().map(|object| object.path.clone()).collect();
        let records = manifest.missing.iter().map(|object| object.footer.records);
        let records = records.fold(0, u64::saturating_add);
        if let Some(by) = &by {
            manifest.forget_missing();
            lake.store_manifest(&manifest).await?;
            tracing::info!(
                target: "streambreaker::audit", who = by.who(), why = by.why(), processor = self.name,
                stream, objects = gone.len(), records, "deleted objects were forgotten",
            );
        }
        let mut text = String::new();
        for path in &gone {
            text.push_str(&format!("{}\n", escaped(path)));
        }
        let (objects, records_told) =
            (counted(gone.len() as u64, "object"), counted(records, "record"));
        text.push_str(&match by {
            None => format!("dry run: {objects} with {records_told} would be forgotten\n"),
            Some(_) => format!("{objects} with {records_told} forgotten\n"),
        });
        let json = json!({
            "dry_run": by.is_none(), "stream": stream, "objects": gone, "records": records,
        });
        tell(console, forget.output, &json, &text)?;
        if by.is_none() {
            console.note("nothing was forgotten; --yes --why \"…\" forgets them");
        }
        Ok(Exit::Done)
    }
}

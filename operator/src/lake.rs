//! `lake …`: what is stored.

mod forget;
mod grep;
mod ls;
mod show;
mod stats;
mod verify;

use clap::Subcommand;
use serde_json::{Value, json};
use streambreaker::{BoxError, ProcessorBuilder, Timestamp};
use streambreaker_lake::ManifestEntry;

use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::operator::{Operator, Task};
use crate::text::second;

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum LakeWord {
    /// List the streams, or the objects of one
    Ls(ls::Ls),
    /// Show what is covered of a stream, shard by shard, and what is missing
    Show(show::Show),
    /// Read everything, and prove that it is whole, or name what is not
    Verify(verify::Verify),
    /// Find records, and print them
    Grep(Box<grep::Grep>),
    /// Show how much there is, day by day, and what it takes
    Stats(stats::Stats),
    /// Note of objects that are missing that they were deleted on purpose
    Forget(forget::Forget),
}

impl<F> Operator<F>
where
    F: AsyncFn(Task) -> Result<ProcessorBuilder, BoxError>,
{
    pub(crate) async fn lake_word(
        &self,
        word: LakeWord,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        match word {
            LakeWord::Ls(ls) => self.lake_ls(&ls, console).await,
            LakeWord::Show(show) => self.lake_show(&show, console).await,
            LakeWord::Verify(verify) => self.lake_verify(&verify, console).await,
            LakeWord::Grep(grep) => self.lake_grep(&grep, console).await,
            LakeWord::Stats(stats) => self.lake_stats(&stats, console).await,
            LakeWord::Forget(forget) => self.lake_forget(&forget, console).await,
        }
    }
}

/// What some objects hold together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    pub(crate) objects: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    arrivals: Option<(Timestamp, Timestamp)>,
}

impl Sum {
    pub(crate) fn of<'a>(objects: impl IntoIterator<Item = &'a ManifestEntry>) -> Self {
        let mut sum = Self::default();
        objects.into_iter().for_each(|object| sum.add(object));
        sum
    }

    pub(crate) fn add(&mut self, object: &ManifestEntry) {
        let (first, last) = (object.footer.arrival_min, object.footer.arrival_max);
        self.objects += 1;
        self.records += object.footer.records;
        self.bytes += object.size;
        self.arrivals = Some(match self.arrivals {
            Some((earliest, latest)) => (earliest.min(first), latest.max(last)),
            None => (first, last),
        });
    }

    /// For a program; without the arrivals.
    pub(crate) fn json(&self) -> Value {
        json!({ "records": self.records, "objects": self.objects, "bytes": self.bytes })
    }

    /// When the first and the last arrived, to the second.
    pub(crate) fn span(&self) -> [String; 2] {
        match self.arrivals {
            Some((first, last)) => [second(first), second(last)],
            None => ["-".to_owned(), "-".to_owned()],
        }
    }

    /// The same, in full.
    pub(crate) fn arrivals(&self) -> [Option<String>; 2] {
        let times =
            self.arrivals.map(|(first, last)| [first, last].map(|time| Some(time.to_string())));
        times.unwrap_or_default()
    }
}

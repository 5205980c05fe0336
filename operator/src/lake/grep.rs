//! `lake grep`.

use std::num::NonZeroU64;

use clap::Args;
use serde_json::{Value, json};
use streambreaker::source::{Change, Read, Reader, Room, Source, SourceError};
use streambreaker::{BoxError, ProcessorBuilder, Record};

use crate::args::{LakeAt, Output, RecordArgs};
use crate::console::{Console, Tone};
use crate::failure::{Exit, Failure};
use crate::key::{hex, key_shown};
use crate::operator::{Operator, Task};
use crate::replay::note_damaged;
use crate::text::{bytes_shown, escaped, second, shortened};

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  $0 lake grep --id ca44a2f0-5e30-5a7f-87ee-8ce9515cdc8d
  $0 lake grep '\"customer\":\"ann\"' --type order-submitted --since 7d
  $0 lake grep --key customer-7 --limit 0 --json | jq -r .payload
  $0 lake grep --key hex:00ff17

Ids, types and keys are looked up in the objects' indexes; a text is searched for in every payload that is selected. With
--json there is a line for each record. It ends with 4 where nothing is found.")]
pub(crate) struct Grep {
    /// Only payloads in which this text stands, as it is written there
    text: Option<String>,
    #[command(flatten)]
    which: RecordArgs,
    /// At most so many; 0 is no limit
    #[arg(long, value_name = "N", default_value = "100", help_heading = "Output")]
    limit: u64,
    /// Payloads in full, and headers
    #[arg(long, help_heading = "Output")]
    full: bool,
    #[command(flatten)]
    lake: LakeAt,
    #[command(flatten)]
    output: Output,
}

/// How much is read at once.
const ROOM: Room = Room { records: 1_000, bytes: 16 << 20 };
/// How much of a payload is shown.
const PAYLOAD: usize = 160;

impl<F> Operator<F>
where
    F: AsyncFn(Task) -> Result<ProcessorBuilder, BoxError>,
{
    pub(crate) async fn lake_grep(
        &self,
        grep: &Grep,
        console: &mut Console,
    ) -> Result<Exit, Failure> {
        let lake = self.places.lake(&grep.lake)?;
        let stream = self.places.stream(&lake, grep.which.stream.as_deref()).await?;
        let mut source = lake.replay(grep.which.selection(&stream, self.now())?);
        let progress = source.progress();
        let limit = NonZeroU64::new(grep.limit).map_or(u64::MAX, NonZeroU64::get);
        let (mut found, mut more) = (0, false);
        while let Some(change) = source.next().await.map_err(unread)? {
            let Change::Assigned { mut reader, .. } = change else { continue };
            while !more {
                let records = match reader.read(ROOM).await.map_err(unread)? {
                    Read::Records { records, .. } => records,
                    Read::Gap { from, to } => {
                        let from = escaped(&from.to_string());
                        console.note(&format!("missing in the lake: from {from} up to {to}"));
                        continue;
                    }
                    _ => break,
                };
                let mut text = String::new();
                for record in records.iter().filter(|record| grep.takes(record)) {
                    more = found == limit;
                    if more {
                        break;
                    }
                    found += 1;
                    if grep.output.json {
                        console.json(&json_of(record))?;
                    } else {
                        text.push_str(&text_of(record, grep.full, console));
                    }
                }
                console.print(&text)?;
            }
            if more {
                break;
            }
        }
        note_damaged(&progress.counts(), console);
        if more {
            console.note(&format!("there are more than {limit}: --limit"));
        }
        match found {
            0 => Err(Failure::no("no such record")),
            _ => Ok(Exit::Done),
        }
    }
}

impl Grep {
    fn takes(&self, record: &Record) -> bool {
        let Some(text) = self.text.as_deref().filter(|text| !text.is_empty()) else { return true };
        record.payload().windows(text.len()).any(|window| window == text.as_bytes())
    }
}

fn unread(error: SourceError) -> Failure {
    Failure::of_source(error)
}

/// Bytes as text, or, where they are none, in hexadecimal digits under another name.
fn bytes_of(json: &mut Value, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => json[name] = text.into(),
        Err(_) => json[format!("{name}_hex")] = hex(bytes).into(),
    }
}

fn json_of(record: &Record) -> Value {
    let headers: Vec<Value> = record
        .headers()
        .iter()
        .map(|(name, value)| {
            let mut header = json!({ "name": name });
            bytes_of(&mut header, "value", value);
            header
        })
        .collect();
    let mut json = json!({
        "stream": record.stream(),
        "shard": record.shard(),
        "position": record.position(),
        "arrival": record.arrival().to_string(),
        "headers": headers,
    });
    if let Some(key) = record.key() {
        bytes_of(&mut json, "key", key);
    }
    bytes_of(&mut json, "payload", record.payload());
    json
}

fn text_of(record: &Record, full: bool, console: &Console) -> String {
    let place = format!("{}@{}", record.shard(), record.position());
    let key = record.key().map(|key| format!(" {}", shortened(&key_shown(key), 40)));
    let most = match console.width() {
        _ if full => usize::MAX,
        None => PAYLOAD,
        Some(width) => {
            let before = 20 + 1 + place.len() + key.as_ref().map_or(0, String::len) + 2;
            width.saturating_sub(before).clamp(20, PAYLOAD)
        }
    };
    let mut text = format!(
        "{} {}{}  {}\n",
        console.toned(Tone::Quiet, &second(record.arrival())),
        escaped(&place),
        key.unwrap_or_default(),
        shortened(&bytes_shown(record.payload()), most)
    );
    if full {
        for (name, value) in record.headers().iter() {
            text.push_str(&format!("    {}: {}\n", escaped(name), bytes_shown(value)));
        }
    }
    text
}

//! The command line.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const HELP: &str = "\
Takes a year of flights through three pipelines: delays, aircraft, cancellations.

Usage: flights [FILE] [--out DIR] [--json]

  FILE       one event a line; also .gz, if built with the feature `gzip`
             [default: examples/data/flights.ndjson, 5,000 events]
  --out DIR  where flights.db, faults.ndjson and the checkpoint go [default: target/flights]
  --json     print the report as JSON, and nothing else
  --help     print this

Ctrl-C ends it in peace, a second one at once. What is unfinished is done by the next run with the same FILE
and DIR. A run that came to its end begins anew, and changes nothing that is done already.";

pub(crate) struct Args {
    pub(crate) file: PathBuf,
    pub(crate) out: PathBuf,
    pub(crate) json: bool,
}

/// What the command line asks for.
pub(crate) enum Asked {
    Run(Args),
    /// To print this, and no more.
    Help(&'static str),
}

impl Asked {
    pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Asked, String> {
        let (mut file, mut out, mut json) = (None, None, false);
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            match arg.to_str() {
                Some("--help" | "-h") => return Ok(Asked::Help(HELP)),
                Some("--json") => json = true,
                Some("--out") => {
                    out = Some(PathBuf::from(args.next().ok_or("--out needs a directory")?));
                }
                Some(option) if option.starts_with("--out=") => {
                    out = Some(PathBuf::from(&option["--out=".len()..]));
                }
                Some(option) if option.starts_with('-') => {
                    return Err(format!("unknown option {option}; --help lists them"));
                }
                _ if file.is_some() => return Err("one FILE at most; --help says more".to_owned()),
                _ => file = Some(PathBuf::from(arg)),
            }
        }
        let file = file.unwrap_or_else(|| in_package("examples/data/flights.ndjson"));
        let out = out.unwrap_or_else(|| in_package("target/flights"));
        Ok(Asked::Run(Args { file, out, json }))
    }
}

/// A path in the package, as short as it can be said from here.
fn in_package(path: &str) -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    match env::current_dir() {
        Ok(here) if here == package => PathBuf::from(path),
        _ => package.join(path),
    }
}

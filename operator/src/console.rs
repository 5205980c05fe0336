//! Where a command prints: results on standard output, everything else on standard error.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::failure::Failure;
use crate::text::{Table, escaped_lines, json_escaped};

/// Where a command prints.
///
/// Colours and progress are for terminals only, and not for those that take no escape codes (`TERM=dumb`); colours not where
/// `NO_COLOR` is set either (<https://no-color.org>). Tables are cut to the width of the terminal, or to what `COLUMNS` says.
pub struct Console {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    colour: bool,
    live: bool,
    /// How many characters a line takes; unknown unless standard output is a terminal that says so.
    width: Option<usize>,
    /// Whether a line of progress stands there now.
    drawn: bool,
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console")
            .field("colour", &self.colour)
            .field("live", &self.live)
            .finish_non_exhaustive()
    }
}

/// What a test's console was given.
#[derive(Clone, Debug, Default)]
pub struct Printed(Arc<Mutex<Vec<u8>>>);

impl Printed {
    /// As text, lossily.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a text stands out for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Head,
    Good,
    Bad,
    Quiet,
}

impl Console {
    /// The process's own.
    pub fn of_process() -> Self {
        let (out, err) = (io::stdout(), io::stderr());
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            colour: out.is_terminal() && !plain && !dumb,
            live: err.is_terminal() && !dumb,
            width: out.is_terminal().then(columns).flatten(),
            out: Box::new(out),
            err: Box::new(err),
            drawn: false,
        }
    }

    /// Into memory, without colours or progress: standard output and standard error. For tests of a component.
    pub fn captured() -> (Self, Printed, Printed) {
        let (out, err) = (Printed::default(), Printed::default());
        let console = Self {
            out: Box::new(out.clone()),
            err: Box::new(err.clone()),
            colour: false,
            live: false,
            width: None,
            drawn: false,
        };
        (console, out, err)
    }

    /// Whether somebody watches, so that progress is worth drawing.
    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    /// How many characters a line takes, where that is known.
    pub(crate) fn width(&self) -> Option<usize> {
        self.width
    }

    pub(crate) fn toned(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Head => "1",
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Quiet => "2",
        };
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// A table as text, its head toned.
    pub(crate) fn table(&self, table: &Table) -> String {
        table.print(self.width, |head| self.toned(Tone::Head, head))
    }

    /// A result as one line of JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let mut json = serde_json::to_string(value).map_err(Failure::failed)?;
        json.push('\n');
        self.print(&json_escaped(&json))
    }

    /// A result as text, whose parts were escaped where they came in.
    pub(crate) fn print(&mut self, text: &str) -> Result<(), Failure> {
        self.undraw();
        self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).map_err(Failure::output)
    }

    /// Something that is no result: what was skipped, what to do next, an error.
    pub(crate) fn note(&mut self, text: &str) {
        self.undraw();
        // whoever closed standard error wants to hear nothing
        let _ = writeln!(self.err, "{}", escaped_lines(text));
    }

    /// After a dry run of what sends.
    pub(crate) fn note_nothing_sent(&mut self) {
        self.note("nothing was sent; --send --why \"…\" sends them");
    }

    /// Draws progress over the progress that was drawn before. The cursor goes back, so that a line of the log is written over
    /// it, and not behind it.
    pub(crate) fn draw(&mut self, line: &str) {
        if self.live {
            let _ = write!(self.err, "\r\u{1b}[2K{line}\r");
            let _ = self.err.flush();
            self.drawn = true;
        }
    }

    pub(crate) fn undraw(&mut self) {
        if self.drawn {
            let _ = write!(self.err, "\r\u{1b}[2K");
            let _ = self.err.flush();
            self.drawn = false;
        }
    }
}

fn columns() -> Option<usize> {
    let told = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    told.or_else(|| {
        let (width, _) = terminal_size::terminal_size_of(io::stdout())?;
        // a terminal that knows no size says none
        Some(usize::from(width.0)).filter(|width| *width > 0)
    })
}

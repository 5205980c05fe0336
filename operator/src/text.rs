//! Text for people: escaped, shortened, in columns.

use std::fmt::Write;

use streambreaker::Timestamp;

/// Whether a terminal may take this character as something other than text: control characters (of both sets), and those
/// that are not seen or turn the direction of what follows.
fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// Text of others as a terminal may see it (rule L12).
pub(crate) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match is_active(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// The same of text in lines, which stay lines.
pub(crate) fn escaped_lines(text: &str) -> String {
    text.split('\n').map(escaped).collect::<Vec<_>>().join("\n")
}

/// Bytes as text, where they are; else with what is none as `\xff`.
pub(crate) fn bytes_shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => escaped(text),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

/// JSON whose strings hold no character that a terminal acts upon. It is the same JSON.
pub(crate) fn json_escaped(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        // outside of strings there are no such characters but line ends
        if is_active(c) && c != '\n' {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(c);
        }
    }
    shown
}

/// At most so many characters.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// A time to the second.
pub(crate) fn second(time: Timestamp) -> String {
    let text = time.to_string();
    match text.split_once('.') {
        Some((second, _)) => format!("{second}Z"),
        None => text,
    }
}

/// `1,234,567`.
pub(crate) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// `1 fault`, `2,000 faults`.
pub(crate) fn counted(n: u64, what: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{} {what}{plural}", thousands(n))
}

/// `812 B`, `1.2 MB`.
pub(crate) fn bytes_counted(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if value < 999.5 || unit == "TB" {
            return match unit {
                "B" => format!("{bytes} B"),
                _ => format!("{value:.1} {unit}"),
            };
        }
        value /= 1_000.0;
    }
    unreachable!("the last unit takes everything")
}

/// A span of so many seconds: `12.5 s`, `45 min`, `30.1 h`, `694.6 d`.
pub(crate) fn span(secs: f64) -> String {
    match secs {
        ..120.0 => format!("{secs:.1} s"),
        120.0..7_200.0 => format!("{:.0} min", secs / 60.0),
        7_200.0..172_800.0 => format!("{:.1} h", secs / 3_600.0),
        _ => format!("{:.1} d", secs / 86_400.0),
    }
}

/// How a cell stands in its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A column that is shortened stays at least so wide, unless it was narrower before.
const LEAST: usize = 20;
/// And so wide where no other can be left out.
const LAST: usize = 8;
/// Between two columns.
const GAP: usize = 2;

/// Rows in columns that are as wide as their widest cell; where that is wider than a terminal, some columns are shortened, and
/// others left out. The cells are escaped here.
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
    shortens: &'static [&'static str],
    leaves_out: &'static [&'static str],
}

impl Table {
    pub(crate) fn new(columns: impl IntoIterator<Item = (&'static str, Align)>) -> Self {
        let columns = columns.into_iter().collect();
        Self { columns, rows: Vec::new(), shortens: &[], leaves_out: &[] }
    }

    /// These columns hold text that may be cut off at its end.
    pub(crate) fn shortens(mut self, columns: &'static [&'static str]) -> Self {
        self.shortens = columns;
        self
    }

    /// These columns may be left out, the first of them first, where shortening others does not help.
    pub(crate) fn leaves_out(mut self, columns: &'static [&'static str]) -> Self {
        self.leaves_out = columns;
        self
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().map(|cell| escaped(&cell)).collect();
        assert_eq!(cells.len(), self.columns.len(), "a cell a column");
        self.rows.push(cells);
    }

    /// The lines, the head first, which `head` makes stand out; at most as wide as `room`, if that can be done.
    pub(crate) fn print(&self, room: Option<usize>, head: impl Fn(&str) -> String) -> String {
        let shown = self.fit(room.unwrap_or(usize::MAX));
        let line = |cells: &dyn Fn(usize) -> String| {
            let mut line = String::new();
            for (at, width) in &shown {
                let cell = shortened(&cells(*at), *width);
                let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
                let gap = " ".repeat(GAP);
                line.push_str(&match self.columns[*at].1 {
                    Align::Left => format!("{cell}{pad}{gap}"),
                    Align::Right => format!("{pad}{cell}{gap}"),
                });
            }
            line.trim_end().to_owned()
        };
        let mut text = head(&line(&|at| self.columns[at].0.to_owned()));
        text.push('\n');
        for row in &self.rows {
            text.push_str(&line(&|at| row[at].clone()));
            text.push('\n');
        }
        text
    }

    /// Which columns are shown, and how wide each is.
    fn fit(&self, room: usize) -> Vec<(usize, usize)> {
        let width = |at: usize| {
            let cells = self.rows.iter().map(|row| row[at].chars().count());
            cells.max().unwrap_or(0).max(self.columns[at].0.len())
        };
        let mut shown: Vec<(usize, usize)> =
            (0..self.columns.len()).map(|at| (at, width(at))).collect();
        let gives = |column: &(usize, usize)| self.shortens.contains(&self.columns[column.0].0);
        let least =
            |column: &(usize, usize)| if gives(column) { column.1.min(LEAST) } else { column.1 };
        let mut going = self.leaves_out.iter();
        loop {
            let gaps = GAP * shown.len().saturating_sub(1);
            let needed = shown.iter().map(least).sum::<usize>() + gaps;
            let next = if needed > room { going.next() } else { None };
            let Some(next) = next else {
                let (mut left, mut over) =
                    (room.saturating_sub(needed), needed.saturating_sub(room));
                return shown
                    .iter()
                    .map(|column| {
                        let more = (column.1 - least(column)).min(left);
                        let less =
                            if gives(column) { least(column).saturating_sub(LAST) } else { 0 };
                        let less = less.min(over);
                        (left, over) = (left - more, over - less);
                        (column.0, least(column) + more - less)
                    })
                    .collect();
            };
            shown.retain(|(at, _)| self.columns[*at].0 != *next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l12_what_a_terminal_would_act_upon_is_escaped() {
        let hostile = "a\u{1b}[2Jb\u{9b}1mc\r\u{202e}d\u{200b}";
        let shown = escaped(hostile);
        assert_eq!(shown, r"a\u{1b}[2Jb\u{9b}1mc\r\u{202e}d\u{200b}");
        assert_eq!(bytes_shown(b"\xff\x1b"), r"\xff\x1b");
        assert_eq!(escaped("Grüße, 東京"), "Grüße, 東京");
        let json = serde_json::json!({"text": hostile, "more": "\u{e0041}"}).to_string();
        let safe = json_escaped(&json);
        assert!(!safe.chars().any(is_active), "{safe}");
        let same: serde_json::Value = serde_json::from_str(&safe).unwrap();
        assert_eq!(same, serde_json::from_str::<serde_json::Value>(&json).unwrap());
    }

    #[test]
    fn numbers_are_grouped_and_have_units() {
        assert_eq!([thousands(0), thousands(999), thousands(1_234_567)], ["0", "999", "1,234,567"]);
        assert_eq!([bytes_counted(999), bytes_counted(1_234_000)], ["999 B", "1.2 MB"]);
        assert_eq!(bytes_counted(999_999), "1.0 MB");
        assert_eq!(bytes_counted(u64::MAX), "18446744.1 TB");
        assert_eq!([counted(1, "fault"), counted(2_000, "fault")], ["1 fault", "2,000 faults"]);
        let spans = [0.0, 119.9, 120.0, 7_199.0, 7_200.0, 172_799.0, 60_014_812.5].map(span);
        assert_eq!(spans, ["0.0 s", "119.9 s", "2 min", "120 min", "2.0 h", "48.0 h", "694.6 d"]);
        assert_eq!([shortened("abcd", 4), shortened("abcde", 4)], ["abcd", "abc…"]);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new([("N", Align::Right), ("NAME", Align::Left)]);
        table.row(["7".into(), "a\tb".into()]);
        table.row(["1000".into(), "longer name".into()]);
        let text = table.print(None, str::to_owned);
        assert_eq!(text, "   N  NAME\n   7  a\\tb\n1000  longer name\n");
    }

    #[test]
    fn a_table_fits_a_terminal_where_it_can() {
        let columns = ["ID", "KIND", "WHERE", "ERROR"].map(|name| (name, Align::Left));
        let mut table = Table::new(columns).shortens(&["ERROR"]).leaves_out(&["KIND", "WHERE"]);
        let error = "what nobody had thought of before it happened";
        table.row(["an-id-that-is-whole".into(), "fault".into(), "a/b".into(), error.into()]);
        let line = |room| {
            let text = table.print(room, str::to_owned);
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            assert!(lines.iter().all(|line| room.is_none_or(|room| line.chars().count() <= room)));
            lines[1].clone()
        };
        let whole = format!("an-id-that-is-whole  fault  a/b    {error}");
        assert_eq!([line(None), line(Some(80))], [whole.clone(), whole.clone()]);
        assert_eq!(line(Some(79)), whole.replace("happened", "happen…"));
        assert_eq!(line(Some(55)), "an-id-that-is-whole  fault  a/b    what nobody had tho…");
        assert_eq!(line(Some(54)), "an-id-that-is-whole  a/b    what nobody had thought o…");
        assert_eq!(line(Some(41)), "an-id-that-is-whole  what nobody had tho…");
        assert_eq!(line(Some(35)), "an-id-that-is-whole  what nobody h…");
        // what is left is needed, however narrow it is
        let text = table.print(Some(7), str::to_owned);
        assert!(text.ends_with("an-id-that-is-whole  what no…\n"), "{text}");
    }
}

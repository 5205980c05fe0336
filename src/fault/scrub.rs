//! Secrets in error texts: found by their look, replaced by `***`.
//!
//! Fault events are the one place where the text of an error is kept, and error texts quote URLs,
//! headers and configuration. The default takes what is a secret by its shape; what only the
//! business knows to be one takes a [`Scrubber`] of its own.
//!
//! It is one pass by hand rather than a list of patterns: it runs over text that others choose, so it
//! must be linear, and scrubbing twice must change nothing.

use std::borrow::Cow;

const MASK: &str = "***";

/// Takes secrets out of the texts of a fault event: message, stack, derived value.
pub trait Scrubber: Send + Sync {
    /// The text without its secrets. Called for every text of every fault: it must be linear, and a
    /// panic here would be one of the lane.
    fn scrub<'a>(&self, text: &'a str) -> Cow<'a, str>;
}

impl<F: Fn(&str) -> Option<String> + Send + Sync> Scrubber for F {
    /// A function that returns what to put in place of a text, or `None` to leave it.
    fn scrub<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self(text).map_or(Cow::Borrowed(text), Cow::Owned)
    }
}

/// Leaves every text as it is: for where fault events are sealed and read by few.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoScrub;

impl Scrubber for NoScrub {
    fn scrub<'a>(&self, text: &'a str) -> Cow<'a, str> {
        Cow::Borrowed(text)
    }
}

/// The default: replaces by `***` the user info of URLs, bearer and basic credentials, JSON web
/// tokens, keys of well-known prefixes (AWS, GitHub, Slack, Stripe and others), PEM private keys, and
/// the values that follow names such as `password`, `token`, `secret` or `…key` and `=` or `:`, in JSON
/// and outside.
///
/// ```
/// use streambreaker::fault::{Scrub, Scrubber};
///
/// assert_eq!(
///     Scrub.scrub("cannot reach postgres://app:hunter2@db/orders?sslmode=off&password=x"),
///     "cannot reach postgres://***@db/orders?sslmode=off&password=***",
/// );
/// assert_eq!(Scrub.scrub(r#"{"apiKey": "a b", "n": 1}"#), r#"{"apiKey": "***", "n": 1}"#);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Scrub;

impl Scrubber for Scrub {
    fn scrub<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let scrubbed = Pass { text, bytes: text.as_bytes(), out: String::new(), url: None }.run();
        if scrubbed == text { Cow::Borrowed(text) } else { Cow::Owned(scrubbed) }
    }
}

/// A URL being copied: where in the output its authority starts, and whether it is sure by now that
/// it begins with a user and a password (which may hold an unescaped `/`).
struct Url {
    start: usize,
    credentials: bool,
}

struct Pass<'a> {
    text: &'a str,
    bytes: &'a [u8],
    out: String,
    url: Option<Url>,
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

fn is_token(byte: u8) -> bool {
    is_word(byte) || matches!(byte, b'.' | b'~' | b'+' | b'/' | b'=')
}

/// What ends a value without quotes.
fn ends_value(byte: u8) -> bool {
    byte.is_ascii_whitespace() || b",;&)}]\"'<>`".contains(&byte)
}

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";

impl Pass<'_> {
    fn run(mut self) -> String {
        self.out.reserve(self.text.len());
        let mut at = 0;
        while at < self.bytes.len() {
            at = if self.bytes[at] == b'-' && self.text[at..].starts_with(BEGIN) {
                self.pem(at)
            } else if is_word(self.bytes[at]) {
                self.word(at)
            } else {
                self.other(at)
            };
        }
        self.out
    }

    /// The end of the run from `from` on of bytes that `keep`.
    fn run_end(&self, from: usize, keep: impl Fn(u8) -> bool) -> usize {
        self.bytes[from..].iter().position(|b| !keep(*b)).map_or(self.bytes.len(), |n| from + n)
    }

    /// A character outside of words. Whether `@` ends user info is decided by what has been *put out*
    /// since `://`, not by what was read: only so does a second pass see the same.
    fn other(&mut self, at: usize) -> usize {
        let rest = &self.text[at..];
        let Some(first) = rest.chars().next() else { return self.bytes.len() };
        if rest.starts_with("://") {
            self.out.push_str("://");
            self.url = Some(Url { start: self.out.len(), credentials: false });
            return at + 3;
        }
        if let Some(url) = &mut self.url {
            match first {
                '@' => {
                    self.out.truncate(url.start);
                    self.out.push_str(MASK);
                }
                '/' | '?' | '#' if !url.credentials => {
                    let authority = &self.out[url.start..];
                    let port = authority.split_once(':').map(|(_, port)| port);
                    url.credentials = !authority.starts_with('[')
                        && port.is_some_and(|port| !port.bytes().all(|b| b.is_ascii_digit()));
                    if !url.credentials {
                        self.url = None;
                    }
                }
                '"' | '\'' | '<' | '>' => self.url = None,
                _ if first.is_ascii_whitespace() => self.url = None,
                _ => {}
            }
        }
        self.out.push(first);
        at + first.len_utf8()
    }

    fn pem(&mut self, at: usize) -> usize {
        let label = at + BEGIN.len();
        let title =
            self.run_end(label, |b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b' ');
        if !self.text[label..title].ends_with("PRIVATE KEY") {
            self.out.push_str(&self.text[at..title]);
            return title;
        }
        self.out.push_str(&self.text[at..title]);
        self.out.push_str("-----");
        self.out.push_str(MASK);
        self.url = None;
        match self.text[title..].find(END) {
            Some(end) => {
                let end = title + end;
                let tail = self.run_end(end + END.len(), |b| b.is_ascii_uppercase() || b == b' ');
                self.out.push_str(&self.text[end..tail]);
                tail
            }
            None => self.bytes.len(),
        }
    }

    fn word(&mut self, at: usize) -> usize {
        let end = self.run_end(at, is_word);
        let word = &self.text[at..end];
        if known_prefix(word) {
            self.out.push_str(MASK);
            return end;
        }
        if word.starts_with("eyJ") {
            let token = self.run_end(at, |b| is_word(b) || b == b'.');
            if self.text[at..token].matches('.').count() >= 2 {
                self.out.push_str(MASK);
                return token;
            }
        }
        if word.eq_ignore_ascii_case("bearer") || word.eq_ignore_ascii_case("basic") {
            let from = self.run_end(end, |b| b == b' ' || b == b'\t');
            let token = self.run_end(from, is_token);
            if from > end && credential(word, &self.text[from..token]) {
                self.out.push_str(&self.text[at..from]);
                self.out.push_str(MASK);
                self.url = None;
                return token;
            }
        }
        self.out.push_str(word);
        match secret_name(word) {
            Some(reach) => self.value(end, reach),
            None => end,
        }
    }

    /// What follows a name such as `password`: if it is a separator and a value, the separator is
    /// copied and the value masked.
    fn value(&mut self, name_end: usize, reach: Reach) -> usize {
        let quote_of_name = self.quote(name_end).map_or(name_end, |(_, after)| after);
        let separator = self.run_end(quote_of_name, |b| b == b' ' || b == b'\t');
        let rest = &self.bytes[separator..];
        let after = match rest {
            [b'=', b'>', ..] => separator + 2,
            // a path of Rust, or a URL whose scheme happens to be called so
            [b':', b':', ..] | [b':', b'/', b'/', ..] => return name_end,
            [b'=' | b':', ..] => separator + 1,
            _ => return name_end,
        };
        let start = self.run_end(after, |b| b == b' ' || b == b'\t');
        let (start, end) = match self.quote(start) {
            Some((slashes, inside)) => (inside, self.closing(inside, slashes)),
            // the members of an object have names of their own
            None if self.bytes.get(start) == Some(&b'{') => return name_end,
            // a list, and what hangs on it: a second pass takes it for a part of the mask
            None if self.bytes.get(start) == Some(&b'[') => {
                (start, self.value_end(self.bracket_end(start), reach))
            }
            None => (start, self.value_end(start, reach)),
        };
        if end == start {
            return name_end;
        }
        let between = &self.text[name_end..start];
        if self.url.is_some() && between.contains(['"', '\'', ' ', '\t', '>']) {
            self.url = None;
        }
        self.out.push_str(between);
        self.out.push_str(MASK);
        end
    }

    /// The end of a value without quotes, of which what lies before `from` is known to be part.
    fn value_end(&self, from: usize, reach: Reach) -> usize {
        match reach {
            Reach::Word => self.run_end(from, |b| !ends_value(b)),
            Reach::Line => self.run_end(from, |b| b != b'\n' && b != b'\r'),
        }
    }

    /// Behind the bracket that closes the one at `from`; the end of the text if none does, since what
    /// follows may be more of the list.
    fn bracket_end(&self, from: usize) -> usize {
        let mut depth = 0_usize;
        for at in from..self.bytes.len() {
            match self.bytes[at] {
                b'[' => depth += 1,
                b']' if depth == 1 => return at + 1,
                b']' => depth -= 1,
                _ => {}
            }
        }
        self.bytes.len()
    }

    /// A quote at `at`, maybe escaped (JSON in a string): its character and backslashes, and where
    /// what it quotes begins.
    fn quote(&self, at: usize) -> Option<((u8, usize), usize)> {
        let quote = self.run_end(at, |b| b == b'\\');
        match self.bytes.get(quote) {
            Some(mark @ (b'"' | b'\'' | b'`')) => Some(((*mark, quote - at), quote + 1)),
            _ => None,
        }
    }

    /// Where a quoted value ends: before the closing quote and its backslashes; at the end of the line
    /// if it is not closed.
    fn closing(&self, from: usize, (mark, slashes): (u8, usize)) -> usize {
        let mut run = 0;
        for at in from..self.bytes.len() {
            match self.bytes[at] {
                b'\\' => run += 1,
                b'\n' => return at,
                byte if byte == mark && (run == slashes || (slashes == 0 && run % 2 == 0)) => {
                    return at - run.min(slashes);
                }
                byte if byte == mark && run < slashes => return at - run,
                _ => run = 0,
            }
        }
        self.bytes.len()
    }
}

/// How far the value of a secret name reaches.
#[derive(Clone, Copy)]
enum Reach {
    Word,
    /// `Authorization: Digest username=…, response=…`
    Line,
}

fn secret_name(word: &str) -> Option<Reach> {
    // no name of a field is that long, and lower-casing costs an allocation
    if word.len() > 64 {
        return None;
    }
    let name: String = (word.bytes())
        .filter(|b| !matches!(b, b'_' | b'-'))
        .map(|b| char::from(b.to_ascii_lowercase()))
        .collect();
    if name.ends_with("authorization") || name.ends_with("cookie") {
        return Some(Reach::Line);
    }
    const ENDS: [&str; 9] = [
        "key",
        "token",
        "tokens",
        "pwd",
        "passphrase",
        "signature",
        "credential",
        "credentials",
        "apikeys",
    ];
    const HOLDS: [&str; 3] = ["password", "passwd", "secret"];
    let whole = matches!(&*name, "sig" | "pass" | "auth" | "jwt" | "sessionid");
    let secret = whole
        || ENDS.iter().any(|end| name.ends_with(end))
        || HOLDS.iter().any(|part| name.contains(part));
    secret.then_some(Reach::Word)
}

fn credential(scheme: &str, token: &str) -> bool {
    const PROSE: [&str; 6] =
        ["token", "tokens", "auth", "authentication", "authorization", "realm"];
    if token.is_empty() || PROSE.iter().any(|word| token.eq_ignore_ascii_case(word)) {
        return false;
    }
    // `basic` is also an ordinary word: base64 of `user:password` is long and mixes cases or digits
    scheme.eq_ignore_ascii_case("bearer")
        || (token.len() >= 8
            && token.bytes().any(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'='))
}

/// Keys that say what they are: AWS key ids, and the prefixes that providers use so that scanners find
/// leaked ones.
fn known_prefix(word: &str) -> bool {
    const AWS: [&str; 6] = ["AKIA", "ASIA", "AROA", "AIDA", "AGPA", "ABIA"];
    const OTHERS: [&str; 16] = [
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
        "github_pat_",
        "glpat-",
        "xoxb-",
        "xoxp-",
        "xoxa-",
        "xapp-",
        "sk-",
        "sk_live_",
        "rk_live_",
        "AIza",
        "npm_",
    ];
    let aws = word.len() >= 20
        && AWS.iter().any(|prefix| word.starts_with(prefix))
        && word.bytes().take(20).all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    aws || (word.len() >= 20 && OTHERS.iter().any(|prefix| word.starts_with(prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn l12_secrets_are_masked() {
        for (text, scrubbed) in [
            ("GET https://u:p@h:8080/x?token=abc&n=1", "GET https://***@h:8080/x?token=***&n=1"),
            ("amqp://u:p/ss@h/v", "amqp://***@h/v"),
            ("http://h:8080/a@b http://[::1]/a@b", "http://h:8080/a@b http://[::1]/a@b"),
            ("sent Bearer abc.def-1=, got 401", "sent Bearer ***, got 401"),
            ("Authorization: Bearer abc, Basic x\nnext", "Authorization: ***\nnext"),
            (r#"{"authorization":"Basic dTpw","n":1}"#, r#"{"authorization":"***","n":1}"#),
            ("basic auth failed for Basic dXNlcjpwYXNz", "basic auth failed for Basic ***"),
            ("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln.", "jwt ***"),
            ("key id AKIAIOSFODNN7EXAMPLE.", "key id ***."),
            ("AWS_SECRET_ACCESS_KEY=wJalr/XUt+nFEMI rest", "AWS_SECRET_ACCESS_KEY=*** rest"),
            (r#"{\"password\": \"a \\\" b\", \"n\": 1}"#, r#"{\"password\": \"***\", \"n\": 1}"#),
            (
                r#"{"tokens":[["a"],
                ["b"]],"n":1}"#,
                r#"{"tokens":***,"n":1}"#,
            ),
            ("key:[]://", "key:***"),
            ("authorization: [a] b\nnext", "authorization: ***\nnext"),
            (r#"{"credentials":{"pass":"b"}}"#, r#"{"credentials":{"pass":"***"}}"#),
            ("password = 'a b', user=c", "password = '***', user=c"),
            ("Password: hunter2; x", "Password: ***; x"),
            ("db_password=\"open\nnext", "db_password=\"***\nnext"),
            ("secret => :x, pwd=", "secret => ***, pwd="),
            ("X-Amz-Signature=abc&X-Amz-Date=1", "X-Amz-Signature=***&X-Amz-Date=1"),
            ("at Token::parse and token://x", "at Token::parse and token://x"),
            (
                "-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY----- x",
                "-----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY----- x",
            ),
            ("-----BEGIN PRIVATE KEY-----\nMII", "-----BEGIN PRIVATE KEY-----***"),
            ("ghp_0123456789abcdefghij0123456789abcdef", "***"),
            ("nothing here: 5 of 7 missing field `token` at line 1", ""),
            ("größe: ü", ""),
        ] {
            let expected = if scrubbed.is_empty() { text } else { scrubbed };
            assert_eq!(Scrub.scrub(text), expected);
            assert_eq!(Scrub.scrub(expected), expected, "twice");
        }
    }

    #[test]
    fn a_clean_text_is_not_copied() {
        assert!(matches!(Scrub.scrub("all is well"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_function_is_a_scrubber() {
        let scrubber = |text: &str| text.contains("smith").then(|| text.replace("smith", "***"));
        assert_eq!(Scrubber::scrub(&scrubber, "mr smith"), "mr ***");
    }

    #[test]
    fn hostile_texts_take_linear_time() {
        // a quadratic pass over a megabyte would not end
        for part in [
            "://a:b/",
            "key=\"",
            "\\",
            "-----BEGIN RSA PRIVATE KEY",
            "eyJ.",
            "@://",
            "bearer ",
            "k'",
            "key ",
        ] {
            let text = part.repeat((1 << 20) / part.len());
            let _ = Scrub.scrub(&text);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn any_text_can_be_scrubbed_and_twice_changes_nothing(
            parts in proptest::collection::vec(
                prop_oneof![
                    "\\PC{0,4}",
                    "://|@|/|:|=|\"|'|\\\\|\n| |,|;|\\[|\\]|\\{|#|eyJ|\\.|-",
                    "key|password|bearer|basic|token|authorization|a1|AKIAIOSFODNN7EXAMPLE|ghp_0123456789abcdefgh",
                    "-----BEGIN PRIVATE KEY-----|-----END |ü",
                ],
                0..16,
            )
        ) {
            let text = parts.concat();
            let once = Scrub.scrub(&text).into_owned();
            prop_assert_eq!(Scrub.scrub(&once), once.clone(), "text {:?}", text);
        }

        #[test]
        fn l12_no_value_of_a_password_is_left(
            value in "[A-Za-z0-9+!%]{6,20}", before in "[a-z ]{0,10}", quote in "[\"']",
        ) {
            let wrapped = format!("{before} password={quote}{value}{quote} {before} x://u:{value}@h");
            let scrubbed = Scrub.scrub(&wrapped).into_owned();
            prop_assert!(!scrubbed.contains(&value), "{}", scrubbed);
        }
    }
}

//! A word with a component that runs, over the Unix socket of its switches.
//!
//! So that an operator needs no `curl` in the image: `kubectl exec deploy/orders -- orders ask GET /status`.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

/// What it answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Sends one request and waits for the answer, 12 s at most.
///
/// # Errors
/// When nobody listens on the socket, or what comes back is no answer.
#[cfg(unix)]
pub fn ask(socket: &Path, method: &str, path: &str, body: &str) -> io::Result<Answer> {
    let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
    // the listener ends every connection after ten
    stream.set_read_timeout(Some(Duration::from_secs(12)))?;
    stream.set_write_timeout(Some(Duration::from_secs(12)))?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}"
    );
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "that is no answer"))
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some(Answer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_status_and_a_body() {
        let answer = parse("HTTP/1.1 503 Service Unavailable\r\na: b\r\n\r\n{}").unwrap();
        assert_eq!(answer, Answer { status: 503, body: "{}".into() });
        for bad in ["", "HTTP/1.1 200 OK", "SSH-2.0\r\n\r\n", "HTTP/1.1 \u{fc}\u{fc}\r\n\r\n"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}

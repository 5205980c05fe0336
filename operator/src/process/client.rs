//! A word with a component that runs: one request over HTTP, to an address or a Unix socket.
//!
//! By hand, because one request a connection to a listener of this workspace is all there is to it.

use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::failure::{Exit, Failure};

/// The listener ends every connection after ten seconds.
const PATIENCE: Duration = Duration::from_secs(12);
/// More is no status.
const LONGEST: u64 = 16 << 20;

/// Where a component listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Url {
    /// Host and port.
    Http(String),
    Unix(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("accepted: http://127.0.0.1:9464, or unix:/run/orders/admin.sock")]
pub(crate) struct NoUrl;

impl FromStr for Url {
    type Err = NoUrl;

    fn from_str(text: &str) -> Result<Self, NoUrl> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(NoUrl) } else { Ok(Url::Unix(path.into())) };
        }
        let host = text.strip_prefix("http://").ok_or(NoUrl)?;
        let host = host.strip_suffix('/').unwrap_or(host);
        let bare = host.bytes().all(|b| b.is_ascii_graphic() && !b"/?#@\\".contains(&b));
        match host.rsplit_once(':') {
            Some((name, port)) if bare && !name.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Url::Http(host.to_owned()))
            }
            _ => Err(NoUrl),
        }
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Url::Http(host) => write!(f, "http://{host}"),
            Url::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Url {
    /// What stands there.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.ask("GET", path, "", json).await
    }

    /// The same, where it is no JSON.
    pub(crate) async fn text(&self, path: &str) -> Result<String, Failure> {
        self.ask("GET", path, "", |body| String::from_utf8(body.to_vec()).ok()).await
    }

    /// Turns a switch.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.ask("POST", path, &body.to_string(), json).await
    }

    async fn ask<T>(
        &self,
        method: &str,
        path: &str,
        body: &str,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<T, Failure> {
        let host = match self {
            Url::Http(host) => host,
            Url::Unix(_) => "localhost",
        };
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let answer = match timeout(PATIENCE, self.exchange(request.as_bytes())).await {
            Ok(answer) => answer,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let answer = answer.map_err(|error| {
            let message = format!("nobody answers on {self}: does the component run, and with this listener? --url names another");
            Failure::because(message, error)
        })?;
        let (status, body) = parse(&answer).ok_or_else(|| {
            Failure::failed(format!("what answers on {self} is no admin listener of a component"))
        })?;
        if let (200..=299, Some(read)) = (status, read(body)) {
            return Ok(read);
        }
        let said = json(body);
        let said = said.as_ref().and_then(|json| json["error"].as_str());
        let said = said.unwrap_or("it says no more");
        let exit = match status {
            // there is nothing to be done
            409 => Exit::No,
            // what it does not know or take is a mistake of the command
            400..=499 => Exit::Unusable,
            _ => Exit::Failed,
        };
        Err(Failure { exit, ..Failure::failed(format!("refused ({status}): {said}")) })
    }

    async fn exchange(&self, request: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Url::Http(host) => talk(tokio::net::TcpStream::connect(host).await?, request).await,
            #[cfg(unix)]
            Url::Unix(path) => talk(tokio::net::UnixStream::connect(path).await?, request).await,
            #[cfg(not(unix))]
            Url::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

fn json(body: &[u8]) -> Option<Value> {
    serde_json::from_slice(body).ok()
}

async fn talk(mut io: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> io::Result<Vec<u8>> {
    // whoever has heard enough may close before all is sent, and has answered all the same
    let sent = io.write_all(request).await;
    let mut answer = Vec::new();
    let read = io.take(LONGEST).read_to_end(&mut answer).await;
    match (read, sent) {
        _ if !answer.is_empty() => Ok(answer),
        (Err(error), _) | (Ok(_), Err(error)) => Err(error),
        (Ok(_), Ok(())) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Status and body.
fn parse(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, &answer[end + 4..]))
}

/// A name as a segment of a path.
pub(crate) fn segment(name: &str) -> String {
    let mut segment = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            segment.push(char::from(byte));
        } else {
            segment.push_str(&format!("%{byte:02X}"));
        }
    }
    segment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_an_address_or_a_socket() {
        let host = |text: &str| text.parse::<Url>();
        assert_eq!(host("http://127.0.0.1:9464/"), Ok(Url::Http("127.0.0.1:9464".into())));
        assert_eq!(host("http://[::1]:9464"), Ok(Url::Http("[::1]:9464".into())));
        assert_eq!(host("unix:/run/a.sock"), Ok(Url::Unix("/run/a.sock".into())));
        assert_eq!(host("unix:///run/a.sock"), Ok(Url::Unix("/run/a.sock".into())));
        for bad in [
            "",
            "127.0.0.1:9464",
            "https://127.0.0.1:9464",
            "http://127.0.0.1",
            "http://:80",
            "http://a:99999",
            "http://a:80/status",
            "http://a b:80",
            "http://a\r\nHost: b:80",
            "unix:",
        ] {
            assert_eq!(host(bad), Err(NoUrl), "{bad}");
        }
    }

    #[test]
    fn an_answer_is_a_status_and_a_body() {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\na: b\r\n\r\n{}";
        assert_eq!(parse(answer), Some((503, &b"{}"[..])));
        for bad in [&b""[..], b"HTTP/1.1 200 OK", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 \xfc\xfc\r\n\r\n"]
        {
            assert_eq!(parse(bad), None);
        }
        assert_eq!(segment("a/b ä"), "a%2Fb%20%C3%A4");
    }
}

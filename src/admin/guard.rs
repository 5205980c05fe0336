//! Which requests are refused whatever they ask for: those that a web page may have sent.

use std::net::IpAddr;

use hyper::header::{CONTENT_TYPE, HOST, ORIGIN};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use hyper::{Method, StatusCode, Version};

use super::reply::Reply;

/// By which names the listener may be called.
#[derive(Clone, Debug)]
pub(super) enum Hosts {
    /// Any: no browser reaches a Unix socket.
    Any,
    /// IP addresses, `localhost`, and these.
    Known(Vec<String>),
}

impl Hosts {
    fn allows(&self, authority: &str) -> bool {
        let Hosts::Known(names) = self else { return true };
        // of an authority with a user part it is not clear who reads which half of it
        let Some(authority) =
            authority.parse::<Authority>().ok().filter(|_| !authority.contains('@'))
        else {
            return false;
        };
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        bare.parse::<IpAddr>().is_ok()
            || host.eq_ignore_ascii_case("localhost")
            || names.iter().any(|name| host.eq_ignore_ascii_case(name))
    }
}

/// Refuses what may come from a web page.
pub(super) fn check(request: &Parts, hosts: &Hosts) -> Result<(), Reply> {
    let mut named = request.headers.get_all(HOST).iter();
    let (host, second) = (named.next(), named.next());
    if second.is_some() {
        return Err(Reply::error(StatusCode::BAD_REQUEST, "more than one Host header"));
    }
    if host.is_none() && request.version > Version::HTTP_10 {
        return Err(Reply::error(StatusCode::BAD_REQUEST, "no Host header"));
    }
    let header = host.map(|host| host.to_str().unwrap_or("\u{fffd}"));
    let target = request.uri.authority().map(Authority::as_str);
    if header.into_iter().chain(target).any(|name| !hosts.allows(name)) {
        return Err(Reply::error(
            StatusCode::MISDIRECTED_REQUEST,
            "this Host is not served; accepted: an IP address, localhost, or a name that the component allows",
        ));
    }
    if request.method != Method::POST {
        return Ok(());
    }
    if request.headers.contains_key(ORIGIN) {
        return Err(Reply::error(
            StatusCode::FORBIDDEN,
            "no web page may turn a switch; accepted: requests without an Origin header",
        ));
    }
    let content_type = request.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|value| value.split(';').next()).unwrap_or("").trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(Reply::error(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "accepted: a body of content type application/json",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_was_not_allowed_may_have_been_rebound() {
        let hosts = Hosts::Known(vec!["orders.internal".to_owned()]);
        for good in [
            "localhost",
            "LOCALHOST:9464",
            "127.0.0.1:9464",
            "[::1]:9464",
            "10.1.2.3",
            "orders.internal:80",
            "Orders.Internal",
        ] {
            assert!(hosts.allows(good), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1@evil.example",
            "evil.example@127.0.0.1",
            "orders.internal.evil.example:9464",
            "2130706433",
            "[::1",
            "a b",
            "\u{fffd}",
        ] {
            assert!(!hosts.allows(bad), "{bad}");
        }
        assert!(Hosts::Any.allows("evil.example"));
    }
}

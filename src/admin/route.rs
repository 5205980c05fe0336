//! What a path asks for.

use hyper::{Method, StatusCode};

use super::reply::Reply;

/// What is served; the 404 says so.
const KNOWN: &str = "GET /livez, /readyz, /status, /metrics; POST /pipelines/{name}/pause, \
     /pipelines/{name}/resume, /pipelines/{name}/flood_guard, /resources/{name}/breaker, \
     /resources/{name}/on_open, /resources/{name}/siphon, /skip";

/// Something to look at, or to turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    Look(Look),
    Turn(Turn),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Live,
    Ready,
    Status,
    Metrics,
}

/// A switch, and the name of what it belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Pause(String),
    Resume(String),
    FloodGuard(String),
    Breaker(String),
    OnOpen(String),
    Siphon(String),
    Skip,
}

impl Route {
    /// # Errors
    /// 404 or 405, with what is accepted.
    pub(super) fn of(method: &Method, path: &str) -> Result<Self, Reply> {
        let route = Self::find(path).ok_or_else(|| {
            Reply::error(StatusCode::NOT_FOUND, format!("no such path; there is {KNOWN}"))
        })?;
        match &route {
            Route::Look(_) if !matches!(*method, Method::GET | Method::HEAD) => {
                Err(Reply::not_allowed("GET, HEAD"))
            }
            Route::Turn(_) if *method != Method::POST => Err(Reply::not_allowed("POST")),
            _ => Ok(route),
        }
    }

    fn find(path: &str) -> Option<Self> {
        let segments = path.strip_prefix('/')?.split('/').map(decoded);
        let segments: Vec<String> = segments.collect::<Option<_>>()?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        Some(match segments[..] {
            ["livez"] => Route::Look(Look::Live),
            ["readyz"] => Route::Look(Look::Ready),
            ["status"] => Route::Look(Look::Status),
            ["metrics"] => Route::Look(Look::Metrics),
            ["pipelines", name, "pause"] => Route::Turn(Turn::Pause(name.to_owned())),
            ["pipelines", name, "resume"] => Route::Turn(Turn::Resume(name.to_owned())),
            ["pipelines", name, "flood_guard"] => Route::Turn(Turn::FloodGuard(name.to_owned())),
            ["resources", name, "breaker"] => Route::Turn(Turn::Breaker(name.to_owned())),
            ["resources", name, "on_open"] => Route::Turn(Turn::OnOpen(name.to_owned())),
            ["resources", name, "siphon"] => Route::Turn(Turn::Siphon(name.to_owned())),
            ["skip"] => Route::Turn(Turn::Skip),
            _ => return None,
        })
    }
}

/// A segment of a path without its percent signs: names may hold what a path cannot.
fn decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_what_a_path_cannot() {
        let route = Route::of(&Method::POST, "/pipelines/a%2Fb%20%C3%A4/pause").expect("known");
        assert_eq!(route, Route::Turn(Turn::Pause("a/b ä".to_owned())));
    }

    #[test]
    fn what_is_unknown_or_broken_is_not_found_and_the_rest_takes_its_method_only() {
        for path in [
            "",
            "/",
            "livez",
            "/livez/",
            "//livez",
            "/pipelines/a%2/pause",
            "/pipelines/%ff/pause",
            "/%",
            "/pipelines/a%2Fpause",
        ] {
            let reply = Route::of(&Method::GET, path).expect_err(path);
            assert_eq!(reply.status, StatusCode::NOT_FOUND, "{path}");
        }
        let status = |method, path| Route::of(&method, path).expect_err(path).status;
        assert_eq!(status(Method::POST, "/livez"), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(status(Method::GET, "/skip"), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(status(Method::OPTIONS, "/skip"), StatusCode::METHOD_NOT_ALLOWED);
        assert!(Route::of(&Method::HEAD, "/readyz").is_ok());
    }
}

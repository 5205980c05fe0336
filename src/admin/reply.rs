//! What is answered.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    content_type: &'static str,
    body: String,
    allow: Option<&'static str>,
}

impl Reply {
    pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Self {
        match serde_json::to_string(body) {
            Ok(body) => Self { status, content_type: "application/json", body, allow: None },
            // a type of ours that JSON cannot hold; its text would tell nothing to the caller
            Err(_) => {
                Self::error(StatusCode::INTERNAL_SERVER_ERROR, "this cannot be shown as JSON")
            }
        }
    }

    pub(super) fn text(body: String) -> Self {
        let content_type = "text/plain; version=0.0.4; charset=utf-8";
        Self { status: StatusCode::OK, content_type, body, allow: None }
    }

    /// What is wrong, and what would be accepted.
    pub(super) fn error(status: StatusCode, error: impl Into<String>) -> Self {
        let body = json!({ "error": error.into() }).to_string();
        Self { status, content_type: "application/json", body, allow: None }
    }

    /// Another method is accepted.
    pub(super) fn not_allowed(allow: &'static str) -> Self {
        let error = format!("this takes {allow} only");
        Self { allow: Some(allow), ..Self::error(StatusCode::METHOD_NOT_ALLOWED, error) }
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.body)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

//! Questions and answers of the API.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, Uri};
use http_body_util::Full;
use serde::Serialize;

/// What is asked for: a path, and parameters.
#[derive(Debug)]
pub(super) struct Query {
    segments: Vec<String>,
    parameters: Vec<(String, String)>,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    kind: &'static str,
    pub(super) body: String,
}

impl Query {
    pub(super) fn new(uri: &Uri) -> Self {
        let segments = uri.path().split('/').filter(|segment| !segment.is_empty()).map(decoded).collect();
        let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let parameters = pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect();
        Self { segments, parameters }
    }

    /// The path, without the slashes.
    pub(super) fn segments(&self) -> Vec<&str> {
        self.segments.iter().map(String::as_str).collect()
    }

    /// A parameter's value.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl Answer {
    pub(super) fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self::typed(status, "text/plain; charset=utf-8", body.into())
    }

    pub(super) fn typed(status: StatusCode, kind: &'static str, body: String) -> Self {
        Self { status, kind, body }
    }

    pub(super) fn json_text(body: &str) -> Self {
        Self::typed(StatusCode::OK, "application/json", body.to_owned())
    }

    pub(super) fn json(value: &impl Serialize) -> Self {
        match serde_json::to_string(value) {
            Ok(body) => Self::typed(StatusCode::OK, "application/json", body + "\n"),
            Err(error) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    /// 404 where there is nothing, with what is missing and what lists those that there are.
    pub(super) fn found(value: Option<impl Serialize>, (what, name, lists): (&str, &str, &str)) -> Self {
        match value {
            Some(value) => Self::json(&value),
            None => {
                let reason = format!("no {what} `{name}` is known; {lists} lists them\n");
                Self::text(StatusCode::NOT_FOUND, reason)
            }
        }
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.body)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static(self.kind));
        headers.insert("cache-control", HeaderValue::from_static("no-store"));
        headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        response
    }
}

/// Percent-decoded; what is not percent-encoded UTF-8 stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = (*first == b'%').then(|| after.get(..2)).flatten();
        let hex = hex.filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        let byte = hex.and_then(|hex| std::str::from_utf8(hex).ok());
        match byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_parameters_are_decoded_once() {
        let query = Query::new(&"/a/b%2Fc//d%zz?x=%31&y&z=%2531".parse().unwrap());
        assert_eq!(query.segments(), ["a", "b/c", "d%zz"]);
        assert_eq!(query.parameter("x"), Some("1"));
        assert_eq!((query.parameter("y"), query.parameter("none")), (Some(""), None));
        assert_eq!(query.parameter("z"), Some("%31"));
    }
}

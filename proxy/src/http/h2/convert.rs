//! Heads between the `http` crate's types, which `h2` speaks, and our own.
//!
//! `h2` has already refused what is malformed by RFC 9113 section 8 (upper-case names, connection-specific
//! fields, pseudo-fields out of place, control characters). What it lets pass and an HTTP/1 hop must not see,
//! or would see otherwise than we do, is refused here.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri};

use crate::http::headers::Headers;
use crate::http::message::{BodyLength, RequestHead, ResponseHead, Version, is_grpc};
use crate::http::trim_blanks;

/// Why a request that `h2` accepted is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Neither `:authority` nor `host`.
    #[error("no :authority and no host")]
    NoAuthority,
    /// `host` is there twice, or is not what `:authority` says (RFC 9113 section 8.3.1).
    #[error("host disagrees with :authority")]
    HostMismatch,
    /// The authority holds userinfo or what is not a host and port.
    #[error("malformed :authority")]
    BadAuthority,
    /// `:path` is not in origin form.
    #[error("malformed :path")]
    BadPath,
    /// More fields than allowed.
    #[error("too many header fields")]
    TooManyHeaders,
    /// 101, which HTTP/2 does not have (RFC 9113 section 8.6).
    #[error("101 over HTTP/2")]
    Switched,
    /// `content-length` is no number.
    #[error("malformed content-length")]
    BadContentLength,
}

/// Fills `head` from a request that came in on a stream.
///
/// # Errors
/// When the request must not be forwarded.
pub fn request_in<B>(
    request: &Request<B>,
    ended: bool,
    max_headers: usize,
    head: &mut RequestHead,
) -> Result<(), HeadError> {
    head.clear();
    let fields = request.headers();
    if fields.len() > max_headers {
        return Err(HeadError::TooManyHeaders);
    }
    head.method = request.method().clone();
    head.version = Version::Http2;
    authority_in(request.uri(), fields, &mut head.authority)?;
    if let Some(protocol) = request.extensions().get::<h2::ext::Protocol>() {
        // An extended CONNECT is what an upgrade is in HTTP/1, and is routed as one.
        head.upgrade.push_str(protocol.as_str());
        head.method = Method::GET;
    }
    match request.uri().path_and_query() {
        Some(path) if path.as_str().starts_with('/') => head.path.push_str(path.as_str()),
        Some(path) if path == "*" && head.method == Method::OPTIONS => head.path.push('*'),
        None if head.method == Method::CONNECT => {}
        Some(_) | None => return Err(HeadError::BadPath),
    }
    head.te_trailers = fields.get("te").is_some_and(|value| value == "trailers");
    let length = fields_in(fields, &mut head.headers)?;
    head.expects_continue = head.headers.has_token(b"expect", b"100-continue");
    head.headers.remove(b"expect");
    head.body = match (ended, length) {
        _ if head.method == Method::CONNECT || !head.upgrade.is_empty() => BodyLength::UntilClose,
        (true, _) => BodyLength::Empty,
        (false, Some(length)) => BodyLength::Known(length),
        (false, None) => BodyLength::Streamed,
    };
    Ok(())
}

/// Fills `head` from a response that an upstream sent to a request with this method.
///
/// # Errors
/// When the response must not be forwarded.
pub fn response_in<B>(
    response: &Response<B>,
    ended: bool,
    method: &Method,
    head: &mut ResponseHead,
) -> Result<(), HeadError> {
    head.clear();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(HeadError::Switched);
    }
    head.status = response.status();
    head.version = Version::Http2;
    let length = fields_in(response.headers(), &mut head.headers)?;
    let bodiless = *method == Method::HEAD
        || head.status == StatusCode::NO_CONTENT
        || head.status == StatusCode::NOT_MODIFIED;
    head.body = match length {
        _ if bodiless => {
            // A 204 has none to declare (RFC 9110 section 8.6).
            head.declared_length = length.filter(|_| head.status != StatusCode::NO_CONTENT);
            BodyLength::Empty
        }
        _ if *method == Method::CONNECT && head.status.is_success() => BodyLength::UntilClose,
        Some(length) => BodyLength::Known(length),
        None if ended => BodyLength::Empty,
        None => BodyLength::Streamed,
    };
    Ok(())
}

/// The request to send on an upstream connection; `None` when the head cannot be said in HTTP/2.
#[must_use]
pub fn request_out(head: &RequestHead) -> Option<Request<()>> {
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    *request.version_mut() = http::Version::HTTP_2;
    let mut uri = http::uri::Parts::default();
    uri.authority = Some(Authority::try_from(head.authority.as_bytes()).ok()?);
    if head.method != Method::CONNECT || !head.upgrade.is_empty() {
        uri.scheme = Some(if head.secure { Scheme::HTTPS } else { Scheme::HTTP });
        uri.path_and_query = Some(PathAndQuery::try_from(head.path.as_bytes()).ok()?);
    }
    *request.uri_mut() = Uri::from_parts(uri).ok()?;
    fields_out(&head.headers, request.headers_mut())?;
    if head.te_trailers || is_grpc(&head.headers) {
        request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    }
    if let BodyLength::Known(length) = head.body {
        request.headers_mut().insert("content-length", HeaderValue::from(length));
    }
    if !head.upgrade.is_empty() {
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(h2::ext::Protocol::from(head.upgrade.as_str()));
    }
    Some(request)
}

/// The response to send on a downstream stream; `None` when the head cannot be said in HTTP/2.
#[must_use]
pub fn response_out(head: &ResponseHead) -> Option<Response<()>> {
    let mut response = Response::new(());
    // A switch of protocols is a plain success in HTTP/2 (RFC 8441 section 5).
    *response.status_mut() =
        if head.status == StatusCode::SWITCHING_PROTOCOLS { StatusCode::OK } else { head.status };
    fields_out(&head.headers, response.headers_mut())?;
    let length = match head.body {
        BodyLength::Known(length) => Some(length),
        BodyLength::Empty | BodyLength::Streamed | BodyLength::UntilClose => head.declared_length,
    };
    if let Some(length) = length {
        response.headers_mut().insert("content-length", HeaderValue::from(length));
    }
    Some(response)
}

/// Copies received trailers, leaving out what would reframe or reroute the message (RFC 9110 section 6.5.1).
pub fn trailers_in(fields: &HeaderMap, trailers: &mut Headers) {
    for (name, value) in fields {
        if !crate::http::is_forbidden_in_trailers(name.as_str().as_bytes()) {
            trailers.append(name.as_str().as_bytes(), trim_blanks(value.as_bytes()));
        }
    }
}

/// The trailers to send.
#[must_use]
pub fn trailers_out(trailers: &Headers) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(trailers.len());
    // Names and values were checked by whichever codec read them.
    let _ = fields_out(trailers, &mut fields);
    fields
}

fn authority_in(uri: &Uri, fields: &HeaderMap, authority: &mut String) -> Result<(), HeadError> {
    let mut hosts = fields.get_all("host").iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(HeadError::HostMismatch);
    }
    let host = host.map(|host| host.to_str().map_err(|_| HeadError::BadAuthority)).transpose()?;
    let stated = match (uri.authority(), host) {
        (Some(stated), Some(host)) if !stated.as_str().eq_ignore_ascii_case(host) => {
            return Err(HeadError::HostMismatch);
        }
        (Some(stated), _) => stated.as_str(),
        (None, Some(host)) => host,
        (None, None) => return Err(HeadError::NoAuthority),
    };
    if !crate::http::is_host_and_port(stated.as_bytes()) {
        return Err(HeadError::BadAuthority);
    }
    authority.push_str(stated);
    Ok(())
}

/// Copies end-to-end fields, joins what HTTP/2 splits, and says the declared length.
fn fields_in(fields: &HeaderMap, headers: &mut Headers) -> Result<Option<u64>, HeadError> {
    let mut length = None;
    for (name, value) in fields {
        match name.as_str() {
            "host" | "te" => {}
            "content-length" => {
                let text = value.to_str().map_err(|_| HeadError::BadContentLength)?;
                if !text.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(HeadError::BadContentLength);
                }
                length = Some(text.parse().map_err(|_| HeadError::BadContentLength)?);
            }
            "cookie" if headers.contains(b"cookie") => {}
            "cookie" => headers.append(b"cookie", &joined_cookies(fields)),
            // Blanks at the ends are malformed (RFC 9113 section 8.2.1), may be there in gRPC metadata, and are no part of the
            // value for an HTTP/1 hop: what policies and routes see is what it will.
            name => headers.append(name.as_bytes(), trim_blanks(value.as_bytes())),
        }
    }
    Ok(length)
}

/// Cookie crumbs as the one field that HTTP/1 wants (RFC 9113 section 8.2.3).
fn joined_cookies(fields: &HeaderMap) -> Vec<u8> {
    let crumbs: Vec<&[u8]> =
        fields.get_all("cookie").iter().map(|crumb| trim_blanks(crumb.as_bytes())).collect();
    crumbs.join(&b"; "[..])
}

fn fields_out(headers: &Headers, fields: &mut HeaderMap) -> Option<()> {
    fields.reserve(headers.len());
    for (name, value) in headers.iter() {
        fields.append(HeaderName::from_lowercase(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_not_secure_by_saying_so() {
        let request = Request::get("https://a/").body(()).unwrap();
        let mut head = RequestHead::default();
        request_in(&request, true, 1, &mut head).unwrap();
        assert!(!head.secure);
        assert_eq!((head.authority.as_str(), head.path.as_str()), ("a", "/"));
    }

    #[test]
    fn blanks_around_a_value_are_no_part_of_it() {
        let request = Request::get("https://a/").header("x-role", " admin\t").header("cookie", "a=1 ");
        let mut head = RequestHead::default();
        request_in(&request.header("cookie", " b=2").body(()).unwrap(), true, 9, &mut head).unwrap();
        assert_eq!(head.headers.first(b"x-role"), Some(&b"admin"[..]));
        assert_eq!(head.headers.first(b"cookie"), Some(&b"a=1; b=2"[..]));
        let mut fields = HeaderMap::new();
        fields.insert("grpc-message", HeaderValue::from_static("done "));
        let mut trailers = Headers::default();
        trailers_in(&fields, &mut trailers);
        assert_eq!(trailers.first(b"grpc-message"), Some(&b"done"[..]));
    }

    #[test]
    fn a_length_without_a_body_is_declared_only_where_it_may_be() {
        for (method, status, ended, expected) in [
            (Method::GET, 204, true, (BodyLength::Empty, None)),
            (Method::HEAD, 204, true, (BodyLength::Empty, None)),
            (Method::GET, 304, true, (BodyLength::Empty, Some(5))),
            (Method::HEAD, 200, true, (BodyLength::Empty, Some(5))),
            (Method::GET, 200, false, (BodyLength::Known(5), None)),
        ] {
            let response = Response::builder().status(status).header("content-length", "5").body(()).unwrap();
            let mut head = ResponseHead::default();
            response_in(&response, ended, &method, &mut head).unwrap();
            assert_eq!((head.body, head.declared_length), expected, "{method} {status}");
        }
    }
}

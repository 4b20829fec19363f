//! Heads and chunks as bytes. Everything written here was checked when it was parsed or compiled.

use http::{Method, StatusCode};

use crate::http::headers::Headers;
use crate::http::message::{BodyLength, RequestHead, ResponseHead};

/// What a response head says about the connection it is written to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wire {
    /// The client speaks HTTP/1.0, which has no chunks.
    pub http10: bool,
    /// No other response follows on this connection.
    pub close: bool,
    /// The request was `HEAD`.
    pub head_request: bool,
}

/// Writes a request head for an upstream.
pub fn request_head(out: &mut Vec<u8>, head: &RequestHead) {
    debug_assert!(is_one_line(head.path.as_bytes()) && is_one_line(head.authority.as_bytes()), "{head:?}");
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    let target = if head.method == Method::CONNECT { &head.authority } else { &head.path };
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(head.authority.as_bytes());
    out.extend_from_slice(b"\r\n");
    fields(out, &head.headers);
    match head.body {
        BodyLength::Known(length) => content_length(out, length),
        BodyLength::Streamed => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        // Servers ask for a length where the method expects content (RFC 9110 section 8.6).
        BodyLength::Empty if matches!(head.method, Method::POST | Method::PUT | Method::PATCH) => {
            content_length(out, 0);
        }
        BodyLength::Empty | BodyLength::UntilClose => {}
    }
    upgrade(out, &head.upgrade);
    out.extend_from_slice(b"\r\n");
}

/// Writes a response head for a client.
pub fn response_head(out: &mut Vec<u8>, head: &ResponseHead, wire: Wire) {
    status_line(out, head.status);
    fields(out, &head.headers);
    match head.body {
        BodyLength::Known(length) => content_length(out, length),
        BodyLength::Streamed if !wire.http10 => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        BodyLength::Empty => match head.declared_length {
            Some(length) => content_length(out, length),
            None if wire.head_request || is_bodiless(head.status) => {}
            None => content_length(out, 0),
        },
        BodyLength::Streamed | BodyLength::UntilClose => {}
    }
    // An interim response says nothing about the connection: the final one follows on it.
    if head.upgrade.is_empty() && !head.status.is_informational() {
        if wire.close {
            out.extend_from_slice(b"connection: close\r\n");
        } else if wire.http10 {
            out.extend_from_slice(b"connection: keep-alive\r\n");
        }
    }
    upgrade(out, &head.upgrade);
    out.extend_from_slice(b"\r\n");
}

fn status_line(out: &mut Vec<u8>, status: StatusCode) {
    match status.as_u16() {
        200 => out.extend_from_slice(b"HTTP/1.1 200 OK\r\n"),
        204 => out.extend_from_slice(b"HTTP/1.1 204 No Content\r\n"),
        304 => out.extend_from_slice(b"HTTP/1.1 304 Not Modified\r\n"),
        404 => out.extend_from_slice(b"HTTP/1.1 404 Not Found\r\n"),
        _ => {
            out.extend_from_slice(b"HTTP/1.1 ");
            out.extend_from_slice(status.as_str().as_bytes());
            out.push(b' ');
            out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Writes the line before a chunk's data; not for an empty chunk, which would be the last.
pub fn chunk_header(out: &mut Vec<u8>, len: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    debug_assert!(len > 0, "a chunk without data ends the body");
    let mut shift = (usize::BITS - len.leading_zeros()).saturating_sub(1) / 4 * 4;
    loop {
        out.extend(DIGITS.get((len >> shift) & 15));
        if shift == 0 {
            break;
        }
        shift -= 4;
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the last chunk and the trailer section.
pub fn last_chunk(out: &mut Vec<u8>, trailers: Option<&Headers>) {
    out.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        fields(out, trailers);
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether a response with this status never has a body (RFC 9110 section 6.4.1).
#[must_use]
pub fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

fn fields(out: &mut Vec<u8>, headers: &Headers) {
    for (name, value) in headers.iter() {
        debug_assert!(super::field::is_token(name) && super::field::is_value(value), "{headers:?}");
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
}

/// Whether this can stand in a start line without ending or splitting it.
fn is_one_line(text: &[u8]) -> bool {
    text.iter().all(|byte| *byte > b' ' && *byte != 0x7f)
}

fn content_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn upgrade(out: &mut Vec<u8>, protocol: &str) {
    if !protocol.is_empty() {
        out.extend_from_slice(b"connection: upgrade\r\nupgrade: ");
        out.extend_from_slice(protocol.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_sizes_are_written_in_hex() {
        for len in [1, 9, 15, 16, 17, 255, 256, 4096, 65_535, 1 << 20] {
            let mut out = Vec::new();
            chunk_header(&mut out, len);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{len:x}\r\n"));
        }
    }

    #[test]
    fn response_framing_fits_the_client() {
        let head = ResponseHead { body: BodyLength::Streamed, ..ResponseHead::default() };
        let mut out = Vec::new();
        response_head(&mut out, &head, Wire { http10: true, close: true, head_request: false });
        assert_eq!(out, b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
        out.clear();
        response_head(&mut out, &head, Wire::default());
        assert_eq!(out, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        let mut head = ResponseHead::default();
        out.clear();
        response_head(&mut out, &head, Wire::default());
        assert_eq!(out, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        head.status = StatusCode::NO_CONTENT;
        out.clear();
        response_head(&mut out, &head, Wire::default());
        assert_eq!(out, b"HTTP/1.1 204 No Content\r\n\r\n");
    }

    #[test]
    fn a_request_is_written_as_it_was_read() {
        let mut head = RequestHead { path: "/a?b".into(), authority: "h:1".into(), ..RequestHead::default() };
        head.headers.append(b"X-A", b"1");
        let written = |head: &RequestHead| {
            let mut out = Vec::new();
            request_head(&mut out, head);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(&head), "GET /a?b HTTP/1.1\r\nhost: h:1\r\nx-a: 1\r\n\r\n");
        head.headers.clear();
        head.body = BodyLength::Known(5);
        assert_eq!(written(&head), "GET /a?b HTTP/1.1\r\nhost: h:1\r\ncontent-length: 5\r\n\r\n");
        head.body = BodyLength::Streamed;
        assert_eq!(written(&head), "GET /a?b HTTP/1.1\r\nhost: h:1\r\ntransfer-encoding: chunked\r\n\r\n");
        head.body = BodyLength::Empty;
        head.upgrade = "websocket".into();
        let upgrade = "GET /a?b HTTP/1.1\r\nhost: h:1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        assert_eq!(written(&head), upgrade);
        head.upgrade.clear();
        head.headers.clear();
        head.method = Method::POST;
        assert_eq!(written(&head), "POST /a?b HTTP/1.1\r\nhost: h:1\r\ncontent-length: 0\r\n\r\n");
        head.method = Method::DELETE;
        assert_eq!(written(&head), "DELETE /a?b HTTP/1.1\r\nhost: h:1\r\n\r\n");
        head = RequestHead { method: Method::CONNECT, authority: "h:1".into(), ..RequestHead::default() };
        assert_eq!(written(&head), "CONNECT h:1 HTTP/1.1\r\nhost: h:1\r\n\r\n");
    }

    #[test]
    fn an_interim_response_says_nothing_about_the_connection() {
        let head = ResponseHead { status: StatusCode::EARLY_HINTS, ..ResponseHead::default() };
        let mut out = Vec::new();
        response_head(&mut out, &head, Wire { close: true, ..Wire::default() });
        assert_eq!(out, b"HTTP/1.1 103 Early Hints\r\n\r\n");
    }

    #[test]
    fn the_status_line_is_the_same_whether_it_is_ready_made_or_not() {
        for code in 100..600 {
            let status = StatusCode::from_u16(code).unwrap();
            let mut out = Vec::new();
            status_line(&mut out, status);
            let expected = format!("HTTP/1.1 {code} {}\r\n", status.canonical_reason().unwrap_or_default());
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn the_last_chunk_carries_the_trailers() {
        let mut trailers = Headers::new();
        let mut out = Vec::new();
        last_chunk(&mut out, None);
        trailers.append(b"grpc-status", b"0");
        last_chunk(&mut out, Some(&trailers));
        assert_eq!(out, b"0\r\n\r\n0\r\ngrpc-status: 0\r\n\r\n");
    }
}

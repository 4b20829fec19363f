//! The request line (RFC 9112 section 3).

use http::Method;

use super::{HeadError, HeadLimits};
use crate::http::is_host_and_port;
use crate::http::message::{RequestHead, Version};

/// Longest method, in bytes; the longest registered one has 17.
const MAX_METHOD_BYTES: usize = 32;

/// `METHOD SP target SP HTTP/x.y`, with exactly these two spaces.
pub(super) fn parse(line: &[u8], limits: &HeadLimits, head: &mut RequestHead) -> Result<(), HeadError> {
    let (rest, version) = line.split_last_chunk::<8>().ok_or(HeadError::RequestLine)?;
    let rest = rest.strip_suffix(b" ").ok_or(HeadError::RequestLine)?;
    let method_len = memchr::memchr(b' ', rest).ok_or(HeadError::RequestLine)?;
    let (method, target) = rest.split_at(method_len);
    let target = target.get(1..).unwrap_or_default();
    if method.len() > MAX_METHOD_BYTES || method == b"PRI" {
        return Err(HeadError::RequestLine);
    }
    head.method = Method::from_bytes(method).map_err(|_| HeadError::RequestLine)?;
    head.version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" if limits.accept_http10 => Version::Http10,
        b"HTTP/1.0" => return Err(HeadError::Http10),
        // A higher minor version of the same major one is spoken as ours (RFC 9110 section 2.5).
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9'] => Version::Http11,
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => return Err(HeadError::Version),
        _ => return Err(HeadError::RequestLine),
    };
    parse_target(target, head)
}

/// The four forms of RFC 9112 section 3.2.
fn parse_target(target: &[u8], head: &mut RequestHead) -> Result<(), HeadError> {
    // Visible ASCII only, and no fragment: whoever sends one means something else than we would.
    let is_bad = |byte: u8| !(0x21..0x7f).contains(&byte) | (byte == b'#');
    if target.iter().fold(false, |bad, byte| bad | is_bad(*byte)) {
        return Err(HeadError::Target);
    }
    let target = std::str::from_utf8(target).map_err(|_| HeadError::Target)?;
    if head.method == Method::CONNECT {
        let has_port = if target.starts_with('[') { !target.ends_with(']') } else { target.contains(':') };
        if !is_host_and_port(target.as_bytes()) || !has_port {
            return Err(HeadError::Target);
        }
        head.authority.push_str(target);
    } else if target.starts_with('/') {
        head.path.push_str(target);
    } else if target == "*" && head.method == Method::OPTIONS {
        head.path.push('*');
    } else {
        absolute(target, head)?;
    }
    Ok(())
}

fn absolute(target: &str, head: &mut RequestHead) -> Result<(), HeadError> {
    let (scheme, rest) = target.split_once("://").ok_or(HeadError::Target)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(HeadError::Target);
    }
    // A backslash ends the authority for some readers and belongs to it for others: no host holds one.
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if !is_host_and_port(authority.as_bytes()) {
        return Err(HeadError::BadHost);
    }
    head.authority.push_str(authority);
    if path.is_empty() && head.method == Method::OPTIONS {
        // RFC 9112 section 3.2.4.
        head.path.push('*');
        return Ok(());
    }
    if !path.starts_with('/') {
        head.path.push('/');
    }
    head.path.push_str(path);
    Ok(())
}

//! HTTP messages and their codecs, between the connection and the exchange.
//!
//! [`headers`] and [`message`] are the one form in which the rest of the proxy sees a message, whatever
//! version it came in; [`body`] moves bodies; [`h1`] is the HTTP/1 codec, [`h2`] the bridge to the `h2` crate,
//! and [`path`] normalises the path once, before anybody decides by it.

pub mod body;
pub mod downstream;
pub mod h1;
pub mod h2;
pub mod headers;
pub mod heads;
pub mod message;
pub mod path;

/// Largest head that is accepted or sent on, in bytes (Envoy's default of `max_request_headers_kb`).
pub const MAX_HEAD_BYTES: u32 = 60 * 1024;
/// Largest head that a listener may be told to accept, in bytes: less than what a connection can hold unread, so that a
/// larger one is answered with 431.
pub const MOST_HEAD_BYTES: u32 = 255 * 1024;
/// Longest request line, in bytes (RFC 9112 section 3 recommends at least 8000).
pub const MAX_REQUEST_LINE_BYTES: usize = 16 * 1024;
/// Most fields in a head (Envoy's default of `max_headers_count`).
pub const MAX_HEADERS: usize = 100;

/// Whether this is a host with an optional port: what `Host` and `:authority` may hold (RFC 9110 section 7.2).
#[must_use]
pub fn is_host_and_port(text: &[u8]) -> bool {
    let (host, port) = match text {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else {
                return false;
            };
            let (address, after) = rest.split_at(end);
            let valid =
                std::str::from_utf8(address).is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok());
            return valid && after.get(1..).is_some_and(|after| after.is_empty() || is_port_suffix(after));
        }
        _ => match text.iter().position(|byte| *byte == b':') {
            Some(colon) => text.split_at(colon),
            None => (text, &b""[..]),
        },
    };
    !host.is_empty()
        && host.iter().all(|byte| is_host_byte(*byte))
        && (port.is_empty() || is_port_suffix(port))
}

const fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'+' | b'=' | b'*')
}

fn is_port_suffix(text: &[u8]) -> bool {
    let [b':', digits @ ..] = text else { return false };
    let number = digits.iter().try_fold(0_u16, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u16::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    });
    !digits.is_empty() && number.is_some()
}

/// Whether a trailer of this (lower-case) name would frame, route or authorise the message, or mean another hop
/// (RFC 9110 section 6.5.1), and is therefore left out.
#[must_use]
pub fn is_forbidden_in_trailers(name: &[u8]) -> bool {
    const FORBIDDEN: &[&[u8]] = &[
        b"authorization",
        b"cache-control",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"cookie",
        b"expect",
        b"forwarded",
        b"host",
        b"keep-alive",
        b"max-forwards",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"range",
        b"set-cookie",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"www-authenticate",
        b"x-real-ip",
    ];
    const FORBIDDEN_PREFIXES: &[&[u8]] = &[b":", b"if-", b"x-forwarded-", b"x-envoy-", b"x-outrider-"];
    FORBIDDEN.contains(&name) || FORBIDDEN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The value of a field without the blanks around it (RFC 9110 section 5.5).
pub(crate) fn trim_blanks(value: &[u8]) -> &[u8] {
    let mut value = value;
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_hosts() {
        for good in ["a", "a.b-c", "a:80", "1.2.3.4", "[::1]", "[::1]:80", "a_b", "xn--a"] {
            assert!(is_host_and_port(good.as_bytes()), "{good}");
        }
        for bad in [
            "", ":80", "a/b", "u@h", "a:", "a:x", "a:99999", "[::1", "[g]", "[::1]x", "a b", "a,b", "a:1:2",
            "a\\b",
        ] {
            assert!(!is_host_and_port(bad.as_bytes()), "{bad}");
        }
    }
}

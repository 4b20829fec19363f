//! What a connection speaks, told by its first bytes.

pub mod client_hello;

/// The HTTP/2 connection preface (RFC 9113 section 3.4).
pub const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// First bytes that are looked at before a connection is called opaque.
pub const MAX_SNIFF_BYTES: usize = 16 * 1024;
/// Longest HTTP/1 method that is recognised.
const MAX_METHOD_BYTES: usize = 24;

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniff {
    /// They could still be several things.
    NeedMore,
    /// A TLS handshake record.
    Tls,
    /// A request line.
    Http1,
    /// The HTTP/2 preface.
    Http2,
    /// None of these.
    Opaque,
}

/// Looks at the first bytes of a connection.
#[must_use]
pub fn sniff(bytes: &[u8]) -> Sniff {
    match bytes {
        [] => return Sniff::NeedMore,
        [0x16] | [0x16, 0x03] => return Sniff::NeedMore,
        [0x16, 0x03, ..] => return Sniff::Tls,
        _ => {}
    }
    let common = bytes.len().min(H2_PREFACE.len());
    if bytes.get(..common) == H2_PREFACE.get(..common) {
        return if common == H2_PREFACE.len() { Sniff::Http2 } else { Sniff::NeedMore };
    }
    sniff_http1(bytes)
}

/// `METHOD SP target`: upper-case letters, a space, and what a target may begin with.
fn sniff_http1(bytes: &[u8]) -> Sniff {
    let method_len = bytes
        .iter()
        .take(MAX_METHOD_BYTES + 1)
        .take_while(|byte| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_'))
        .count();
    if method_len == 0 || method_len > MAX_METHOD_BYTES {
        return Sniff::Opaque;
    }
    match (bytes.get(method_len), bytes.get(method_len + 1)) {
        (None, _) | (Some(b' '), None) => Sniff::NeedMore,
        (Some(b' '), Some(target))
            if *target == b'/' || *target == b'*' || target.is_ascii_alphanumeric() || *target == b'[' =>
        {
            Sniff::Http1
        }
        _ => Sniff::Opaque,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_told_apart() {
        for (bytes, expected) in [
            (&b""[..], Sniff::NeedMore),
            (b"\x16", Sniff::NeedMore),
            (b"\x16\x03\x01", Sniff::Tls),
            (b"\x16\x02\x01", Sniff::Opaque),
            (b"GET", Sniff::NeedMore),
            (b"GET ", Sniff::NeedMore),
            (b"GET /", Sniff::Http1),
            (b"OPTIONS *", Sniff::Http1),
            (b"CONNECT a:1", Sniff::Http1),
            (b"PRI", Sniff::NeedMore),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n", Sniff::NeedMore),
            (H2_PREFACE, Sniff::Http2),
            (b"PRI * HTTP/1.1\r\n", Sniff::Http1),
            (b"SSH-2.0-x", Sniff::Opaque),
            (b"EHLO\r\n", Sniff::Opaque),
            (b"\x00\x00", Sniff::Opaque),
            (b"get /", Sniff::Opaque),
        ] {
            assert_eq!(sniff(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}

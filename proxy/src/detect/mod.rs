//! What a connection speaks, told by its first bytes.

pub mod client_hello;

/// The HTTP/2 connection preface (RFC 9113 section 3.4).
pub const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// First bytes that are looked at before a connection is called opaque.
pub const MAX_SNIFF_BYTES: usize = 16 * 1024;
/// The content type of a TLS record that holds a handshake.
const TLS_HANDSHAKE: u8 = 0x16;
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

/// Looks at the first bytes of a connection. The answer is final as soon as it is not [`Sniff::NeedMore`]: more
/// bytes do not change it.
#[must_use]
pub fn sniff(bytes: &[u8]) -> Sniff {
    if bytes.first() == Some(&TLS_HANDSHAKE) {
        return sniff_tls(bytes);
    }
    let common = bytes.len().min(H2_PREFACE.len());
    if bytes.get(..common) == H2_PREFACE.get(..common) {
        return if common == H2_PREFACE.len() { Sniff::Http2 } else { Sniff::NeedMore };
    }
    sniff_http1(bytes)
}

/// Whether the first bytes are TLS, or can still become it and nothing else that is known.
#[must_use]
pub fn begins_tls(bytes: &[u8]) -> bool {
    bytes.first() == Some(&TLS_HANDSHAKE) && sniff_tls(bytes) != Sniff::Opaque
}

/// A record (RFC 8446 section 5.1) of a length that it may have, in which a handshake begins with a ClientHello.
fn sniff_tls(bytes: &[u8]) -> Sniff {
    let is_record = match bytes {
        [TLS_HANDSHAKE, major, ..] if *major != 3 => false,
        [TLS_HANDSHAKE, _, minor, ..] if *minor > 4 => false,
        [TLS_HANDSHAKE, _, _, high, low, ..] if !client_hello::is_record_len(*high, *low) => false,
        [TLS_HANDSHAKE, _, _, _, _, kind, ..] => *kind == client_hello::CLIENT_HELLO,
        _ => return Sniff::NeedMore,
    };
    if is_record { Sniff::Tls } else { Sniff::Opaque }
}

/// `METHOD SP target`: upper-case letters, a space, and how a target begins. Line protocols whose commands look
/// like methods (`USER a`, `GET key`) are told apart by the target.
fn sniff_http1(bytes: &[u8]) -> Sniff {
    let is_method = |byte: &u8| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_');
    let method_len = bytes.iter().take(MAX_METHOD_BYTES + 1).take_while(|byte| is_method(byte)).count();
    if method_len == 0 || method_len > MAX_METHOD_BYTES {
        return if bytes.is_empty() { Sniff::NeedMore } else { Sniff::Opaque };
    }
    let (method, rest) = bytes.split_at_checked(method_len).unwrap_or_default();
    match rest {
        [] | [b' '] => Sniff::NeedMore,
        // A preface gone wrong is HTTP/1 too, which will refuse it.
        [b' ', b'/' | b'*', ..] => Sniff::Http1,
        [b' ', first, ..] if method == b"CONNECT" && (first.is_ascii_alphanumeric() || *first == b'[') => {
            Sniff::Http1
        }
        [b' ', target @ ..] => sniff_absolute(target),
        _ => Sniff::Opaque,
    }
}

/// A target in absolute form.
fn sniff_absolute(target: &[u8]) -> Sniff {
    let mut answer = Sniff::Opaque;
    for scheme in [&b"http://"[..], b"https://"] {
        let common = target.len().min(scheme.len());
        let (seen, expected) =
            (target.get(..common).unwrap_or_default(), scheme.get(..common).unwrap_or_default());
        if seen.eq_ignore_ascii_case(expected) {
            if common == scheme.len() {
                return Sniff::Http1;
            }
            answer = Sniff::NeedMore;
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn protocols_are_told_apart() {
        for (bytes, expected) in [
            (&b""[..], Sniff::NeedMore),
            (b"\x16", Sniff::NeedMore),
            (b"\x16\x03\x01", Sniff::NeedMore),
            (b"\x16\x03\x01\x02\x00", Sniff::NeedMore),
            (b"\x16\x03\x01\x02\x00\x01", Sniff::Tls),
            (b"\x16\x03\x01\x02\x00\x02", Sniff::Opaque),
            (b"\x16\x03\x01\x00\x00", Sniff::Opaque),
            (b"\x16\x03\x01\xff\xff", Sniff::Opaque),
            (b"\x16\x03\x05", Sniff::Opaque),
            (b"GET http", Sniff::NeedMore),
            (b"GET https:/", Sniff::NeedMore),
            (b"GET HTTP://a", Sniff::Http1),
            (b"GET https://a", Sniff::Http1),
            (b"GET key\r\n", Sniff::Opaque),
            (b"USER a", Sniff::Opaque),
            (b"NICK http", Sniff::NeedMore),
            (b"EHLO [1.2.3.4]", Sniff::Opaque),
            (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA /", Sniff::Opaque),
            (b"CONNECT [::1]:1", Sniff::Http1),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Sniff::Http1),
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

    proptest! {
        #[test]
        fn an_answer_is_final(bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            "[A-Z]{0,4} ?(/|https?:/?/?|[a-z])?".prop_map(String::into_bytes),
            (0..30_usize).prop_map(|len| [H2_PREFACE, &[0; 8]].concat()[..len].to_vec()),
            (0..9_usize).prop_map(|len| b"\x16\x03\x03\x01\x00\x01\x00\x00\x00"[..len].to_vec()),
        ], cut in 0_usize..40) {
            let early = sniff(&bytes[..cut.min(bytes.len())]);
            prop_assert!(early == Sniff::NeedMore || early == sniff(&bytes));
        }
    }
}

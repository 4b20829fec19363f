//! Server name and protocols in a TLS ClientHello (RFC 8446 section 4.1.2), read without doing any TLS.

/// Largest ClientHello that is read, in bytes.
pub const MAX_HELLO_BYTES: usize = 16 * 1024;

/// Longest input in which it is looked for: split over records it is longer than it is.
const MAX_SPLIT_HELLO_BYTES: usize = MAX_HELLO_BYTES + 4 * 1024;
/// Longest server name, in bytes (RFC 1035 section 2.3.4).
const MAX_NAME_BYTES: usize = 255;

/// What a client says before TLS begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// By SNI (RFC 6066 section 3), in lower case.
    pub server_name: Option<String>,
    /// By ALPN (RFC 7301).
    pub protocols: Vec<String>,
}

/// How far a ClientHello has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// More bytes are needed.
    NeedMore,
    /// This is it.
    Done(ClientHello),
    /// This is no ClientHello.
    Invalid,
}

/// The handshake type of a ClientHello.
pub(super) const CLIENT_HELLO: u8 = 1;
/// Bytes before the content of a handshake message.
const MESSAGE_HEADER_BYTES: usize = 4;

/// Whether a record of plaintext may have this length (RFC 8446 section 5.1); an empty handshake record may not.
pub(super) fn is_record_len(high: u8, low: u8) -> bool {
    (1..=1 << 14).contains(&u16::from_be_bytes([high, low]))
}

/// Reads the ClientHello at the front of a TLS stream, which may be split over several records. Nothing is
/// copied before all of it is there, and then only if it is split.
#[must_use]
pub fn read(bytes: &[u8]) -> Hello {
    let mut rest = bytes;
    // The message so far: in the first record, or put together from several.
    let mut whole: Option<&[u8]> = None;
    let mut joined = Vec::new();
    loop {
        let [kind, major, minor, high, low, body @ ..] = rest else {
            return if begins_record(rest) && bytes.len() <= MAX_SPLIT_HELLO_BYTES {
                Hello::NeedMore
            } else {
                Hello::Invalid
            };
        };
        if !begins_record(&[*kind, *major, *minor]) || !is_record_len(*high, *low) {
            return Hello::Invalid;
        }
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let part = body.get(..len).unwrap_or(body);
        match whole {
            None => whole = Some(part),
            Some(first) => {
                if joined.is_empty() {
                    joined.extend_from_slice(first);
                }
                joined.extend_from_slice(part);
            }
        }
        let message = if joined.is_empty() { part } else { &joined };
        match message_len(message) {
            Err(()) => return Hello::Invalid,
            // A ClientHello ends where a record ends (RFC 8446 section 5.1).
            Ok(Some(expected)) if message.len() + len.saturating_sub(part.len()) > expected => {
                return Hello::Invalid;
            }
            Ok(Some(expected)) if message.len() == expected => {
                let content = message.get(MESSAGE_HEADER_BYTES..).unwrap_or_default();
                return parse(content).map_or(Hello::Invalid, Hello::Done);
            }
            Ok(_) => {}
        }
        match body.get(len..) {
            Some(next) => rest = next,
            None if bytes.len() > MAX_SPLIT_HELLO_BYTES => return Hello::Invalid,
            None => return Hello::NeedMore,
        }
    }
}

/// The length of the message with its header; `None` while that is not known, an error when it is no
/// ClientHello or too large.
fn message_len(message: &[u8]) -> Result<Option<usize>, ()> {
    match message {
        [kind, ..] if *kind != CLIENT_HELLO => Err(()),
        [_, a, b, c, ..] => {
            let len = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if len > MAX_HELLO_BYTES { Err(()) } else { Ok(Some(len + MESSAGE_HEADER_BYTES)) }
        }
        _ => Ok(None),
    }
}

/// Whether these bytes are, or may become, the beginning of a handshake record.
fn begins_record(bytes: &[u8]) -> bool {
    bytes.first().is_none_or(|kind| *kind == 0x16)
        && bytes.get(1).is_none_or(|major| *major == 3)
        && bytes.get(2).is_none_or(|minor| *minor <= 4)
}

/// `struct ClientHello` of RFC 8446 section 4.1.2, all of it and nothing behind it.
fn parse(body: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(body);
    let [3, 1..=4] = reader.take(2)? else { return None };
    reader.take(32)?;
    if reader.vector8()?.len() > 32 {
        return None;
    }
    let suites = reader.vector16()?;
    if suites.is_empty() || suites.len() % 2 != 0 || reader.vector8()?.is_empty() {
        return None;
    }
    let mut hello = ClientHello::default();
    if reader.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(reader.vector16()?);
    if !reader.0.is_empty() {
        return None;
    }
    let (mut names, mut lists) = (0, 0);
    while !extensions.0.is_empty() {
        let kind = extensions.number16()?;
        let content = Reader(extensions.vector16()?);
        match kind {
            0 => {
                names += 1;
                hello.server_name = Some(server_name(content)?);
            }
            16 => {
                lists += 1;
                hello.protocols = protocols(content)?;
            }
            _ => {}
        }
    }
    // Each once (section 4.2): which of two would be meant is anybody's guess.
    (names <= 1 && lists <= 1).then_some(hello)
}

fn server_name(mut content: Reader<'_>) -> Option<String> {
    let mut names = Reader(content.vector16()?);
    if names.take(1)? != [0] {
        return None;
    }
    let name = std::str::from_utf8(names.vector16()?).ok()?;
    let legal = name.len() <= MAX_NAME_BYTES
        && name.split('.').all(|label| !label.is_empty())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    (legal && names.0.is_empty() && content.0.is_empty()).then(|| name.to_ascii_lowercase())
}

/// Protocols that are no text (some clients mix in random ones) match nothing and are left out.
fn protocols(mut content: Reader<'_>) -> Option<Vec<String>> {
    let mut list = Reader(content.vector16()?);
    if list.0.is_empty() || !content.0.is_empty() {
        return None;
    }
    let mut found = Vec::new();
    while !list.0.is_empty() {
        let protocol = list.vector8()?;
        if protocol.is_empty() {
            return None;
        }
        found.extend(std::str::from_utf8(protocol).ok().map(str::to_owned));
    }
    Some(found)
}

/// Reads from the front of a slice.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(front)
    }

    fn number16(&mut self) -> Option<usize> {
        match self.take(2)? {
            [high, low] => Some(usize::from(*high) << 8 | usize::from(*low)),
            _ => None,
        }
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(*self.take(1)?.first()?);
        self.take(len)
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let len = self.number16()?;
        self.take(len)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vector(width: usize, content: &[u8]) -> Vec<u8> {
        let len = content.len().to_be_bytes();
        [&len[len.len() - width..], content].concat()
    }

    /// A ClientHello in records of at most `record` bytes.
    pub(crate) fn hello(name: &str, protocols: &[&str], record: usize) -> Vec<u8> {
        let sni = vector(2, &[&[0][..], &vector(2, name.as_bytes())].concat());
        let list: Vec<u8> = protocols.iter().flat_map(|protocol| vector(1, protocol.as_bytes())).collect();
        let extensions = [&[0, 0][..], &vector(2, &sni), &[0, 16], &vector(2, &vector(2, &list))].concat();
        let body = [
            &[3, 3][..],
            &[7; 32],
            &vector(1, &[]),
            &vector(2, &[0x13, 1]),
            &vector(1, &[0]),
            &vector(2, &extensions),
        ]
        .concat();
        let message = [&[1][..], &vector(3, &body)].concat();
        message.chunks(record).flat_map(|part| [&[0x16, 3, 1][..], &vector(2, part)].concat()).collect()
    }

    #[test]
    fn name_and_protocols_are_read_in_any_fragments() {
        let expected = ClientHello {
            server_name: Some("a.example".into()),
            protocols: vec!["h2".into(), "http/1.1".into()],
        };
        for record in [1, 5, 40, 16_000] {
            let bytes = hello("A.example", &["h2", "http/1.1"], record);
            assert_eq!(read(&bytes), Hello::Done(expected.clone()), "{record}");
            for end in 0..bytes.len() {
                assert_eq!(read(&bytes[..end]), Hello::NeedMore, "{record} {end}");
            }
        }
    }

    #[test]
    fn what_is_no_hello_is_refused() {
        assert_eq!(read(b"\x17\x03\x01\x00\x05hello"), Hello::Invalid);
        assert_eq!(read(b"\x16\x03\x01\x00\x00"), Hello::Invalid);
        assert_eq!(read(b"\x16\x03\x01\xff\xff"), Hello::Invalid);
        assert_eq!(read(&hello("a b", &[], 16_000)), Hello::Invalid);
    }

    /// A ClientHello in one record, with these extensions.
    fn with_extensions(extensions: &[u8]) -> Vec<u8> {
        let body = [
            &[3, 3][..],
            &[7; 32],
            &vector(1, &[]),
            &vector(2, &[0x13, 1]),
            &vector(1, &[0]),
            &vector(2, extensions),
        ]
        .concat();
        [&[0x16, 3, 1][..], &vector(2, &[&[1][..], &vector(3, &body)].concat())].concat()
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        let name = |name: &[u8]| {
            [&[0, 0][..], &vector(2, &vector(2, &[&[0][..], &vector(2, name)].concat()))].concat()
        };
        let found = |extensions: &[u8]| read(&with_extensions(extensions));
        assert!(matches!(found(&name(b"a.b")), Hello::Done(_)));
        assert_eq!(found(&[name(b"a.b"), name(b"a.b")].concat()), Hello::Invalid, "twice");
        let names = [&[0][..], &vector(2, b"a"), &[0], &vector(2, b"b")].concat();
        assert_eq!(
            found(&[&[0, 0][..], &vector(2, &vector(2, &names))].concat()),
            Hello::Invalid,
            "two names"
        );
        for bad in [&b""[..], b".", b"a.", b".a", b"a..b", b"a\0b", b"\xff", &[b'a'; 256]] {
            assert_eq!(found(&name(bad)), Hello::Invalid, "{bad:?}");
        }
        let protocols = |list: &[u8]| [&[0, 16][..], &vector(2, &vector(2, list))].concat();
        assert_eq!(found(&protocols(&[])), Hello::Invalid, "no protocol");
        assert_eq!(found(&protocols(&[0])), Hello::Invalid, "an empty protocol");
        let Hello::Done(hello) = found(&protocols(b"\x02\xfa\xfa\x02h2")) else { panic!("greased") };
        assert_eq!(hello.protocols, ["h2"]);
        assert_eq!(found(&[0]), Hello::Invalid, "a cut extension");
    }

    #[test]
    fn a_hello_ends_with_its_record() {
        let good = with_extensions(&[]);
        assert!(matches!(read(&good), Hello::Done(_)));
        assert!(
            matches!(read(&[&good[..], b"\x17garbage"].concat()), Hello::Done(_)),
            "what follows is not looked at"
        );
        let mut longer = good;
        longer[4] += 1;
        assert_eq!(read(&longer), Hello::Invalid);
        longer.push(0);
        assert_eq!(read(&longer), Hello::Invalid);
    }

    #[test]
    fn a_hello_is_bounded() {
        let padding = |len: usize| [&[0, 21][..], &vector(2, &vec![0; len])].concat();
        let split = |extensions: &[u8], record: usize| -> Vec<u8> {
            with_extensions(extensions)[5..]
                .chunks(record)
                .flat_map(|part| [&[0x16, 3, 1][..], &vector(2, part)].concat())
                .collect()
        };
        assert!(matches!(read(&split(&padding(16_000), 4096)), Hello::Done(_)));
        assert_eq!(read(&split(&padding(17_000), 4096)), Hello::Invalid);
        // In tiny records it is more than five times as long as it is.
        assert_eq!(read(&split(&padding(16_000), 1)[..30_000]), Hello::Invalid);
    }

    proptest! {
        #[test]
        fn an_answer_is_final(at in 0_usize..150, byte in any::<u8>(), cut in 0_usize..200, record in 1_usize..80) {
            let mut bytes = hello("a.example", &["h2"], record);
            let len = bytes.len();
            bytes[at % len] = byte;
            let early = read(&bytes[..cut.min(len)]);
            prop_assert!(early == Hello::NeedMore || early == read(&bytes));
        }

        #[test]
        fn damaged_hellos_never_panic(at in 0_usize..150, byte in any::<u8>(), cut in 0_usize..200) {
            let mut bytes = hello("a.example", &["h2"], 16_000);
            let len = bytes.len();
            bytes[at % len] = byte;
            let _ = read(&bytes[..cut.min(len)]);
        }
    }
}

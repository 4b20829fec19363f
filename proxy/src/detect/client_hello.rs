//! Server name and protocols in a TLS ClientHello (RFC 8446 section 4.1.2), read without doing any TLS.

/// Largest ClientHello that is read, in bytes.
pub const MAX_HELLO_BYTES: usize = 16 * 1024;

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

/// Reads the ClientHello at the front of a TLS stream, which may be split over several records.
#[must_use]
pub fn read(bytes: &[u8]) -> Hello {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        let [kind, 0x03, _, high, low, body @ ..] = rest else {
            return if rest.len() < 5 { Hello::NeedMore } else { Hello::Invalid };
        };
        let len = usize::from(*high) << 8 | usize::from(*low);
        if *kind != 0x16 || len == 0 || len > MAX_HELLO_BYTES {
            return Hello::Invalid;
        }
        let available = body.len().min(len);
        message.extend_from_slice(body.get(..available).unwrap_or_default());
        if let Some(hello) = whole(&message) {
            return hello.and_then(parse).map_or(Hello::Invalid, Hello::Done);
        }
        if message.len() > MAX_HELLO_BYTES {
            return Hello::Invalid;
        }
        if available < len {
            return Hello::NeedMore;
        }
        rest = body.get(len..).unwrap_or_default();
    }
}

/// The body of the handshake message when all of it is there; `Some(None)` when it is no ClientHello.
#[expect(clippy::option_option, reason = "not yet, no, and yes are three answers")]
fn whole(message: &[u8]) -> Option<Option<&[u8]>> {
    let [kind, a, b, c, body @ ..] = message else {
        return None;
    };
    if *kind != 1 {
        return Some(None);
    }
    let len = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
    if len > MAX_HELLO_BYTES {
        return Some(None);
    }
    body.get(..len).map(Some)
}

fn parse(body: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(body);
    reader.take(2 + 32)?;
    reader.vector8()?;
    reader.vector16()?;
    reader.vector8()?;
    let mut hello = ClientHello::default();
    if reader.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(reader.vector16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.number16()?;
        let content = Reader(extensions.vector16()?);
        match kind {
            0 => hello.server_name = Some(server_name(content)?),
            16 => hello.protocols = protocols(content)?,
            _ => {}
        }
    }
    Some(hello)
}

fn server_name(mut content: Reader<'_>) -> Option<String> {
    let mut names = Reader(content.vector16()?);
    if names.take(1)? != [0] {
        return None;
    }
    let name = std::str::from_utf8(names.vector16()?).ok()?;
    let legal = !name.is_empty()
        && name.len() <= 255
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    legal.then(|| name.to_ascii_lowercase())
}

fn protocols(mut content: Reader<'_>) -> Option<Vec<String>> {
    let mut list = Reader(content.vector16()?);
    let mut found = Vec::new();
    while !list.0.is_empty() {
        found.push(String::from_utf8_lossy(list.vector8()?).into_owned());
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

    proptest! {
        #[test]
        fn damaged_hellos_never_panic(at in 0_usize..150, byte in any::<u8>(), cut in 0_usize..200) {
            let mut bytes = hello("a.example", &["h2"], 16_000);
            let len = bytes.len();
            bytes[at % len] = byte;
            let _ = read(&bytes[..cut.min(len)]);
        }
    }
}

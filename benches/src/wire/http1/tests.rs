use proptest::prelude::*;

use super::*;

/// Reads a whole response that comes in pieces: status, content, bytes used.
fn read(pieces: &[&[u8]]) -> Result<Option<(u16, u64, usize)>, Malformed> {
    let (mut buffer, mut state) = (Vec::new(), None::<(u16, Body, usize)>);
    for piece in pieces {
        match &mut state {
            None => {
                buffer.extend_from_slice(piece);
                if let Some((status, head)) = response(&buffer)? {
                    let mut body = Body::new(head.framing);
                    let used = head.length + body.feed(&buffer[head.length..])?;
                    state = Some((status, body, used));
                }
            }
            Some((_, body, used)) => *used += body.feed(piece)?,
        }
    }
    Ok(state.filter(|(_, body, _)| body.is_done()).map(|(status, body, used)| (status, body.received, used)))
}

fn chunked(sizes: &[usize], trailer: &str) -> Vec<u8> {
    let mut message = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for size in sizes {
        message.extend(format!("{size:X};name=value\r\n").bytes());
        message.extend(std::iter::repeat_n(b'\n', *size));
        message.extend(b"\r\n");
    }
    message.extend(format!("0\r\n{trailer}\r\n").bytes());
    message
}

#[test]
fn responses() {
    let head =
        |text: &'static str| response(text.as_bytes()).map(|head| head.map(|(s, h)| (s, h.framing, h.close)));
    let cases = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", Ok(Some((200, Framing::Length(12), false)))),
        (
            "HTTP/1.1 200 OK\r\ncontent-length:12\r\nCONNECTION: Close\r\n\r\n",
            Ok(Some((200, Framing::Length(12), true))),
        ),
        ("HTTP/1.1 204 \r\n\r\n", Ok(Some((204, Framing::Length(0), false)))),
        ("HTTP/1.1 503\r\nContent-Length: 0\r\n\r\n", Ok(Some((503, Framing::Length(0), false)))),
        ("HTTP/1.0 200 OK\r\nServer: x\r\n\r\n", Ok(Some((200, Framing::UntilClose, true)))),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
            Ok(Some((200, Framing::Chunked, false))),
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r", Ok(None)),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            Err(Malformed("a content-length that is no number")),
        ),
        ("HTTP/2 200 OK\r\n\r\n", Err(Malformed("no HTTP/1 status line"))),
        ("nonsense\r\n\r\n", Err(Malformed("the first line has one word"))),
        ("HTTP/1.1 200 OK\r\ntoken\r\n\r\n", Err(Malformed("a header field without a colon"))),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            Err(Malformed("a transfer-encoding other than chunked")),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(head(text), expected, "{text:?}");
    }
}

#[test]
fn requests() {
    let text = b"POST /bytes/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nSec-WebSocket-Key: k=\r\n\r\nabc";
    let head = request(text).unwrap().unwrap();
    assert_eq!(head.line, [b"POST".as_slice(), b"/bytes/1", b"HTTP/1.1"]);
    assert_eq!((head.length, head.framing), (text.len() - 3, Framing::Length(3)));
    assert_eq!(head.websocket_key, Some(b"k=".as_slice()));
    assert_eq!(request(b"GET / HTTP/1.1\r\n\r\n").unwrap().unwrap().framing, Framing::Length(0));
    assert!(request(b"GET /\r\n\r\n").is_err());
}

#[test]
fn a_head_has_a_bound() {
    let mut long = b"HTTP/1.1 200 OK\r\nA: ".to_vec();
    long.resize(MAX_HEAD_BYTES - 1, b'x');
    assert_eq!(response(&long), Ok(None));
    long.push(b'x');
    assert_eq!(response(&long), Err(Malformed("the head is too long")));
}

#[test]
fn chunks_that_are_wrong() {
    let feed = |text: &str| Body::new(Framing::Chunked).feed(text.as_bytes());
    assert!(feed("\r\n").is_err());
    assert!(feed("g\r\n").is_err());
    assert!(feed("1\r\nab").is_err());
    assert!(feed("11111111111111111\r\n").is_err());
    assert!(feed(&format!("1;{}\r\n", "x".repeat(2000))).is_err());
    assert!(feed(&format!("0\r\n{}", "x: y\r\n".repeat(2000))).is_err());
}

proptest! {
    /// However a response is cut, it is understood alike, and not a byte of what follows is taken.
    #[test]
    fn cuts_do_not_matter(
        sizes in prop::collection::vec(1_usize..300, 0..6),
        trailer in prop::sample::select(vec!["", "a: b\r\n", "a: b\r\nc: d\r\n"]),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        fixed in any::<bool>(),
    ) {
        let content: usize = sizes.iter().sum();
        let mut message = if fixed {
            let mut message = format!("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: {content}\r\n\r\n").into_bytes();
            message.resize(message.len() + content, b'\r');
            message
        } else {
            chunked(&sizes, trailer)
        };
        let length = message.len();
        message.extend(b"HTTP/1.1 ");
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(message.len())).collect();
        places.push(message.len());
        places.sort_unstable();
        let mut begin = 0;
        let pieces: Vec<&[u8]> = places.iter().map(|end| {
            let piece = &message[begin..*end];
            begin = *end;
            piece
        }).collect();
        // A body that is done takes no more bytes, so what is used is the message.
        prop_assert_eq!(read(&pieces), Ok(Some((200, content as u64, length))));
    }

    /// Nothing that comes makes it panic, or take more than there is.
    #[test]
    fn noise(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = request(&bytes);
        let _ = response(&bytes);
        if let Ok(used) = Body::new(Framing::Chunked).feed(&bytes) {
            prop_assert!(used <= bytes.len());
        }
    }
}

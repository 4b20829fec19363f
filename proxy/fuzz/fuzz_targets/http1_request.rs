//! Requests with their bodies, pipelined: the same whatever pieces they come in, and written out again they
//! read as what they were.
#![no_main]

use std::fmt::Write as _;

use libfuzzer_sys::fuzz_target;
use outrider_proxy::http::h1::body::{BodyDecoder, Decoded};
use outrider_proxy::http::h1::request::{HeadLimits, Progress, RequestParser};
use outrider_proxy::http::h1::write;
use outrider_proxy::http::headers::Headers;
use outrider_proxy::http::message::{BodyLength, RequestHead, Version};

const MAX_REQUESTS: usize = 4;

fuzz_target!(|data: &[u8]| {
    let Some((control, input)) = data.split_first() else {
        return;
    };
    let limits = HeadLimits {
        max_head_bytes: if control & 0x40 == 0 { 60 * 1024 } else { 128 },
        max_line_bytes: if control & 0x40 == 0 { 16 * 1024 } else { 48 },
        max_headers: if control & 0x40 == 0 { 100 } else { 4 },
        accept_http10: control & 0x80 != 0,
    };
    let step = usize::from(control & 0x3f) + 1;
    assert_eq!(read(input, usize::MAX, &limits), read(input, step, &limits));
});

/// Everything that is found in the input, as text.
fn read(input: &[u8], step: usize, limits: &HeadLimits) -> String {
    let (mut seen, mut at, mut available) = (String::new(), 0, 0_usize);
    let more = |available: &mut usize| {
        let before = *available;
        *available = input.len().min(available.saturating_add(step));
        *available > before
    };
    let (mut parser, mut head) = (RequestParser::default(), RequestHead::default());
    for _ in 0..MAX_REQUESTS {
        parser.reset();
        let keep_alive = loop {
            match parser.parse(&input[at..available], limits, &mut head) {
                Ok(Progress::Done { head_len, keep_alive }) => {
                    at += head_len;
                    break keep_alive;
                }
                Ok(Progress::Partial) if more(&mut available) => {}
                end => {
                    let _ = write!(seen, "{end:?}");
                    return seen;
                }
            }
        };
        let _ = write!(seen, "{keep_alive} {head:?}");
        check_head(&head);
        let (mut decoder, mut trailers) = (BodyDecoder::new(head.body), Headers::new());
        loop {
            match decoder.decode(&input[at..available], &mut trailers) {
                Ok(Decoded::Data { skip, len }) => {
                    assert!(len > 0);
                    seen.extend(input[at + skip..at + skip + len].iter().map(|byte| char::from(*byte)));
                    at += skip + len;
                }
                Ok(Decoded::End { skip }) => {
                    at += skip;
                    break;
                }
                Ok(Decoded::NeedMore { skip }) => {
                    at += skip;
                    if !more(&mut available) {
                        let _ = write!(seen, "{:?}", decoder.finish());
                        return seen;
                    }
                }
                Err(error) => {
                    let _ = write!(seen, "{error:?}");
                    return seen;
                }
            }
        }
        let _ = write!(seen, "{trailers:?}");
    }
    seen
}

/// What may never get through, and that the next hop reads what we have read.
fn check_head(head: &RequestHead) {
    for name in
        [&b"host"[..], b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"keep-alive"]
    {
        assert!(!head.headers.contains(name));
    }
    if head.authority.is_empty() {
        assert_eq!(head.version, Version::Http10);
        return;
    }
    let mut written = Vec::new();
    write::request_head(&mut written, head);
    let limits = HeadLimits {
        max_head_bytes: usize::MAX,
        max_line_bytes: usize::MAX / 2,
        max_headers: 200,
        accept_http10: false,
    };
    let mut again = RequestHead::default();
    let done = RequestParser::default().parse(&written, &limits, &mut again);
    assert_eq!(done, Ok(Progress::Done { head_len: written.len(), keep_alive: true }));
    assert_eq!((&again.method, &again.path, &again.body), (&head.method, &head.path, &head.body));
    assert_eq!((&again.authority, &again.upgrade), (&head.authority, &head.upgrade));
    assert!(again.headers.iter().eq(head.headers.iter()));
    assert!(!matches!(again.body, BodyLength::UntilClose));
}

//! Response heads: the same whatever pieces they come in, and written out again they frame the same body.
#![no_main]

use http::Method;
use libfuzzer_sys::fuzz_target;
use outrider_proxy::http::h1::response::{HeadError, Limits, Progress, ResponseParser};
use outrider_proxy::http::h1::write::{self, Wire};
use outrider_proxy::http::message::{BodyLength, ResponseHead};

fuzz_target!(|data: &[u8]| {
    let Some((control, input)) = data.split_first() else {
        return;
    };
    let method =
        [Method::GET, Method::HEAD, Method::CONNECT, Method::POST][usize::from(control >> 6)].clone();
    let tunnel = control & 0x20 != 0;
    let limits = Limits { max_head_bytes: 512, max_headers: 8 };
    let whole = read(input, usize::MAX, &limits, (&method, tunnel));
    let pieces = read(input, usize::from(control & 0x1f) + 1, &limits, (&method, tunnel));
    assert_eq!(format!("{whole:?}"), format!("{pieces:?}"));
    let (head, Ok(Progress::Done { keep_alive, .. })) = whole else {
        return;
    };
    for name in [&b"content-length"[..], b"transfer-encoding", b"connection", b"upgrade", b"keep-alive"] {
        assert!(!head.headers.contains(name));
    }
    assert!(!keep_alive || head.body != BodyLength::UntilClose);
    let mut written = Vec::new();
    write::response_head(
        &mut written,
        &head,
        Wire { http10: false, close: !keep_alive, head_request: method == Method::HEAD },
    );
    let roomy = Limits { max_head_bytes: usize::MAX, max_headers: 64 };
    let (again, done) = read(&written, usize::MAX, &roomy, (&method, tunnel));
    assert!(matches!(done, Ok(Progress::Done { head_len, .. }) if head_len == written.len()), "{done:?}");
    assert_eq!((again.status, again.declared_length), (head.status, head.declared_length));
    // A final response without a body says so to the client, which may have asked with any method.
    let empty = [BodyLength::Empty, BodyLength::Known(0)];
    assert!(again.body == head.body || (empty.contains(&again.body) && empty.contains(&head.body)));
    assert!(again.headers.iter().eq(head.headers.iter()));
});

fn read(
    input: &[u8],
    step: usize,
    limits: &Limits,
    (method, tunnel): (&Method, bool),
) -> (ResponseHead, Result<Progress, HeadError>) {
    let (mut parser, mut head, mut available) = (ResponseParser::default(), ResponseHead::default(), 0_usize);
    loop {
        available = input.len().min(available.saturating_add(step));
        match parser.parse(&input[..available], limits, method, tunnel, &mut head) {
            Ok(Progress::Partial) if available < input.len() => {}
            end => return (head, end),
        }
    }
}

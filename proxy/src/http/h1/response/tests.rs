use proptest::prelude::*;

use super::*;

fn parse(text: &str, method: &Method, tunnel: bool) -> Result<(ResponseHead, bool), HeadError> {
    let mut head = ResponseHead::default();
    let mut parser = ResponseParser::default();
    match parser.parse(text.as_bytes(), &Limits::default(), method, tunnel, &mut head)? {
        Progress::Done { head_len, keep_alive } => {
            assert_eq!(head_len, text.len());
            Ok((head, keep_alive))
        }
        Progress::Partial => panic!("partial"),
    }
}

#[test]
fn framing_follows_the_rfc() {
    for (text, method, body) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Method::GET, BodyLength::Known(5)),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Method::HEAD, BodyLength::Empty),
        ("HTTP/1.1 304 x\r\ncontent-length: 5\r\n\r\n", Method::GET, BodyLength::Empty),
        ("HTTP/1.1 204 x\r\n\r\n", Method::GET, BodyLength::Empty),
        ("HTTP/1.1 200\r\ntransfer-encoding: Chunked\r\n\r\n", Method::GET, BodyLength::Streamed),
        ("HTTP/1.1 200 OK\r\n\r\n", Method::GET, BodyLength::UntilClose),
        ("HTTP/1.1 200 OK\r\n\r\n", Method::CONNECT, BodyLength::UntilClose),
    ] {
        assert_eq!(parse(text, &method, false).unwrap().0.body, body, "{text}");
    }
}

#[test]
fn keep_alive_follows_version_and_connection() {
    for (text, expected) in [
        ("HTTP/1.1 204 x\r\n\r\n", true),
        ("HTTP/1.1 204 x\r\nConnection: Close\r\n\r\n", false),
        ("HTTP/1.0 204 x\r\n\r\n", false),
        ("HTTP/1.0 204 x\r\nConnection: keep-alive\r\n\r\n", true),
    ] {
        assert_eq!(parse(text, &Method::GET, false).unwrap().1, expected, "{text}");
    }
}

#[test]
fn what_is_ambiguous_is_refused() {
    for (text, error) in [
        (
            "HTTP/1.1 200 x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
            HeadError::BothFramings,
        ),
        ("HTTP/1.1 200 x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", HeadError::ContentLength),
        ("HTTP/1.1 200 x\r\ncontent-length: +5\r\n\r\n", HeadError::ContentLength),
        ("HTTP/1.1 200 x\r\ntransfer-encoding: gzip, chunked\r\n\r\n", HeadError::TransferEncoding),
        ("HTTP/1.1 101 x\r\nupgrade: x\r\n\r\n", HeadError::UnaskedSwitch),
        ("HTTP/2.0 200 x\r\n\r\n", HeadError::StatusLine),
        ("HTTP/1.1 20 x\r\n\r\n", HeadError::StatusLine),
        ("HTTP/1.1 2000 x\r\n\r\n", HeadError::StatusLine),
        ("HTTP/1.1 600 x\r\n\r\n", HeadError::StatusLine),
        ("HTTP/1.1  200 x\r\n\r\n", HeadError::StatusLine),
        ("HTTP/1.1 200 a\rb\r\n\r\n", HeadError::StatusLine),
        ("\r\nHTTP/1.1 200 x\r\n\r\n", HeadError::StatusLine),
        (
            "HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n",
            HeadError::BothFramings,
        ),
        ("HTTP/1.0 200 x\r\ntransfer-encoding: chunked\r\n\r\n", HeadError::TransferEncoding),
        ("HTTP/1.1 200 x\r\ntransfer-encoding: identity\r\n\r\n", HeadError::TransferEncoding),
        ("HTTP/1.1 200 x\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n", HeadError::ContentLength),
        ("HTTP/1.1 200 x\r\nconnection: a b\r\n\r\n", HeadError::Connection),
        ("HTTP/1.1 200 x\r\na: b\r\n c\r\n\r\n", HeadError::Field { line: 2, fault: FieldError::Folded }),
        ("HTTP/1.1 200 x\n\r\n", HeadError::StatusLine),
        ("HTTP/1.1 200 x\r\na: b\n\r\n", HeadError::Field { line: 1, fault: FieldError::BareLf }),
        ("HTTP/1.1 200 x\r\na : b\r\n\r\n", HeadError::Field { line: 1, fault: FieldError::BadName }),
    ] {
        assert_eq!(parse(text, &Method::GET, false).unwrap_err(), error, "{text}");
    }
}

#[test]
fn a_switch_that_was_asked_for_opens_a_tunnel() {
    let text = "HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
    let (head, _) = parse(text, &Method::GET, true).unwrap();
    assert_eq!((head.body, head.upgrade.as_str()), (BodyLength::UntilClose, "websocket"));
}

#[test]
fn a_switch_must_have_been_asked_for_and_be_unframed() {
    let asked =
        |fields: &str| parse(&format!("HTTP/1.1 101 x\r\n{fields}\r\n"), &Method::GET, true).map(|_| ());
    let good = "upgrade: a\r\nconnection: upgrade\r\n";
    assert_eq!(asked(good), Ok(()));
    assert_eq!(asked("upgrade: a\r\n"), Err(HeadError::UnaskedSwitch));
    assert_eq!(asked("connection: upgrade\r\n"), Err(HeadError::UnaskedSwitch));
    assert_eq!(asked(&format!("{good}content-length: 0\r\n")), Err(HeadError::FramedInterim));
    assert_eq!(asked(&format!("{good}transfer-encoding: chunked\r\n")), Err(HeadError::FramedInterim));
}

#[test]
fn an_interim_response_has_no_framing() {
    for fields in ["content-length: 5\r\n", "content-length: 0\r\n", "transfer-encoding: chunked\r\n"] {
        let text = format!("HTTP/1.1 100 x\r\n{fields}\r\n");
        assert_eq!(parse(&text, &Method::GET, false).unwrap_err(), HeadError::FramedInterim, "{fields}");
    }
    let (head, keep_alive) =
        parse("HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n", &Method::HEAD, false).unwrap();
    assert_eq!((head.body, head.headers.len(), keep_alive), (BodyLength::Empty, 1, true));
}

#[test]
fn an_upgrade_that_the_upstream_answers_with_200_is_no_switch() {
    let text = "HTTP/1.1 200 x\r\nupgrade: a\r\nconnection: upgrade\r\ncontent-length: 2\r\n\r\n";
    let (head, keep_alive) = parse(text, &Method::GET, true).unwrap();
    assert_eq!((head.body, head.upgrade.as_str(), keep_alive), (BodyLength::Known(2), "", true));
}

#[test]
fn nothing_follows_on_a_connection_that_may_carry_an_unframed_body() {
    for (text, method, expected) in [
        ("HTTP/1.1 200 x\r\n\r\n", Method::GET, false),
        ("HTTP/1.1 200 x\r\n\r\n", Method::HEAD, true),
        ("HTTP/1.1 204 x\r\ncontent-length: 0\r\n\r\n", Method::GET, true),
        ("HTTP/1.1 204 x\r\ncontent-length: 5\r\n\r\n", Method::GET, false),
        ("HTTP/1.1 204 x\r\ntransfer-encoding: chunked\r\n\r\n", Method::GET, false),
        ("HTTP/1.1 304 x\r\ncontent-length: 5\r\n\r\n", Method::GET, true),
        ("HTTP/1.1 200 x\r\n\r\n", Method::CONNECT, false),
    ] {
        assert_eq!(parse(text, &method, false).unwrap().1, expected, "{text} {method}");
    }
}

#[test]
fn the_declared_length_of_what_has_no_body_is_kept() {
    let declared = |text: &str, method| parse(text, &method, false).unwrap().0.declared_length;
    assert_eq!(declared("HTTP/1.1 200 x\r\ncontent-length: 5\r\n\r\n", Method::HEAD), Some(5));
    assert_eq!(declared("HTTP/1.1 304 x\r\ncontent-length: 5\r\n\r\n", Method::GET), Some(5));
    assert_eq!(declared("HTTP/1.1 204 x\r\ncontent-length: 0\r\n\r\n", Method::GET), None);
}

#[test]
fn what_is_no_http_is_refused_at_its_first_wrong_byte() {
    let mut head = ResponseHead::default();
    let mut first = |input: &[u8]| {
        ResponseParser::default().parse(input, &Limits::default(), &Method::GET, false, &mut head)
    };
    assert_eq!(first(b"HTTP/1."), Ok(Progress::Partial));
    assert_eq!(first(b"S"), Err(HeadError::StatusLine));
    assert_eq!(first(b"HTTP/2"), Err(HeadError::StatusLine));
}

#[test]
fn a_flood_of_headers_is_refused() {
    let text = |count| format!("HTTP/1.1 200 x\r\n{}\r\n", "keep-alive: a\r\n".repeat(count));
    assert!(parse(&text(100), &Method::GET, false).is_ok());
    assert_eq!(parse(&text(101), &Method::GET, false).unwrap_err(), HeadError::TooManyHeaders);
    let long = format!("HTTP/1.1 200 x\r\na: {}\r\n\r\n", "b".repeat(61 * 1024));
    assert_eq!(parse(&long, &Method::GET, false).unwrap_err(), HeadError::TooLarge);
}

proptest! {
    #[test]
    fn any_input_in_any_pieces_reads_the_same(
        input in proptest::collection::vec(
            prop_oneof![
                Just("HTTP/1.1 200 x\r\n".to_owned()), Just("HTTP/1.1 101 x\r\n".to_owned()), Just("\r\n".to_owned()),
                Just("Content-Length: 5\r\n".to_owned()), Just("Transfer-Encoding: chunked\r\n".to_owned()),
                Just("Connection: x, upgrade\r\n".to_owned()), Just("Upgrade: x\r\n".to_owned()), "[ -~\r\n]{0,12}",
            ], 0..8),
        step in 1_usize..9,
        max_head_bytes in 1_usize..120,
    ) {
        let input = input.concat().into_bytes();
        let limits = Limits { max_head_bytes, max_headers: 3 };
        let read = |step: usize| {
            let (mut parser, mut head, mut available) = (ResponseParser::default(), ResponseHead::default(), 0_usize);
            loop {
                available = input.len().min(available.saturating_add(step));
                match parser.parse(&input[..available], &limits, &Method::GET, true, &mut head) {
                    Ok(Progress::Partial) if available < input.len() => {}
                    result => return (result, head.status, head.body, head.headers.len()),
                }
            }
        };
        prop_assert_eq!(read(usize::MAX), read(step));
    }
}

use http::StatusCode;
use proptest::prelude::*;

use super::*;

fn limits() -> HeadLimits {
    HeadLimits { accept_http10: true, ..HeadLimits::default() }
}

/// Parses input that arrives in pieces; the length of the head comes with it.
fn parse_in(input: &[u8], step: usize) -> Result<Option<(RequestHead, usize, bool)>, HeadError> {
    parse_within(input, step, &limits())
}

fn parse_within(
    input: &[u8],
    step: usize,
    limits: &HeadLimits,
) -> Result<Option<(RequestHead, usize, bool)>, HeadError> {
    let (mut parser, mut head) = (RequestParser::default(), RequestHead::default());
    let mut available = 0;
    loop {
        available = input.len().min(available + step);
        match parser.parse(&input[..available], limits, &mut head)? {
            Progress::Done { head_len, keep_alive } => return Ok(Some((head, head_len, keep_alive))),
            Progress::Partial if available == input.len() => return Ok(None),
            Progress::Partial => {}
        }
    }
}

fn parse(text: &str) -> Result<(RequestHead, bool), HeadError> {
    let whole = parse_in(text.as_bytes(), usize::MAX / 2);
    for step in [1, 3, 10] {
        assert_eq!(
            parse_in(text.as_bytes(), step).map(|_| ()),
            whole.as_ref().map(|_| ()).map_err(|e| *e),
            "{text:?}"
        );
    }
    let (head, head_len, keep_alive) = whole?.expect("a whole head");
    assert_eq!(head_len, text.len());
    Ok((head, keep_alive))
}

/// The error of a request with these lines after a good request line and Host.
fn refused(lines: &str) -> HeadError {
    parse(&format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n")).expect_err(lines)
}

fn accepted(lines: &str) -> RequestHead {
    parse(&format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n")).expect(lines).0
}

#[test]
fn a_usual_request_is_read() {
    let text =
        "\r\nGET /a?b=c HTTP/1.1\r\nHost: Example.com:80\r\nUser-Agent:  x y \r\nX-A: 1\r\nx-a:2\r\n\r\n";
    let (head, keep_alive) = parse(text).unwrap();
    assert_eq!(
        (head.method.as_str(), head.authority.as_str(), head.path.as_str()),
        ("GET", "Example.com:80", "/a?b=c")
    );
    assert_eq!((head.body, keep_alive), (BodyLength::Empty, true));
    let fields: Vec<_> = head.headers.iter().collect();
    assert_eq!(fields, [(&b"user-agent"[..], &b"x y"[..]), (b"x-a", b"1"), (b"x-a", b"2")]);
}

#[test]
fn cl_te_in_any_order_is_refused() {
    assert_eq!(refused("Content-Length: 5\r\nTransfer-Encoding: chunked"), HeadError::BothFramings);
    assert_eq!(refused("Transfer-Encoding: chunked\r\nContent-Length: 5"), HeadError::BothFramings);
}

#[test]
fn content_length_is_one_number() {
    for value in ["-1", "0x5", "1_0", "18446744073709551616", "5;", "5, 5", "5, 6", "", "+5", "5 5"] {
        assert_eq!(refused(&format!("Content-Length: {value}")), HeadError::ContentLength, "{value}");
    }
    assert_eq!(refused("Content-Length: 5\r\nContent-Length: 6"), HeadError::ContentLength);
    assert_eq!(refused("Content-Length: 5\r\nContent-Length: 5"), HeadError::ContentLength);
    assert_eq!(accepted("Content-Length: 005").body, BodyLength::Known(5));
}

#[test]
fn transfer_encoding_is_chunked_or_refused() {
    for value in [",chunked", "chunked;q=1", "chunked, chunked", "gzip, chunked", "\"chunked\"", ""] {
        assert_eq!(refused(&format!("Transfer-Encoding: {value}")), HeadError::TransferEncoding, "{value}");
    }
    for value in ["xchunked", "identity", "gzip"] {
        assert_eq!(refused(&format!("Transfer-Encoding: {value}")), HeadError::UnknownCoding, "{value}");
    }
    assert_eq!(
        refused("Transfer-Encoding: chunked\x0b"),
        HeadError::Field { line: 2, fault: FieldError::BadValue }
    );
    assert_eq!(
        refused("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        HeadError::TransferEncoding
    );
    assert_eq!(
        refused("Transfer-Encoding : chunked"),
        HeadError::Field { line: 2, fault: FieldError::BadName }
    );
    assert_eq!(accepted("Transfer-Encoding: Chunked").body, BodyLength::Streamed);
    let old = "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(parse(old).unwrap_err(), HeadError::TransferEncoding);
}

#[test]
fn host_is_there_once_and_is_a_host() {
    for (text, error) in [
        ("GET / HTTP/1.1\r\n\r\n", HeadError::NoHost),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", HeadError::SeveralHosts),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", HeadError::BadHost),
        ("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", HeadError::BadHost),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", HeadError::BadHost),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", HeadError::BadHost),
        ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::BadHost),
    ] {
        assert_eq!(parse(text).unwrap_err(), error, "{text:?}");
    }
    assert_eq!(parse("GET / HTTP/1.0\r\n\r\n").unwrap_err(), HeadError::NoHost);
    assert_eq!(parse("GET http://a/ HTTP/1.0\r\n\r\n").unwrap().0.authority, "a");
}

#[test]
fn an_absolute_target_wins_over_host() {
    let (head, _) = parse("GET http://real/admin?x HTTP/1.1\r\nHost: other\r\n\r\n").unwrap();
    assert_eq!((head.authority.as_str(), head.path.as_str()), ("real", "/admin?x"));
    let (head, _) = parse("GET http://real?x HTTP/1.1\r\nHost: real\r\n\r\n").unwrap();
    assert_eq!(head.path, "/?x");
    let (head, _) = parse("OPTIONS http://real HTTP/1.1\r\nHost: real\r\n\r\n").unwrap();
    assert_eq!(head.path, "*");
    assert_eq!(parse("GET http://a\\.b/ HTTP/1.1\r\nHost: a\r\n\r\n").unwrap_err(), HeadError::BadHost);
    assert_eq!(parse("GET http:/a HTTP/1.1\r\nHost: a\r\n\r\n").unwrap_err(), HeadError::Target);
}

#[test]
fn targets_fit_their_methods() {
    for (line, ok) in [
        ("OPTIONS * HTTP/1.1", true),
        ("GET * HTTP/1.1", false),
        ("CONNECT a:1 HTTP/1.1", true),
        ("CONNECT a HTTP/1.1", false),
        ("CONNECT /a HTTP/1.1", false),
        ("CONNECT [::1]:1 HTTP/1.1", true),
        ("CONNECT [::1] HTTP/1.1", false),
        ("CONNECT http://a:1/ HTTP/1.1", false),
        ("OPTIONS http://a HTTP/1.1", true),
        ("GET a HTTP/1.1", false),
        ("GET \\admin HTTP/1.1", false),
        ("GET ftp://a/ HTTP/1.1", false),
        ("GET /admin#x HTTP/1.1", false),
        ("GET /\u{e4} HTTP/1.1", false),
        ("GET /a b HTTP/1.1", false),
        ("GET  / HTTP/1.1", false),
        ("GET / HTTP/1.1 ", false),
        ("GE\u{7f}T / HTTP/1.1", false),
        (" GET / HTTP/1.1", false),
    ] {
        assert_eq!(parse(&format!("{line}\r\nHost: a\r\n\r\n")).is_ok(), ok, "{line}");
    }
}

#[test]
fn versions_are_told_apart() {
    for (version, expected) in [
        ("HTTP/1.2", Ok(Version::Http11)),
        ("HTTP/1.0", Ok(Version::Http10)),
        ("HTTP/2.0", Err(HeadError::Version)),
        ("HTTP/0.9", Err(HeadError::Version)),
        ("http/1.1", Err(HeadError::RequestLine)),
        ("HTTP/1", Err(HeadError::RequestLine)),
    ] {
        let found = parse(&format!("GET / {version}\r\nHost: a\r\n\r\n")).map(|(head, _)| head.version);
        assert_eq!(found, expected, "{version}");
    }
    assert_eq!(parse("PRI * HTTP/2.0\r\n\r\n").unwrap_err(), HeadError::RequestLine);
    let strict = HeadLimits::default();
    let mut head = RequestHead::default();
    let parsed = RequestParser::default().parse(b"GET / HTTP/1.0\r\n\r\n", &strict, &mut head);
    assert_eq!(parsed, Err(HeadError::Http10));
}

#[test]
fn lines_that_others_repair_are_refused() {
    for (lines, line, fault) in [
        ("a: b\r\n c", 3, FieldError::Folded),
        ("a: b\r\n\tc: d", 3, FieldError::Folded),
        (" a: b", 2, FieldError::Folded),
        ("a: b\rc", 2, FieldError::BadValue),
        ("a: b\r\rc: d", 2, FieldError::BadValue),
        ("a: b\0", 2, FieldError::BadValue),
        ("a\0: b", 2, FieldError::BadName),
        ("a : b", 2, FieldError::BadName),
        (": b", 2, FieldError::BadName),
        ("a b", 2, FieldError::NoColon),
        ("a: b\nc: d", 2, FieldError::BareLf),
    ] {
        assert_eq!(refused(lines), HeadError::Field { line, fault }, "{lines:?}");
    }
    assert_eq!(parse("GET / HTTP/1.1\nHost: a\n\n").unwrap_err(), HeadError::RequestLine);
    assert_eq!(parse("GET / HTTP/1.1\rHost: a\r\n\r\n").unwrap_err(), HeadError::RequestLine);
    let message = refused("a : b").to_string();
    assert_eq!(message, "malformed header in line 2: a field name holds an illegal character");
}

#[test]
fn limits_have_names() {
    let many = "a: b\r\n".repeat(100);
    assert_eq!(refused(many.trim_end()).status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(refused(&format!("a: {}", "b".repeat(62_000))), HeadError::TooLarge);
    let uri = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(17_000));
    assert_eq!(parse(&uri).unwrap_err(), HeadError::UriTooLong);
}

#[test]
fn limits_hold_to_the_byte() {
    let text = b"GET /abc HTTP/1.1\r\nHost: a\r\n\r\n";
    let parse =
        |limits: HeadLimits| RequestParser::default().parse(text, &limits, &mut RequestHead::default());
    let done = Ok(Progress::Done { head_len: text.len(), keep_alive: true });
    let bytes = |max_head_bytes| HeadLimits { max_head_bytes, ..limits() };
    assert_eq!(parse(bytes(text.len())), done);
    assert_eq!(parse(bytes(text.len() - 1)), Err(HeadError::TooLarge));
    let line = |max_line_bytes| HeadLimits { max_line_bytes, ..limits() };
    assert_eq!(parse(line(17)), done);
    assert_eq!(parse(line(16)), Err(HeadError::UriTooLong));
    let headers = |max_headers| HeadLimits { max_headers, ..limits() };
    assert_eq!(parse(headers(1)), done);
    assert_eq!(parse(headers(0)), Err(HeadError::TooManyHeaders));
}

#[test]
fn a_request_cut_at_every_byte_offset_is_never_whole() {
    let text = "\r\nPOST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: x, close\r\nX: y\r\n\r\n";
    for end in 0..text.len() {
        assert!(matches!(parse_in(&text.as_bytes()[..end], 1), Ok(None)), "{end}");
    }
    assert!(parse(text).is_ok());
}

#[test]
fn the_next_request_is_not_looked_at() {
    let first = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
    let input = format!("{first}\0\n\n garbage {}", "x".repeat(100_000));
    let (mut parser, mut head) = (RequestParser::default(), RequestHead::default());
    let done = Ok(Progress::Done { head_len: first.len(), keep_alive: true });
    assert_eq!(parser.parse(input.as_bytes(), &limits(), &mut head), done);
    parser.reset();
    let rest = &input.as_bytes()[first.len()..];
    assert_eq!(parser.parse(rest, &limits(), &mut head), Err(HeadError::RequestLine));
}

#[test]
fn an_expectation_ends_with_its_body_and_a_pipelined_request_follows() {
    let first = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    let input = format!("{first}okGET /b HTTP/1.1\r\nHost: b\r\n\r\n");
    let (mut parser, mut head) = (RequestParser::default(), RequestHead::default());
    let done = Ok(Progress::Done { head_len: first.len(), keep_alive: true });
    assert_eq!(parser.parse(input.as_bytes(), &limits(), &mut head), done);
    assert_eq!((head.expects_continue, head.body), (true, BodyLength::Known(2)));
    parser.reset();
    assert!(parser.parse(&input.as_bytes()[first.len() + 2..], &limits(), &mut head).is_ok());
    assert_eq!((head.path.as_str(), head.expects_continue), ("/b", false));
}

#[test]
fn nothing_of_a_request_is_left_for_the_next() {
    let text = "POST http://b/ HTTP/1.1\r\nHost: a\r\nConnection: close, x, upgrade\r\nUpgrade: u\r\nTE: trailers\r\n\
                Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n";
    let (mut parser, mut head) = (RequestParser::default(), RequestHead::default());
    assert!(parser.parse(text.as_bytes(), &limits(), &mut head).is_ok());
    parser.reset();
    let next = "GET / HTTP/1.1\r\nHost: c\r\nX: 1\r\n\r\n";
    let done = Ok(Progress::Done { head_len: next.len(), keep_alive: true });
    assert_eq!(parser.parse(next.as_bytes(), &limits(), &mut head), done);
    let (fresh, _) = parse(next).unwrap();
    assert_eq!(seen(&head), seen(&fresh));
}

/// A head as text, for comparing.
fn seen(head: &RequestHead) -> String {
    let fields: Vec<_> =
        head.headers.iter().map(|(name, value)| [name.escape_ascii(), value.escape_ascii()]).collect();
    let fields: Vec<String> = fields.iter().flatten().map(ToString::to_string).collect();
    format!(
        "{} {} {} {:?} {:?} {} {} {} {fields:?}",
        head.method,
        head.authority,
        head.path,
        head.version,
        head.body,
        head.expects_continue,
        head.upgrade,
        head.te_trailers
    )
}

#[test]
fn a_flood_of_connection_options_is_refused() {
    assert_eq!(refused(&format!("Connection: {}", "a,".repeat(17))), HeadError::Connection);
    assert_eq!(refused("Connection: a, b\r\n".repeat(9).trim_end()), HeadError::Connection);
    assert_eq!(refused("Connection: close;x"), HeadError::Connection);
}

#[test]
fn connection_cannot_drop_framing_or_identity() {
    for name in [
        "host",
        "content-length",
        "authorization",
        "cookie",
        "x-forwarded-for",
        "X-Forwarded-Client-Cert",
        "x-outrider-fault",
        "x-envoy-retry-on",
        "traceparent",
        "Forwarded",
        "x-request-id",
    ] {
        let head = accepted(&format!("Connection: {name}\r\nContent-Length: 5\r\n{name}x: 1"));
        assert_eq!(head.body, BodyLength::Known(5), "{name}");
        assert_eq!(head.authority, "a", "{name}");
        if !matches!(name, "host" | "content-length") {
            let head = accepted(&format!("Connection: {name}\r\n{name}: 1"));
            assert!(head.headers.contains(name.to_ascii_lowercase().as_bytes()), "{name}");
        }
    }
    assert_eq!(
        accepted("Connection: transfer-encoding\r\nTransfer-Encoding: chunked").body,
        BodyLength::Streamed
    );
}

#[test]
fn connect_and_trace_have_no_body() {
    for start in ["CONNECT a:1", "TRACE /"] {
        for (fields, ok) in [
            ("", true),
            ("Content-Length: 0\r\n", true),
            ("Content-Length: 1\r\n", false),
            ("Transfer-Encoding: chunked\r\n", false),
        ] {
            let result = parse(&format!("{start} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
            let expected = if ok { None } else { Some(HeadError::UnexpectedBody) };
            assert_eq!(result.err(), expected, "{start} {fields}");
        }
    }
}

#[test]
fn an_upgrade_never_leads_to_http_nor_comes_with_a_body() {
    for protocol in ["h2c", "H2C", "h2", "websocket, h2c", "HTTP/2.0", "h2c/1"] {
        assert_eq!(
            accepted(&format!("Connection: upgrade\r\nUpgrade: {protocol}")).upgrade,
            "",
            "{protocol}"
        );
    }
    assert_eq!(refused("Connection: upgrade\r\nUpgrade: a\r\nUpgrade: b"), HeadError::Upgrade);
    assert_eq!(refused("Connection: upgrade\r\nUpgrade: a b"), HeadError::Upgrade);
    for framing in ["Content-Length: 3", "Transfer-Encoding: chunked"] {
        let text = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n{framing}\r\n\r\n"
        );
        assert_eq!(parse(&text).unwrap().0.upgrade, "", "{framing}");
    }
    assert_eq!(
        accepted("Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0").upgrade,
        "websocket"
    );
    let old = "GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(parse(old).unwrap().0.upgrade, "");
}

#[test]
fn http10_has_neither_interim_responses_nor_keep_alive_by_default() {
    let (head, keep_alive) =
        parse("POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n").unwrap();
    assert_eq!((head.expects_continue, keep_alive), (false, false));
    let with = |connection: &str| {
        parse(&format!("GET / HTTP/1.0\r\nHost: a\r\nConnection: {connection}\r\n\r\n")).unwrap().1
    };
    assert!(with("Keep-Alive"));
    assert!(!with("keep-alive, close"));
}

#[test]
fn every_byte_of_a_method_and_of_a_target_is_checked() {
    for byte in 0..=255_u8 {
        let line =
            |before: &[u8], after: &[u8]| [before, &[byte], after, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        let is_tchar = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let method = parse_in(&line(b"A", b"B /"), usize::MAX / 2);
        // A space makes it `A` and the target `B /`, which is none.
        assert_eq!(method.is_ok(), is_tchar, "method {byte:#x}");
        let is_target = (0x21..0x7f).contains(&byte) && byte != b'#';
        let target = parse_in(&line(b"GET /", b"a"), usize::MAX / 2);
        assert_eq!(target.is_ok(), is_target, "target {byte:#x}");
    }
    assert_eq!(
        parse(&format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(33))).unwrap_err(),
        HeadError::RequestLine
    );
}

#[test]
fn connection_cannot_drop_what_others_rely_on() {
    let head = accepted(
        "Connection: close, x-forwarded-for, authorization, custom, host\r\nX-Forwarded-For: 1\r\nAuthorization: x\r\nCustom: y",
    );
    let names: Vec<&[u8]> = head.headers.iter().map(|(name, _)| name).collect();
    assert_eq!(names, [&b"x-forwarded-for"[..], b"authorization"]);
    assert_eq!(head.authority, "a");
}

#[test]
fn hop_by_hop_fields_become_members() {
    let head = accepted(
        "Connection: Upgrade, keep-alive\r\nUpgrade: websocket\r\nTE: trailers\r\nKeep-Alive: 5\r\nExpect: 100-Continue",
    );
    assert!(head.headers.is_empty());
    assert_eq!((head.upgrade.as_str(), head.te_trailers, head.expects_continue), ("websocket", true, true));
    assert_eq!(accepted("Upgrade: websocket").upgrade, "", "without Connection it is no request to upgrade");
    assert_eq!(accepted("Connection: upgrade\r\nUpgrade: h2c").upgrade, "");
    assert_eq!(refused("Expect: nothing"), HeadError::Expectation);
}

#[test]
fn no_http_is_refused_at_its_first_byte() {
    for first in [0x16_u8, 0x00, 0x80, b' ', b'{'] {
        assert_eq!(parse_in(&[first], 1).unwrap_err(), HeadError::RequestLine, "{first:#x}");
    }
}

proptest! {
    #[test]
    fn any_input_in_any_pieces_reads_the_same(
        input in proptest::collection::vec(
            prop_oneof![
                Just("GET / HTTP/1.1\r\n".to_owned()), Just("Host: a\r\n".to_owned()), Just("\r\n".to_owned()),
                Just("Content-Length: 5\r\n".to_owned()), Just("Transfer-Encoding: chunked\r\n".to_owned()),
                Just("Connection: x, close\r\n".to_owned()), Just("\n".to_owned()), "[ -~\r\n]{0,12}",
            ], 0..8),
        step in 1_usize..9,
        max_head_bytes in 1_usize..120,
        max_line_bytes in 1_usize..40,
    ) {
        let input = input.concat().into_bytes();
        let limits = HeadLimits { max_head_bytes, max_line_bytes, max_headers: 3, accept_http10: true };
        let read = |step| parse_within(&input, step, &limits).map(|done| done.map(|(head, len, keep)| (seen(&head), len, keep)));
        prop_assert_eq!(read(usize::MAX / 2), read(step));
    }

    #[test]
    fn any_bytes_never_panic(input in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_in(&input, usize::MAX / 2);
    }
}

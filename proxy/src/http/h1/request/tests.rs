use proptest::prelude::*;

use super::*;

fn limits() -> HeadLimits {
    HeadLimits { accept_http10: true, ..HeadLimits::default() }
}

/// Parses input that arrives in pieces; the length of the head comes with it.
fn parse_in(input: &[u8], step: usize) -> Result<Option<(RequestHead, usize, bool)>, HeadError> {
    let (mut parser, mut head) = (RequestParser::default(), RequestHead::default());
    let mut available = 0;
    loop {
        available = input.len().min(available + step);
        match parser.parse(&input[..available], &limits(), &mut head)? {
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
    assert_eq!(refused("Transfer-Encoding: chunked\x0b"), HeadError::Field(FieldError::BadValue));
    assert_eq!(
        refused("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        HeadError::TransferEncoding
    );
    assert_eq!(refused("Transfer-Encoding : chunked"), HeadError::Field(FieldError::BadName));
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
    assert_eq!(parse("GET / HTTP/1.0\r\n\r\n").unwrap().0.authority, "");
}

#[test]
fn an_absolute_target_wins_over_host() {
    let (head, _) = parse("GET http://real/admin?x HTTP/1.1\r\nHost: other\r\n\r\n").unwrap();
    assert_eq!((head.authority.as_str(), head.path.as_str()), ("real", "/admin?x"));
    let (head, _) = parse("GET http://real?x HTTP/1.1\r\nHost: real\r\n\r\n").unwrap();
    assert_eq!(head.path, "/?x");
}

#[test]
fn targets_fit_their_methods() {
    for (line, ok) in [
        ("OPTIONS * HTTP/1.1", true),
        ("GET * HTTP/1.1", false),
        ("CONNECT a:1 HTTP/1.1", true),
        ("CONNECT a HTTP/1.1", false),
        ("CONNECT /a HTTP/1.1", false),
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
    assert_eq!(parse("PRI * HTTP/2.0\r\n\r\n").unwrap_err(), HeadError::Target.min_version());
    let strict = HeadLimits::default();
    let mut head = RequestHead::default();
    let parsed = RequestParser::default().parse(b"GET / HTTP/1.0\r\n\r\n", &strict, &mut head);
    assert_eq!(parsed, Err(HeadError::Http10));
}

impl HeadError {
    /// `PRI` fails by its version before its target is looked at.
    fn min_version(self) -> Self {
        Self::Version
    }
}

#[test]
fn lines_that_others_repair_are_refused() {
    for (lines, error) in [
        ("a: b\r\n c", FieldError::Folded),
        ("a: b\rc", FieldError::BadValue),
        ("a: b\0", FieldError::BadValue),
        ("a : b", FieldError::BadName),
        ("a b", FieldError::NoColon),
        ("a: b\nc: d", FieldError::BareLf),
    ] {
        assert_eq!(refused(lines), HeadError::Field(error), "{lines:?}");
    }
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
                Just("Content-Length: 5\r\n".to_owned()), Just("\n".to_owned()), "[ -~\r\n]{0,12}",
            ], 0..8),
        step in 1_usize..9,
    ) {
        let input = input.concat().into_bytes();
        let whole = parse_in(&input, usize::MAX / 2).map(|done| done.map(|(head, len, keep)| (head.path, len, keep)));
        let pieces = parse_in(&input, step).map(|done| done.map(|(head, len, keep)| (head.path, len, keep)));
        prop_assert_eq!(whole, pieces);
    }
}

use proptest::prelude::*;

use super::*;

/// Decodes input that arrives in pieces of `step` bytes; what follows the body is not looked at.
fn decode(length: BodyLength, input: &[u8], step: usize) -> Result<(Vec<u8>, Headers), BodyError> {
    let mut decoder = BodyDecoder::new(length);
    let (mut body, mut trailers) = (Vec::new(), Headers::new());
    let (mut at, mut available) = (0, 0);
    loop {
        let decoded = decoder.decode(&input[at..available], &mut trailers)?;
        at += decoded.framing_len();
        match decoded {
            Decoded::Data { len, .. } => {
                body.extend_from_slice(&input[at..at + len]);
                at += len;
            }
            Decoded::End { .. } => return Ok((body, trailers)),
            Decoded::NeedMore { .. } if available == input.len() => decoder.finish()?,
            Decoded::NeedMore { .. } => available = input.len().min(available + step),
        }
    }
}

fn chunked(text: &str) -> Result<Vec<u8>, BodyError> {
    let whole = decode(BodyLength::Streamed, text.as_bytes(), usize::MAX / 2).map(|(body, _)| body);
    for step in [1, 2, 3, 7] {
        let pieces = decode(BodyLength::Streamed, text.as_bytes(), step).map(|(body, _)| body);
        assert_eq!(pieces, whole, "{text:?} in pieces of {step}");
    }
    whole
}

#[test]
fn chunks_are_joined() {
    assert_eq!(chunked("5\r\nhello\r\n0\r\n\r\n"), Ok(b"hello".to_vec()));
    assert_eq!(
        chunked("2;a=b;c=\"d;\\\"\"\r\nhe\r\nA\r\n0123456789\r\n000\r\nx: y\r\n\r\n"),
        Ok(b"he0123456789".to_vec())
    );
}

#[test]
fn chunk_sizes_are_hex_digits_only() {
    for size in ["0x5", "-5", "+5", " 5", "5 ", "", "g", "11111111111111111", "5\t", "5\r"] {
        assert_eq!(chunked(&format!("{size}\r\nhello\r\n0\r\n\r\n")), Err(BodyError::ChunkSize), "{size:?}");
    }
    assert_eq!(chunked("fffffffffffffffff\r\n"), Err(BodyError::ChunkSize));
    assert_eq!(chunked("ffffffffffffffff\r\nx"), Err(BodyError::Truncated));
    assert_eq!(chunked("00000000000000005\r\nhello\r\n0\r\n\r\n"), Err(BodyError::ChunkSize));
    assert_eq!(chunked("5\nhello\r\n0\r\n\r\n"), Err(BodyError::ChunkSize));
}

#[test]
fn chunk_extensions_are_bounded_and_well_formed() {
    for extension in [";", ";=", ";a=", ";a b", "; a", ";a=\"", ";a=\"\x01\"", ";a=b c"] {
        assert_eq!(
            chunked(&format!("5{extension}\r\nhello\r\n0\r\n\r\n")),
            Err(BodyError::Extension),
            "{extension:?}"
        );
    }
    let long = format!("5;a={}\r\nhello\r\n0\r\n\r\n", "b".repeat(20_000));
    assert_eq!(chunked(&long), Err(BodyError::Extension));
    let many = format!("1;a={}\r\nx\r\n", "b".repeat(200)).repeat(100) + "0\r\n\r\n";
    assert_eq!(chunked(&many), Err(BodyError::Extension));
}

#[test]
fn a_wrong_chunk_size_is_refused_before_its_line_ends() {
    for input in ["g", "5 ", "0x", "11111111111111111", "\r", ";"] {
        let decoded = BodyDecoder::new(BodyLength::Streamed).decode(input.as_bytes(), &mut Headers::new());
        assert_eq!(decoded, Err(BodyError::ChunkSize), "{input:?}");
    }
}

#[test]
fn routing_trailers_are_dropped_in_any_case() {
    for name in [
        "X-Forwarded-For",
        "x-envoy-retry-on-and-a-name-that-is-longer-than-the-copy",
        "AUTHORIZATION",
        "If-Match",
        "TE",
    ] {
        let (_, trailers) =
            decode(BodyLength::Streamed, format!("0\r\n{name}: 1\r\n\r\n").as_bytes(), 3).unwrap();
        assert!(trailers.is_empty(), "{name}");
    }
    let flood = format!("0\r\n{}\r\n", "te: b\r\n".repeat(65));
    assert_eq!(decode(BodyLength::Streamed, flood.as_bytes(), 3).unwrap_err(), BodyError::TooManyTrailers);
}

#[test]
fn malformed_trailers_are_refused() {
    for (line, fault) in
        [("a : b", FieldError::BadName), (" a: b", FieldError::Folded), ("a", FieldError::NoColon)]
    {
        assert_eq!(chunked(&format!("0\r\n{line}\r\n\r\n")), Err(BodyError::Trailer(fault)), "{line}");
    }
    assert_eq!(chunked("0\r\na: b\n\r\n"), Err(BodyError::Trailer(FieldError::BareLf)));
}

#[test]
fn data_that_overruns_its_chunk_is_refused() {
    assert_eq!(chunked("5\r\nhello!\r\n0\r\n\r\n"), Err(BodyError::ChunkEnd));
    assert_eq!(chunked("5\r\nhello\n0\r\n\r\n"), Err(BodyError::ChunkEnd));
}

#[test]
fn a_hundred_thousand_one_byte_chunks_are_read() {
    let text = "1\r\nx\r\n".repeat(100_000) + "0\r\n\r\n";
    let (body, _) = decode(BodyLength::Streamed, text.as_bytes(), 4096).unwrap();
    assert_eq!(body.len(), 100_000);
}

#[test]
fn framing_and_routing_trailers_are_dropped() {
    let text = "0\r\nContent-Length: 5\r\nHost: x\r\ngrpc-status: 0\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (_, trailers) = decode(BodyLength::Streamed, text.as_bytes(), 3).unwrap();
    assert_eq!(trailers.iter().collect::<Vec<_>>(), [(&b"grpc-status"[..], &b"0"[..])]);
    let flood = format!("0\r\n{}\r\n", "a: b\r\n".repeat(65));
    assert_eq!(decode(BodyLength::Streamed, flood.as_bytes(), 3).unwrap_err(), BodyError::TooManyTrailers);
    let endless = format!("0\r\na: {}", "b".repeat(MAX_TRAILER_BYTES));
    assert_eq!(decode(BodyLength::Streamed, endless.as_bytes(), 3).unwrap_err(), BodyError::TooManyTrailers);
}

#[test]
fn a_body_cut_at_any_byte_is_truncated() {
    let text = b"5;a=b\r\nhello\r\n0\r\nx: y\r\n\r\n";
    for end in 0..text.len() {
        assert_eq!(decode(BodyLength::Streamed, &text[..end], 4).unwrap_err(), BodyError::Truncated, "{end}");
    }
    assert_eq!(decode(BodyLength::Known(6), b"hello", 2).unwrap_err(), BodyError::Truncated);
    assert_eq!(decode(BodyLength::Known(4), b"hello", 2).unwrap().0, b"hell");
    assert_eq!(decode(BodyLength::UntilClose, b"hello", 2).unwrap().0, b"hello");
}

proptest! {
    #[test]
    fn any_input_in_any_pieces_reads_the_same(
        input in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'1'), Just(b'0'), Just(b';'), any::<u8>()], 0..200),
        step in 1_usize..20,
    ) {
        let whole = decode(BodyLength::Streamed, &input, 1 << 20).map(|(body, trailers)| (body, trailers.len()));
        let pieces = decode(BodyLength::Streamed, &input, step).map(|(body, trailers)| (body, trailers.len()));
        prop_assert_eq!(whole, pieces);
    }
}

//! What requests carry of a trace.

use proptest::prelude::*;

use super::context::{self, MAX_STATE_BYTES, TRACEPARENT, TRACESTATE};
use super::*;
use crate::http::headers::Headers;

const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
const SPAN: u64 = 0xb7ad_6b71_6920_3331;
const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn headers(fields: &[(&str, &str)]) -> Headers {
    let mut headers = Headers::new();
    for (name, value) in fields {
        headers.append(name.as_bytes(), value.as_bytes());
    }
    headers
}

fn parent(sampled: Option<bool>) -> Option<Parent> {
    Some(Parent { trace: TraceId(TRACE), span: Some(SpanId(SPAN)), sampled })
}

#[test]
fn a_traceparent_is_read_strictly() {
    let longer = format!("{GOOD}-more").replacen("00", "01", 1);
    let glued = format!("{GOOD}more").replacen("00", "01", 1);
    let with = |from: &str, to: &str| GOOD.replacen(from, to, 1);
    for (value, expected) in [
        (GOOD.to_owned(), parent(Some(true))),
        (with("-01", "-00"), parent(Some(false))),
        // Flags that we do not know say nothing.
        (with("-01", "-ff"), parent(Some(true))),
        (with("-01", "-02"), parent(Some(false))),
        // A later version: what is known of it holds.
        (with("00-", "cc-"), parent(Some(true))),
        (longer, parent(Some(true))),
        (glued, None),
        (with("00-", "ff-"), None),
        (format!("{GOOD}-more"), None),
        (format!("{GOOD} "), None),
        (with("0af7", "0AF7"), None),
        (with("0af7", "0ag7"), None),
        (with("-01", "-0"), None),
        (with("-01", "-0x"), None),
        (with("-", "_"), None),
        (with("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)), None),
        (with("b7ad6b7169203331", &"0".repeat(16)), None),
        (String::new(), None),
        ("00".to_owned(), None),
    ] {
        assert_eq!(Parent::of(&headers(&[("traceparent", &value)])), expected, "{value}");
    }
    assert_eq!(Parent::of(&headers(&[("traceparent", GOOD), ("traceparent", GOOD)])), None, "two");
    assert_eq!(Parent::of(&headers(&[])), None);
}

#[test]
fn b3_is_read_in_both_forms_where_there_is_no_traceparent() {
    let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    for (rest, expected) in [
        ("", parent(None)),
        ("-1", parent(Some(true))),
        ("-d", parent(Some(true))),
        ("-0", parent(Some(false))),
        ("-1-00f067aa0ba902b7", parent(Some(true))),
        ("-1-0", None),
        ("-x", None),
        ("-1-00f067aa0ba902b7-1", None),
    ] {
        let value = format!("{trace}-{span}{rest}");
        assert_eq!(Parent::of(&headers(&[("b3", &value)])), expected, "{value}");
    }
    assert_eq!(Parent::of(&headers(&[("b3", "0")])), None);
    let several = |more: &[(&str, &str)]| {
        Parent::of(&headers(&[&[("x-b3-traceid", trace), ("x-b3-spanid", span)], more].concat()))
    };
    assert_eq!(several(&[]), parent(None));
    assert_eq!(several(&[("x-b3-sampled", "1")]), parent(Some(true)));
    assert_eq!(several(&[("x-b3-sampled", "0")]), parent(Some(false)));
    assert_eq!(several(&[("x-b3-sampled", "0"), ("x-b3-flags", "1")]), parent(Some(true)));
    assert_eq!(several(&[("x-b3-sampled", "maybe")]), None);
    let short = Parent::of(&headers(&[("x-b3-traceid", span)])).unwrap();
    assert_eq!((short.trace, short.span), (TraceId(u128::from(SPAN)), None));
    let both = headers(&[("b3", &format!("{trace}-{span}-1")), ("traceparent", "bad")]);
    assert_eq!(Parent::of(&both), None, "a bad traceparent begins a new trace");
}

#[test]
fn what_vendors_say_goes_on_within_bounds() {
    let carried = Carried { trace: TraceId(TRACE), span: SpanId(SPAN), sampled: true };
    let of = |fields: &[(&str, &str)], goes_on: bool| {
        let mut headers = headers(fields);
        carried.put_on(&mut headers, goes_on);
        assert_eq!(headers.all(TRACEPARENT).collect::<Vec<_>>(), [GOOD.as_bytes()]);
        headers.all(TRACESTATE).map(|value| String::from_utf8(value.to_vec()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(of(&[("tracestate", "a=1"), ("tracestate", "b=2,c=3")], true), ["a=1", "b=2,c=3"]);
    assert_eq!(of(&[("tracestate", "a=1"), ("traceparent", "x")], false), Vec::<String>::new());
    let longest = format!("a={}", "x".repeat(MAX_STATE_BYTES - 2));
    assert_eq!(of(&[("tracestate", &longest)], true).len(), 1);
    assert_eq!(of(&[("tracestate", &format!("{longest}x"))], true).len(), 0);
    assert_eq!(of(&[("tracestate", &["a=1"; 32].join(","))], true).len(), 1);
    assert_eq!(of(&[("tracestate", &["a=1"; 33].join(","))], true).len(), 0);
    assert_eq!(of(&[("tracestate", "a=\u{e9}")], true).len(), 0);
    assert_eq!(
        context::state(&headers(&[("tracestate", "a=1"), ("tracestate", "b=2")])).as_deref(),
        Some("a=1,b=2")
    );
    assert_eq!(context::state(&headers(&[])), None);
}

proptest! {
    #[test]
    fn whatever_is_written_is_read_again(trace in 1_u128.., span in 1_u64.., sampled: bool) {
        let carried = Carried { trace: TraceId(trace), span: SpanId(span), sampled };
        let read = Parent::parse(&carried.to_traceparent());
        prop_assert_eq!(
            read,
            Some(Parent { trace: TraceId(trace), span: Some(SpanId(span)), sampled: Some(sampled) })
        );
    }

    #[test]
    fn no_bytes_panic_and_none_are_read_that_would_be_written_otherwise(
        value in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        if let Some(Parent { trace, span: Some(span), sampled: Some(sampled) }) = Parent::parse(&value) {
            let written = Carried { trace, span, sampled }.to_traceparent();
            // All but the version and the flags that we do not know.
            prop_assert_eq!(value.get(2..53), written.get(2..53));
        }
        let mut headers = Headers::new();
        headers.append(b"b3", &value);
        let _ = Parent::of(&headers);
    }

    #[test]
    fn one_letter_changed_never_names_another_version_of_the_same(at in 0_usize..55, byte: u8) {
        let mut value = GOOD.as_bytes().to_vec();
        value[at] = byte;
        let lower_hex = byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let expected = if matches!(at, 2 | 35 | 52) { byte == b'-' } else { lower_hex };
        // No single change of this one makes an id zero or the version ff.
        prop_assert_eq!(Parent::parse(&value).is_some(), expected);
    }
}

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::policy::Ruling;

fn line(template: &str, record: &Record<'_>) -> String {
    let mut out = b"before ".to_vec();
    Template::parse(template).unwrap().render_line(record, &mut out);
    String::from_utf8(out).unwrap().strip_prefix("before ").unwrap().to_owned()
}

fn request(headers: &[(&str, &[u8])]) -> RequestHead {
    let mut head = RequestHead::default();
    head.path.push_str("/a?b");
    head.authority.push_str("h:1");
    for (name, value) in headers {
        head.headers.append(name.as_bytes(), value);
    }
    head
}

#[test]
fn operators_are_filled_in() {
    let head = request(&[("x", b"1\"\n2")]);
    let mut response = ResponseHead::default();
    response.headers.append(b"y", b"why");
    let authorized = Authorized {
        enforced: Some(Ruling { allowed: false, policy: Some("p".into()) }),
        shadow: Some(Ruling { allowed: true, policy: None }),
        log: Some(true),
    };
    let faults = ["f".into(), "g".into()];
    let record = Record {
        authorized: Some(&authorized),
        faults: &faults,
        peer: Some("spiffe://a/b"),
        start: UNIX_EPOCH + Duration::from_millis(1_709_164_800_123),
        duration: Duration::from_millis(1500),
        response_after: Some(Duration::from_micros(2999)),
        request: Some(&head),
        response: Some(&response),
        status: 503,
        flags: Flags::UF.with(Flags::URX),
        reason: Some("upstream_connect_failure"),
        transport_failure: Some("tls_expired"),
        received_bytes: 7,
        sent_bytes: 9,
        upstream: Some("[::1]:80".parse().unwrap()),
        cluster: "c",
        route: "r",
        attempts: 2,
        trace: TraceId::new(0x1f),
        server_name: Some("sni"),
        local: Some("10.0.0.1:8080".parse().unwrap()),
        remote: Some("10.0.0.2:4000".parse().unwrap()),
    };
    let cases = [
        ("%REQ(:METHOD)% %REQ(:PATH):2% 100%%", "GET /a 100%"),
        ("%REQ(:AUTHORITY)% %REQ(HOST)% %REQ(:SCHEME)%", "h:1 h:1 http"),
        ("%REQ(Y?X)% %REQ(Z)% %REQ(Z?:path)%", "1\\\"\\n2 - /a?b"),
        ("%REQUEST_HEADER(x):1% %REQ(X):99%", "1 1\\\"\\n2"),
        ("%RESP(y)% %RESPONSE_HEADER(n?Y):2% %RESP(:STATUS)%", "why wh 200"),
        ("%START_TIME%", "2024-02-29T00:00:00.123Z"),
        ("%START_TIME(%Y/%m/%d (%s.%3f))%|", "2024/02/29 (1709164800.123)|"),
        ("%RESPONSE_CODE% %RESPONSE_FLAGS%", "503 UF,URX"),
        ("%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS%", "upstream_connect_failure -"),
        ("%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESPONSE_DURATION%", "7 9 1500 2"),
        ("%UPSTREAM_HOST% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT%", "[::1]:80 ::1 80"),
        ("%UPSTREAM_TRANSPORT_FAILURE_REASON%", "tls_expired"),
        ("%UPSTREAM_CLUSTER% %ROUTE_NAME% %UPSTREAM_REQUEST_ATTEMPT_COUNT%", "c r 2"),
        ("%TRACE_ID%", "0000000000000000000000000000001f"),
        ("%REQUESTED_SERVER_NAME% %PROTOCOL()%", "sni HTTP/1.1"),
        ("%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", "10.0.0.1:8080 10.0.0.1"),
        ("%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS%", "10.0.0.2:4000 10.0.0.2:4000"),
        (
            "%DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_effective_policy_id)% \
             %DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_engine_result)%",
            "p denied",
        ),
        (
            "%DYNAMIC_METADATA(envoy.filters.network.rbac:shadow_effective_policy_id)% \
             %DYNAMIC_METADATA(envoy.filters.network.rbac:shadow_engine_result)%",
            "- allowed",
        ),
        ("%DYNAMIC_METADATA(envoy.common:access_log_hint)% %DOWNSTREAM_PEER_URI_SAN%", "true spiffe://a/b"),
        ("%DYNAMIC_METADATA(outrider.fault:names)%", "f,g"),
        ("%DOWNSTREAM_LOCAL_PORT% %DOWNSTREAM_REMOTE_PORT%", "8080 4000"),
    ];
    for (template, expected) in cases {
        assert_eq!(line(template, &record), expected, "{template}");
    }
}

#[test]
fn what_is_missing_is_a_dash() {
    let templates = [
        ("%REQ(:METHOD)% %RESP(A)% %PROTOCOL% %RESPONSE_FLAGS%", "- - - -"),
        ("%RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_DURATION%", "0 - -"),
        ("%UPSTREAM_HOST% %UPSTREAM_CLUSTER% %ROUTE_NAME% %REQUESTED_SERVER_NAME%", "- - - -"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %TRACE_ID%", "- -"),
    ];
    for (template, expected) in templates {
        assert_eq!(line(template, &Record::default()), expected, "{template}");
    }
    let opaque = Record { reason: Some("no_healthy_upstream"), ..Record::default() };
    assert_eq!(line("%CONNECTION_TERMINATION_DETAILS%", &opaque), "no_healthy_upstream");
}

#[test]
fn what_is_not_supported_is_named() {
    let unknown = [
        "FOO",
        "REQ",
        "REQ()",
        "REQ(a):x",
        "REQ(a):",
        "REQ(a?b?c)",
        "REQ(a b)",
        "REQ(:foo)",
        "RESP(:path)",
        "RESPONSE_CODE:3",
        "RESPONSE_CODE(x)",
        "START_TIME(%Q)",
        "START_TIME(%Y):4",
        "GRPC_STATUS",
        "DYNAMIC_METADATA",
        "DYNAMIC_METADATA(a:b)",
        "DYNAMIC_METADATA(envoy.filters.http.rbac:x)",
        "TRAILER(a)",
        "req(a)",
        "",
    ];
    for operator in unknown {
        let text = format!("a %{operator}% b");
        match Template::parse(&text) {
            // An empty operator is an escaped "%".
            Ok(_) => assert_eq!(operator, ""),
            Err(FormatError::Unknown(named)) => {
                assert!(operator.starts_with(&named), "{operator}: named {named}");
            }
            Err(error) => panic!("{operator}: {error}"),
        }
    }
    for (text, error) in [
        ("50%", FormatError::Open),
        ("%PROTOCOL", FormatError::Open),
        ("%REQ(a)", FormatError::Open),
        ("a\rb", FormatError::Control),
        ("a\0b", FormatError::Control),
    ] {
        assert_eq!(Template::parse(text).unwrap_err(), error, "{text}");
    }
    assert_eq!(Template::parse("%FOO(a)%").unwrap_err().to_string(), "operator %FOO(a)% is not supported");
}

#[test]
fn json_values_have_the_types_that_envoy_gives_them() {
    let head = request(&[("x", b"a\"b\\c\n")]);
    let format = |fields: &[(&str, &str)]| {
        LineFormat::Json(
            fields.iter().map(|(key, text)| ((*key).to_owned(), Template::parse(text).unwrap())).collect(),
        )
    };
    let fields = [
        ("k\"", "%REQ(X)%"),
        ("code", "%RESPONSE_CODE%"),
        ("two", "%RESPONSE_CODE%%RESPONSE_CODE%"),
        ("missing", "%REQ(NO)%"),
        ("mixed", "a%REQ(NO)%b"),
        ("flags", "%RESPONSE_FLAGS%"),
        ("text", "x"),
        ("none", ""),
        ("time", "%START_TIME(%s)%"),
        ("cluster", "%UPSTREAM_CLUSTER%"),
    ];
    let mut out = Vec::new();
    format(&fields).render(&Record { request: Some(&head), status: 200, ..Record::default() }, &mut out);
    assert!(out.ends_with(b"}\n") && out.iter().filter(|byte| **byte == b'\n').count() == 1);
    let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let expected = json!({
        "k\"": "a\"b\\c\n", "code": 200, "two": "200200", "missing": null, "mixed": "a-b", "flags": "-", "text": "x",
        "none": "", "time": "0", "cluster": null,
    });
    assert_eq!(value, expected);
}

#[test]
fn the_default_line_begins_with_envoys() {
    let mut head = request(&[("user-agent", b"curl/7.88.1"), ("x-request-id", b"1-2")]);
    head.path = "/rewritten".to_owned();
    head.headers.append(b"x-envoy-original-path", b"/up");
    let record = Record {
        start: UNIX_EPOCH + Duration::from_millis(1_795_224_044_724),
        request: Some(&head),
        status: 503,
        flags: Flags::UF,
        sent_bytes: 98,
        upstream: Some("127.0.0.1:1".parse().unwrap()),
        cluster: "c",
        reason: Some("upstream_connect_failure"),
        ..Record::default()
    };
    let mut out = Vec::new();
    LineFormat::envoy_default().render(&record, &mut out);
    let expected = "[2026-11-21T01:20:44.724Z] \"GET /up HTTP/1.1\" 503 UF 0 98 0 - \"-\" \"curl/7.88.1\" \"1-2\" \
                    \"h:1\" \"127.0.0.1:1\" upstream_connect_failure - c - - -\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn literals_are_known_as_such() {
    assert_eq!(Template::parse("a%%b").unwrap().as_literal(), Some(&b"a%b"[..]));
    assert_eq!(Template::parse("").unwrap().as_literal(), Some(&b""[..]));
    assert_eq!(Template::parse("a%PROTOCOL%").unwrap().as_literal(), None);
}

proptest! {
    #[test]
    fn no_format_string_panics(text in "[%A-Z(): a-z?0-9_é-]{0,40}") {
        let _ = Template::parse(&text);
    }

    #[test]
    fn a_header_value_holds_nothing_that_splits_a_head(value in any::<Vec<u8>>()) {
        let head = request(&[("x", &value)]);
        let mut out = b"kept\n".to_vec();
        let record = Record { request: Some(&head), ..Record::default() };
        Template::parse("a%REQ(x)%").unwrap().render_value(&record, &mut out);
        let written = out.strip_prefix(b"kept\na").unwrap();
        prop_assert!(!written.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t'));
        prop_assert!(http::HeaderValue::from_bytes(written).is_ok());
    }

    #[test]
    fn a_request_makes_one_line_and_one_object(value in any::<Vec<u8>>(), path in any::<String>()) {
        let mut head = request(&[("x", &value), ("user-agent", &value)]);
        head.path = path;
        let record = Record { request: Some(&head), ..Record::default() };
        let mut out = Vec::new();
        LineFormat::envoy_default().render(&record, &mut out);
        prop_assert_eq!(out.iter().position(|byte| *byte == b'\n'), Some(out.len() - 1));
        prop_assert_eq!(String::from_utf8(out).unwrap().lines().count(), 1);
        let fields = vec![("p".to_owned(), Template::parse("%REQ(:PATH)%").unwrap()),
            ("x".to_owned(), Template::parse("<%REQ(x)%>").unwrap())];
        let mut out = Vec::new();
        LineFormat::Json(fields).render(&record, &mut out);
        let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
        prop_assert_eq!(read["p"].as_str().unwrap_or_default(), &head.path);
    }
}

use outrider_proto::json;
use proptest::prelude::*;

use super::*;

fn header(yaml: &str) -> HeaderMatcher {
    let value: pb::HeaderMatcher = json::from_yaml(&format!("{{name: X-H, {yaml}}}")).unwrap();
    let mut path = Path::root();
    let matcher = HeaderMatcher::from_proto(&value, &mut path);
    path.finish(matcher).unwrap()
}

fn fault<T: std::fmt::Debug>(compile: impl FnOnce(&mut Path) -> Option<T>) -> String {
    let mut path = Path::root();
    let value = compile(&mut path);
    path.finish(value).unwrap_err()[0].to_string()
}

fn request(values: &[&str]) -> RequestHead {
    let mut head = RequestHead::default();
    for value in values {
        head.headers.append(b"x-h", value.as_bytes());
    }
    head
}

/// The answers are those of Envoy 1.40 to the same matchers and requests; the columns are the values of the header.
#[test]
fn header_matchers_answer_as_envoy_does() {
    let columns: [&[&str]; 10] =
        [&[], &[""], &["a"], &["b"], &["a", "b"], &["b", "a"], &["5"], &["+5"], &["10"], &["5", "6"]];
    for (yaml, expected) in [
        ("", "n yyyyyyyyy"),
        ("invert_match: true", "y nnnnnnnnn"),
        ("present_match: true", "n yyyyyyyyy"),
        ("present_match: false", "y nnnnnnnnn"),
        ("present_match: true, invert_match: true", "y nnnnnnnnn"),
        ("present_match: false, invert_match: true", "n yyyyyyyyy"),
        ("present_match: true, treat_missing_header_as_empty: true", "y yyyyyyyyy"),
        ("present_match: false, treat_missing_header_as_empty: true", "n nnnnnnnnn"),
        ("string_match: {exact: a}", "n nynyynnnn"),
        ("string_match: {exact: a}, invert_match: true", "n ynynnyyyy"),
        ("string_match: {exact: a}, invert_match: true, treat_missing_header_as_empty: true", "y ynynnyyyy"),
        ("string_match: {exact: ''}", "n ynnnnnnnn"),
        ("string_match: {exact: ''}, treat_missing_header_as_empty: true", "y ynnnnnnnn"),
        ("string_match: {prefix: a}", "n nynyynnnn"),
        ("string_match: {suffix: a}", "n nynyynnnn"),
        ("string_match: {contains: a}", "n nynyynnnn"),
        ("string_match: {exact: b}", "n nnyyynnnn"),
        ("string_match: {exact: 'a,b'}", "n nnnnnnnnn"),
        ("string_match: {safe_regex: {regex: 'a.b'}}", "n nnnnnnnnn"),
        ("range_match: {start: 1, end: 10}", "n nnnnnyyny"),
        ("range_match: {start: 1, end: 10}, invert_match: true", "n yyyyynnyn"),
        (
            "range_match: {start: 1, end: 10}, invert_match: true, treat_missing_header_as_empty: true",
            "y yyyyynnyn",
        ),
    ] {
        let matcher = header(yaml);
        let found: String =
            columns.iter().map(|values| if matcher.matches(&request(values)) { 'y' } else { 'n' }).collect();
        assert_eq!(found, expected.replace(' ', ""), "{yaml}");
    }
}

#[test]
fn what_a_head_keeps_apart_is_matched_too() {
    let mut head = RequestHead {
        authority: "a.b".into(),
        path: "/p?q".into(),
        upgrade: "WebSocket".into(),
        method: http::Method::PUT,
        ..RequestHead::default()
    };
    for (name, expected) in [
        (":authority", "a.b"),
        ("Host", "a.b"),
        (":path", "/p?q"),
        (":method", "PUT"),
        (":scheme", "http"),
        ("upgrade", "WebSocket"),
    ] {
        let yaml = format!("{{name: '{name}', string_match: {{exact: '{expected}'}}}}");
        let value: pb::HeaderMatcher = json::from_yaml(&yaml).unwrap();
        let matcher = HeaderMatcher::from_proto(&value, &mut Path::root()).unwrap();
        assert!(matcher.matches(&head), "{name}");
    }
    head.upgrade.clear();
    head.secure = true;
    for (yaml, expected) in [
        ("{name: upgrade, present_match: true}", false),
        ("{name: upgrade, present_match: false}", true),
        ("{name: ':scheme', string_match: {exact: https}}", true),
        ("{name: ':authority', present_match: true}", true),
    ] {
        let value: pb::HeaderMatcher = json::from_yaml(yaml).unwrap();
        let matcher = HeaderMatcher::from_proto(&value, &mut Path::root()).unwrap();
        assert_eq!(matcher.matches(&head), expected, "{yaml}");
    }
}

#[test]
fn a_rule_about_a_host_holds_however_the_host_is_written() {
    const ADMIN: &[&str] =
        &["admin.test", "ADMIN.test", "admin.test.", "admin.test:80", "Admin.Test.:8080", "admin.TEST:443"];
    const OTHERS: &[&str] = &["admin.test.evil", "xadmin.test", "admin.test..", "a", "[::1]:80"];
    let rules = [
        "{exact: admin.test}",
        "{exact: Admin.test.}",
        "{prefix: Admin.t, ignore_case: true}",
        "{suffix: '.Test'}",
        "{safe_regex: {regex: '(Admin|root)\\.test'}}",
    ];
    for name in [":authority", "Host"] {
        for (number, rule) in rules.iter().enumerate() {
            let compiled = |more: &str| {
                let yaml = format!("{{name: '{name}', string_match: {rule}{more}}}");
                HeaderMatcher::from_proto(&json::from_yaml(&yaml).unwrap(), &mut Path::root()).unwrap()
            };
            let (rule, inverted) = (compiled(""), compiled(", invert_match: true"));
            for host in ADMIN {
                let head = RequestHead { authority: (*host).into(), ..RequestHead::default() };
                assert!(rule.matches(&head) && !inverted.matches(&head), "{rule:?} {host}");
                for reading in [Reading::Any, Reading::All] {
                    assert!(
                        rule.matches_as(&head, reading) && !inverted.matches_as(&head, reading),
                        "{host}"
                    );
                }
            }
            // A prefix and a suffix hold for others too.
            for host in OTHERS.iter().filter(|_| !matches!(number, 2 | 3)) {
                let head = RequestHead { authority: (*host).into(), ..RequestHead::default() };
                assert!(!rule.matches(&head) && inverted.matches(&head), "{rule:?} {host}");
            }
        }
    }
    let port = "{name: host, string_match: {exact: 'a.test:81'}}";
    let port = HeaderMatcher::from_proto(&json::from_yaml(port).unwrap(), &mut Path::root()).unwrap();
    for (host, expected) in [("A.test.:81", true), ("a.test:82", false), ("a.test", false)] {
        let head = RequestHead { authority: host.into(), ..RequestHead::default() };
        assert_eq!(port.matches(&head), expected, "{host}");
    }
}

/// The answers are those of Envoy 1.40.
#[test]
fn query_matchers_answer_as_envoy_does() {
    let columns =
        ["", "a=1", "a=2&a=1", "a=1&a=2", "a", "a=", "%61=1", "a=a%20b", "a=a+b", "b=1&&a=1", "A=1"];
    for (yaml, expected) in [
        ("string_match: {exact: '1'}", "nynynnnnnyn"),
        ("present_match: true", "nyyyyynyyyn"),
        ("", "nyyyyynyyyn"),
        ("present_match: false", "ynnnnnynnny"),
        ("string_match: {exact: 'a b'}", "nnnnnnnnnnn"),
        ("string_match: {exact: 'a%20b'}", "nnnnnnnynnn"),
        ("string_match: {exact: ''}", "nnnnyynnnnn"),
    ] {
        let value: pb::QueryParameterMatcher = json::from_yaml(&format!("{{name: a, {yaml}}}")).unwrap();
        let matcher = QueryMatcher::from_proto(&value, &mut Path::root()).unwrap();
        let found: String =
            columns.iter().map(|query| if matcher.matches(Some(query)) { 'y' } else { 'n' }).collect();
        assert_eq!(found, expected, "{yaml}");
        assert_eq!(matcher.matches(None), matcher.matches(Some("")), "{yaml}");
    }
}

#[test]
fn faults_name_their_fields() {
    for (yaml, expected) in [
        ("{name: ''}", "name: missing"),
        ("{name: 'a b'}", "name: \"a b\" is not a header name"),
        ("{name: ':status'}", "name: \":status\" is not one of :authority, :method, :path, :scheme"),
        (
            "{name: Content-Length}",
            "name: \"content-length\" belongs to the connection and cannot be matched",
        ),
        ("{name: te}", "name: \"te\" belongs to the connection and cannot be matched"),
        ("{name: a, string_match: {}}", "string_match: no pattern is set"),
        ("{name: a, string_match: {prefix: ''}}", "string_match: must not be empty"),
        ("{name: a, string_match: {safe_regex: {regex: ''}}}", "string_match.safe_regex.regex: missing"),
        (
            "{name: a, string_match: {safe_regex: {regex: a}, ignore_case: true}}",
            "string_match: ignore_case has no effect on safe_regex; begin the expression with (?i)",
        ),
        // Two expressions that would become one by being put in brackets, and lose their anchors.
        (
            "{name: a, string_match: {safe_regex: {regex: 'a)|(b'}}}",
            "string_match.safe_regex.regex: regex parse error",
        ),
        (
            "{name: a, string_match: {safe_regex: {regex: '(a{1000}){1000}'}}}",
            "string_match.safe_regex.regex: Compiled regex exceeds size limit",
        ),
    ] {
        let value: pb::HeaderMatcher = json::from_yaml(yaml).unwrap();
        let found = fault(|path| HeaderMatcher::from_proto(&value, path));
        assert!(found.starts_with(expected), "{found}\n{expected}");
        assert!(!found.contains('\n'), "{found:?}");
    }
}

#[test]
fn regular_expressions_match_the_whole() {
    for (regex, text, expected) in [
        ("a|b", "a", true),
        ("a|b", "b", true),
        ("a|b", "ab", false),
        ("a|b", "a\n", false),
        ("(?i)AB+", "abB", true),
        ("^a$", "a", true),
        (".*x", "yyx", true),
        // Time grows with the text, not with its square or worse.
        ("(a+)+", &"a".repeat(10_000), true),
        ("(a+)+b", &"a".repeat(10_000), false),
    ] {
        let value = pbm::RegexMatcher { regex: regex.into(), ..Default::default() };
        let compiled = full_regex(&value, &mut Path::root()).unwrap();
        assert_eq!(compiled.is_match(text.as_bytes()), expected, "{regex}");
    }
}

proptest! {
    /// Against the operations of the standard library, on lower-cased text where case is ignored.
    #[test]
    fn strings_match_as_plain_operations_do(text in "[abAB]{0,6}", part in "[abAB]{1,3}", ignore_case: bool) {
        let fold = |text: &str| if ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
        let (folded, wanted) = (fold(&text), fold(&part));
        for (kind, expected) in [
            ("exact", folded == wanted),
            ("prefix", folded.starts_with(&wanted)),
            ("suffix", folded.ends_with(&wanted)),
            ("contains", folded.contains(&wanted)),
        ] {
            let value: pbm::StringMatcher =
                json::from_yaml(&format!("{{{kind}: '{part}', ignore_case: {ignore_case}}}")).unwrap();
            let matcher = StringMatcher::from_proto(&value, &mut Path::root()).unwrap();
            prop_assert_eq!(matcher.matches(text.as_bytes()), expected, "{} {} {}", kind, part, text);
        }
    }
}

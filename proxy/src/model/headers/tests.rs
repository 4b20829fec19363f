use outrider_proto::envoy::config::route::v3 as pb;
use outrider_proto::json;

use super::*;
use crate::http::message::RequestHead;

fn compile(yaml: &str) -> Result<HeaderChanges, Vec<String>> {
    let value: pb::Route = json::from_yaml(yaml).unwrap();
    let mut path = Path::root();
    let changes = HeaderChanges::from_proto(
        &value.request_headers_to_add,
        &value.request_headers_to_remove,
        "request",
        &mut path,
    );
    path.finish(Some(changes)).map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

/// What a level makes of these fields.
fn changed(yaml: &str, fields: &[(&str, &str)]) -> Vec<String> {
    let changes = compile(yaml).unwrap();
    let mut head = RequestHead::default();
    for (name, value) in fields {
        head.headers.append(name.as_bytes(), value.as_bytes());
    }
    let mut values = Values::default();
    changes.remove_from(&mut head.headers);
    changes.render(&Record { request: Some(&head), ..Record::default() }, &mut values);
    changes.add_to(&mut head.headers, &values);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    head.headers.iter().map(|(name, value)| format!("{}: {}", text(name), text(value))).collect()
}

fn add(action: &str, value: &str) -> String {
    format!(
        "{{request_headers_to_add: [{{header: {{key: X-A, value: '{value}'}}, append_action: {action}}}]}}"
    )
}

#[test]
fn each_action_does_what_its_name_says() {
    let there = [("x-a", "1"), ("x-b", "2"), ("x-a", "3")];
    for (action, absent, present) in [
        (
            "APPEND_IF_EXISTS_OR_ADD",
            &["x-b: 2", "x-a: new"][..],
            &["x-a: 1", "x-b: 2", "x-a: 3", "x-a: new"][..],
        ),
        ("ADD_IF_ABSENT", &["x-b: 2", "x-a: new"], &["x-a: 1", "x-b: 2", "x-a: 3"]),
        ("OVERWRITE_IF_EXISTS_OR_ADD", &["x-b: 2", "x-a: new"], &["x-a: new", "x-b: 2"]),
        ("OVERWRITE_IF_EXISTS", &["x-b: 2"], &["x-a: new", "x-b: 2"]),
    ] {
        for value in ["new", "%REQ(x-n?:method):0%new"] {
            let mut with_absent = changed(&add(action, value), &[("x-b", "2")]);
            with_absent.sort_unstable();
            let mut expected = absent.to_vec();
            expected.sort_unstable();
            assert_eq!(with_absent, expected, "{action} {value}");
            let mut found = changed(&add(action, value), &there);
            found.sort_unstable();
            let mut expected = present.to_vec();
            expected.sort_unstable();
            assert_eq!(found, expected, "{action} {value}");
        }
    }
}

#[test]
fn the_old_form_means_append_or_overwrite() {
    for (append, expected) in [("true", &["x-a: 1", "x-a: new"][..]), ("false", &["x-a: new"])] {
        let yaml =
            format!("{{request_headers_to_add: [{{header: {{key: x-a, value: new}}, append: {append}}}]}}");
        assert_eq!(changed(&yaml, &[("x-a", "1")]), expected);
    }
}

#[test]
fn removal_comes_first_and_values_see_what_it_left() {
    let yaml = "{request_headers_to_remove: [X-A], request_headers_to_add: [\
                {header: {key: x-b, value: 'was %REQ(x-a)%'}}, {header: {key: x-a, value: new}}]}";
    assert_eq!(changed(yaml, &[("x-a", "old")]), ["x-b: was ", "x-a: new"]);
}

/// As in Envoy: all values of a level are written before any of them is added.
#[test]
fn values_of_one_level_do_not_see_each_other() {
    let yaml = "{request_headers_to_add: [{header: {key: x-a, value: one}}, {header: {key: x-b, value: '<%REQ(x-a)%>'}}, \
                {header: {key: x-c, value: '<%REQ(x-d)%>'}}, {header: {key: x-e, value: two}}]}";
    assert_eq!(changed(yaml, &[("x-d", "4")]), ["x-d: 4", "x-a: one", "x-b: <>", "x-c: <4>", "x-e: two"]);
}

#[test]
fn empty_values_are_left_out_unless_they_are_wanted() {
    for (more, value, expected) in [
        ("", "%REQ(x-none)%", &[][..]),
        (", keep_empty_value: true", "%REQ(x-none)%", &["x-a: "]),
        ("", "", &[]),
        (", keep_empty_value: true", "", &["x-a: "]),
    ] {
        let yaml = format!("{{request_headers_to_add: [{{header: {{key: x-a, value: '{value}'}}{more}}}]}}");
        assert_eq!(changed(&yaml, &[]), expected, "{more} {value}");
    }
}

#[test]
fn faults_name_their_fields() {
    let add = |option: &str| format!("{{request_headers_to_add: [{option}]}}");
    let at = "request_headers_to_add[0]";
    for (yaml, expected) in [
        (add("{}"), format!("{at}.header: missing")),
        (add("{header: {key: '', value: a}}"), format!("{at}.header.key: \"\" is not a header name")),
        (add("{header: {key: 'a b', value: a}}"), format!("{at}.header.key: \"a b\" is not a header name")),
        (
            add("{header: {key: ':path', value: a}}"),
            format!("{at}.header.key: \":path\" cannot be changed this way; use host_rewrite_literal for the host"),
        ),
        (
            add("{header: {key: Host, value: a}}"),
            format!("{at}.header.key: \"Host\" cannot be changed this way; use host_rewrite_literal for the host"),
        ),
        (
            add("{header: {key: Transfer-Encoding, value: a}}"),
            format!("{at}.header.key: \"Transfer-Encoding\" belongs to the connection and cannot be changed"),
        ),
        (add("{header: {key: a, value: '50%'}}"), format!("{at}.header.value: a \"%\" is not closed; write \"%%\" for the character itself")),
        (add("{header: {key: a, value: \"a\\nb\"}}"), format!("{at}.header.value: holds a control character")),
        (
            add("{header: {key: a, value: b}, append: true, append_action: ADD_IF_ABSENT}"),
            format!("{at}: append and append_action are both set"),
        ),
        (
            "{request_headers_to_remove: [host]}".into(),
            "request_headers_to_remove[0]: \"host\" cannot be changed this way; use host_rewrite_literal for the host".into(),
        ),
        (
            "{request_headers_to_remove: [a, connection]}".into(),
            "request_headers_to_remove[1]: \"connection\" belongs to the connection and cannot be changed".into(),
        ),
    ] {
        assert_eq!(compile(&yaml).unwrap_err(), [expected], "{yaml}");
    }
    let many = vec!["a"; MAX_CHANGES + 1].join(",");
    assert_eq!(
        compile(&format!("{{request_headers_to_remove: [{many}]}}")).unwrap_err(),
        ["more than 1000 request header changes"]
    );
}

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;

use crate::cli;

/// What the command says to a server that answers like this, and what the server is asked.
fn command(words: &[&str], status: &str, answer: &str) -> (u8, String, String, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // By its name, of which the first address may be another one.
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    let response = format!("HTTP/1.0 {status}\r\n\r\n{answer}");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
        stream.write_all(response.as_bytes()).unwrap();
        first.split(' ').nth(1).unwrap().to_owned()
    });
    let words = [&["outrider"], words, &["--control", &address]].concat().into_iter().map(Into::into);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = cli::run(words.collect::<Vec<_>>(), &mut out, &mut err);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (code, text(out), text(err), server.join().unwrap())
}

const STATUS: &str = r#"{"objects": [
  {"key": "Service/shop/web", "conditions": [{"type": "Programmed", "status": "True", "reason": "Programmed"}],
   "proxies": 13, "acknowledged": 13, "problems": []},
  {"key": "HTTPRoute/shop/web", "conditions": [{"type": "Accepted", "status": "False", "reason": "Conflicted"}],
   "proxies": 0, "acknowledged": 0, "problems": []}], "problems": [
  {"file": "a.yaml", "line": 3, "object": "Workload/shop/a", "severity": "error", "rule": "invalid-object",
   "reason": "spec.address: no\u001b[31m", "kept": true}]}"#;

#[test]
fn objects_stand_in_a_table_and_what_is_wrong_below() {
    let (code, out, _, asked) = command(&["status"], "200 OK", STATUS);
    assert_eq!((code, asked.as_str()), (1, "/api/v1/status"));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines,
        [
            "OBJECT              ACCEPTED    RESOLVED  PROGRAMMED  PROXIES",
            "Service/shop/web    -           -         yes         13/13",
            "HTTPRoute/shop/web  Conflicted  -         -           0/0",
            "a.yaml:3: error: Workload/shop/a: spec.address: no [31m [invalid-object] (the last good version stays in force)",
        ]
    );
    let (_, json, ..) = command(&["status", "-o", "json"], "200 OK", STATUS);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json, serde_json::from_str::<serde_json::Value>(STATUS).unwrap());
}

#[test]
fn an_object_is_described() {
    let object = r#"{"key": "Service/shop/web", "file": "a.yaml", "line": 1, "conditions": [{"type": "Programmed",
        "status": "False", "reason": "Rejected", "message": "rejected by p: a: no"}], "problems": []}"#;
    let (code, out, _, asked) = command(&["describe", "Service/shop/web"], "200 OK", object);
    assert_eq!((code, asked.as_str()), (1, "/api/v1/status/Service/shop/web"));
    let (.., asked) = command(&["describe", "Revocation/stolen"], "200 OK", object);
    assert_eq!(asked, "/api/v1/status/Revocation//stolen");
    let expected = "Service/shop/web (a.yaml:1)\n  Programmed: False (Rejected): rejected by p: a: no\n";
    assert_eq!(out, expected);
}

#[test]
fn proxies_endpoints_and_configuration_are_shown() {
    let proxies = r#"{"proxies": [{"id": "p", "namespace": "shop", "identity": null, "dialect": "envoy", "protocol": "sotw",
        "refuses": true, "kinds": {"cluster": {"last_refused": {"reason": "no"}}, "route": {"last_refused": null}}}]}"#;
    let (code, out, _, asked) = command(&["proxies"], "200 OK", proxies);
    assert_eq!((code, asked.as_str()), (1, "/api/v1/proxies"));
    assert!(out.ends_with("p      shop       -         envoy    sotw      refuses cluster: no\n"), "{out}");
    let service = r#"{"ports": [{"port": 80, "endpoints": [{"address": "10.0.0.1:80", "health": "Healthy", "weight": 1,
        "identity": "spiffe://a/ns/b/sa/c"}]}]}"#;
    let (code, out, _, asked) = command(&["endpoints", "shop/web"], "200 OK", service);
    assert_eq!((code, asked.as_str()), (0, "/api/v1/services/shop/web"));
    assert!(out.contains("80    10.0.0.1:80  Healthy  1       spiffe://a/ns/b/sa/c"), "{out}");
    let words = ["config", "a/b", "--kind", "routes", "--name", "outbound|80||x"];
    let (code, out, _, asked) = command(&words, "200 OK", "{\"resources\": []}");
    assert_eq!((code, out.as_str()), (0, "{\n  \"resources\": []\n}\n"));
    assert_eq!(asked, "/api/v1/proxies/a%2Fb/config?kind=route&name=outbound%7C80%7C%7Cx");
}

#[test]
fn names_of_a_wrong_form_are_not_asked_for() {
    for (words, reason) in [
        (["describe", "HTTPRoute/x"], "KIND/NAMESPACE/NAME is needed"),
        (["describe", "/shop/x"], "KIND/NAMESPACE/NAME is needed"),
        (["endpoints", "web"], "NAMESPACE/NAME is needed"),
        (["endpoints", "shop/web/80"], "NAMESPACE/NAME is needed"),
        (["proxies", "--control=localhost"], "HOST:PORT is needed"),
        (["proxies", "--control=::1"], "HOST:PORT is needed"),
    ] {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let words = ["outrider"].into_iter().chain(words).map(Into::into);
        assert_eq!(cli::run(words.collect::<Vec<_>>(), &mut out, &mut err), 2);
        let err = String::from_utf8(err).unwrap();
        assert!(err.contains(reason), "{err}");
    }
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let words = ["outrider", "config", "p", "--kind", "foo"].into_iter().map(Into::into);
    assert_eq!(cli::run(words.collect::<Vec<_>>(), &mut out, &mut err), 2);
    assert!(String::from_utf8(err).unwrap().contains("possible values: cluster, "));
    let (code, _, _, asked) = command(&["describe", "Namespace//shop"], "200 OK", r#"{"key": "x"}"#);
    assert_eq!((code, asked.as_str()), (0, "/api/v1/status/Namespace//shop"));
}

#[test]
fn no_answer_is_told_from_a_bad_one() {
    let (code, out, err, _) = command(&["endpoints", "shop/none"], "404 Not Found", "there is none\n");
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("404: there is none"), "{err}");
    // A port that speaks something else: HTTP/2, as for ADS, whose server waits then for more.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        stream.write_all(b"\0\0\0\x04\0\0\0\0\0").unwrap();
        // Until the client goes.
        let _ = std::io::Read::read_to_end(&mut stream, &mut Vec::new());
    });
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let words = ["outrider", "proxies", "--control", &address].into_iter().map(Into::into);
    assert_eq!(cli::run(words.collect::<Vec<_>>(), &mut out, &mut err), 2);
    server.join().unwrap();
    let err = String::from_utf8(err).unwrap();
    assert!(err.ends_with("gave no HTTP answer (is this the port of the API?)\n"), "{err}");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let words = ["outrider", "proxies", "--control", &free].into_iter().map(Into::into);
    assert_eq!(cli::run(words.collect::<Vec<_>>(), &mut out, &mut err), 2);
    assert!(String::from_utf8(err).unwrap().contains("--control"));
}

#[test]
fn a_fault_says_whom_it_does_not_reach_and_one_that_is_gone_that_it_is() {
    let all = r#"{"stopped": false, "faults": [{"namespace": "shop", "name": "f", "file": "", "phase": "Running",
        "left_s": 9, "proxies": 0, "acknowledged": 0, "unable": 2}]}"#;
    let (code, out, ..) = command(&["fault", "list"], "200 OK", all);
    assert_eq!(code, 0);
    assert!(out.contains("shop/f  Running  9s    0/0      applied\n"), "{out}");
    assert!(
        out.ends_with("shop/f: proxies that are meant and take no faults, because they are not ours: 2\n"),
        "{out}"
    );
    let (_, out, _, asked) = command(&["fault", "stop", "g"], "200 OK", r#"{"faults": []}"#);
    assert_eq!(asked, "/api/v1/faults/default/g/stop");
    assert!(out.ends_with("default/g is stopped, and gone: it was applied by hand.\n"), "{out}");
}

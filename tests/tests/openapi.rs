//! The HTTP API of the control server is what its description says: every operation, with what is there and what is not.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use outrider_tests::control::{Control, PATIENCE, Wire};
use outrider_tests::process::{Process, free_port};
use serde_json::Value;

const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: mesh.outrider.dev/v1alpha1
kind: FaultInjection
metadata: {name: web, namespace: shop}
spec: {direction: Inbound, refuse: {}}
";

/// Status, type of the content, and the content.
fn ask(port: u16, method: &str, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let kind = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-type").then(|| value.trim().to_owned())
    });
    (status, kind.unwrap_or_default(), body.to_owned())
}

/// The parts of a path, as something that is there and as something that is not.
const THERE: [(&str, &str); 4] =
    [("{kind}", "Service"), ("{namespace}", "shop"), ("{name}", "web"), ("{id}", "web-1")];
const NOWHERE: [(&str, &str); 4] =
    [("{kind}", "Service"), ("{namespace}", "shop"), ("{name}", "none"), ("{id}", "none")];

#[test]
fn every_operation_answers_as_it_is_described() {
    let control = Control::start(Wire::Plaintext, OBJECTS);
    let admin = free_port();
    let _proxy = Process::outrider(&control.outrider("web-1", "web", admin), admin);
    control.settled("web-1");
    let described: Value = serde_json::from_str(&ask(control.api, "GET", "/openapi.json").2).unwrap();
    let paths: BTreeMap<String, BTreeMap<String, Value>> =
        serde_json::from_value(described["paths"].clone()).unwrap();
    assert!(paths.len() > 10, "{paths:#?}");
    let mut seen = Vec::new();
    for (path, operations) in &paths {
        for method in ["get", "post", "put", "delete", "patch"] {
            for names in [THERE, NOWHERE] {
                let asked = names.iter().fold(path.clone(), |path, (name, value)| path.replace(name, value));
                let (status, kind, body) = ask(control.api, &method.to_uppercase(), &asked);
                let Some(operation) = operations.get(method) else {
                    assert!(
                        [404, 405].contains(&status),
                        "{method} {asked} is not described: {status} {body}"
                    );
                    continue;
                };
                let response = &operation["responses"][status.to_string()];
                assert!(response.is_object(), "{method} {asked}: {status} is not described: {body}");
                for (described, _) in response["content"].as_object().into_iter().flatten() {
                    assert!(
                        kind.starts_with(described.as_str()),
                        "{method} {asked}: {kind}, not {described}"
                    );
                    if described == "application/json" {
                        assert!(serde_json::from_str::<Value>(&body).is_ok(), "{method} {asked}: {body}");
                    }
                }
                if names == THERE && method == "get" {
                    assert_eq!(status, 200, "{asked}: {body}");
                }
                if names == NOWHERE && asked.contains("none") {
                    assert_eq!(status, 404, "{asked}: {body}");
                }
                seen.push((path.clone(), method, status));
            }
        }
    }
    // No page is passed over, and the operator's own need the operator's token.
    assert!(seen.contains(&("/api/v1/faults".into(), "post", 401)), "{seen:#?}");
    assert_eq!(ask(control.api, "GET", "/api/v1/nothing").0, 404);
}

//! The API server's side of an admission webhook: questions over HTTPS, and patches applied (RFC 6902).

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// By which name an API server calls the webhooks.
pub const HOST: &str = "outrider-control.outrider-system.svc";

/// A question about a pod, or about what makes pods, that is created in a namespace.
#[must_use]
pub fn review(namespace: &str, object: &Value) -> Value {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "3f1c", "kind": {"group": group, "version": version, "kind": object["kind"]},
        "operation": "CREATE", "namespace": namespace, "object": object, "dryRun": false,
    }})
}

/// `curl` for a webhook on this port, verified by these roots.
#[must_use]
pub fn curl(port: u16, roots: &Path) -> Command {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "20", "--cacert"]).arg(roots);
    command.args(["--resolve", &format!("{HOST}:{port}:127.0.0.1"), "-H", "Content-Type: application/json"]);
    command
}

/// The HTTP status code and body of an answer; 0 and why when there is none.
///
/// # Panics
/// When there is no `curl`.
#[must_use]
pub fn post(port: u16, roots: &Path, path: &str, body: &str) -> (u16, String) {
    let mut command = curl(port, roots);
    command.args(["-w", "\n%{http_code}", "--data-binary", "@-"]);
    command.arg(format!("https://{HOST}:{port}{path}"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("curl");
    // A server may answer before it has read everything.
    let _ = child.stdin.take().expect("a pipe").write_all(body.as_bytes());
    let output = child.wait_with_output().expect("an answer");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match text.rsplit_once('\n').map(|(body, code)| (code.parse().unwrap_or(0), body.to_owned())) {
        Some((code, body)) if code != 0 => (code, body),
        _ => (0, String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The response to a question.
///
/// # Panics
/// When there is none, or it is not one to this question.
#[must_use]
pub fn ask(port: u16, roots: &Path, path: &str, review: &Value) -> Value {
    let (code, body) = post(port, roots, path, &review.to_string());
    assert_eq!(code, 200, "{path}: {body}");
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["response"]["uid"], review["request"]["uid"]);
    answer["response"].clone()
}

/// An object after a patch.
///
/// # Panics
/// When it cannot be applied.
#[must_use]
pub fn patched(object: &Value, operations: &Value) -> Value {
    let mut object = object.clone();
    for operation in operations.as_array().expect("a list") {
        let path = operation["path"].as_str().expect("a path");
        let (parent, last) = path.rsplit_once('/').expect("a pointer");
        let last = last.replace("~1", "/").replace("~0", "~");
        let parent = object.pointer_mut(parent).unwrap_or_else(|| panic!("{path}: there is no parent"));
        match (operation["op"].as_str(), parent) {
            (Some("add"), Value::Object(fields)) => {
                fields.insert(last, operation["value"].clone());
            }
            (Some("replace"), Value::Object(fields)) => {
                assert!(fields.insert(last, operation["value"].clone()).is_some(), "{path}");
            }
            (Some("remove"), Value::Object(fields)) => {
                assert!(fields.remove(&last).is_some(), "{path}");
            }
            (Some("add"), Value::Array(items)) => {
                let at = if last == "-" { items.len() } else { last.parse().expect("an index") };
                items.insert(at, operation["value"].clone());
            }
            (Some("replace"), Value::Array(items)) => {
                items[last.parse::<usize>().expect("an index")] = operation["value"].clone();
            }
            (Some("remove"), Value::Array(items)) => {
                items.remove(last.parse().expect("an index"));
            }
            (other, _) => panic!("{path}: {other:?}"),
        }
    }
    object
}

//! The admission webhooks of the real control server, asked over HTTPS as an API server asks.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outrider_control::inject::manifest;
use outrider_tests::admission::{HOST, ask, curl, patched, post, review};
use outrider_tests::control::{Control, Wire};
use outrider_tests::process::{admin_get, free_port};
use serde_json::{Value, json};

/// A control server with webhooks.
struct Webhooks {
    control: Control,
    port: u16,
}

impl Webhooks {
    fn start(more: &[&str]) -> Self {
        let (mut control, port) = (Control::stopped(Wire::Tls, ""), free_port());
        control.more = vec!["--webhook-address".to_owned(), format!("127.0.0.1:{port}")];
        control.more.extend(more.iter().map(|&one| one.to_owned()));
        control.run();
        Self { control, port }
    }

    fn roots(&self) -> PathBuf {
        self.control.state().join("ca.pem")
    }

    fn ask(&self, path: &str, review: &Value) -> Value {
        ask(self.port, &self.roots(), path, review)
    }

    fn post(&self, path: &str, body: &str) -> (u16, String) {
        post(self.port, &self.roots(), path, body)
    }
}

fn patch(response: &Value) -> Option<Value> {
    let text = STANDARD.decode(response["patch"].as_str()?).unwrap();
    Some(serde_json::from_slice(&text).unwrap())
}

fn pod(metadata: Value, spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "a-"},
        "spec": {"containers": [{"name": "main", "image": "x"}]}});
    for (part, more) in [("metadata", metadata), ("spec", spec)] {
        pod[part].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    }
    pod
}

/// The pods of all shapes that there are golden files for.
fn shapes() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../control-api/src/inject/golden/in");
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        for document in manifest::documents(&fs::read_to_string(&path).unwrap()) {
            let value = manifest::parse(&document.text).unwrap();
            for object in manifest::objects(&value) {
                let Some(pod) = manifest::pointer(object).and_then(|at| object.pointer(at)) else { continue };
                let mut pod = pod.clone();
                (pod["apiVersion"], pod["kind"]) = ("v1".into(), "Pod".into());
                all.push((path.file_name().unwrap().to_string_lossy().into_owned(), pod));
            }
        }
    }
    assert!(all.len() >= 20, "{}", all.len());
    all
}

#[test]
fn each_shape_of_pod_gets_its_sidecar_once_however_often_it_is_asked() {
    let webhooks = Webhooks::start(&[]);
    let mut injected = 0;
    for (name, pod) in shapes() {
        let mut asked = review("shop", &pod);
        let response = webhooks.ask("/inject/enabled", &asked);
        assert_eq!(response["allowed"], true, "{name}: {response:#}");
        asked["request"]["dryRun"] = true.into();
        assert_eq!(webhooks.ask("/inject/enabled", &asked), response, "{name}: a dry run");
        let Some(operations) = patch(&response) else { continue };
        injected += 1;
        assert_eq!(response["patchType"], "JSONPatch");
        let mut after = patched(&pod, &operations);
        let again = webhooks.ask("/inject/enabled", &review("shop", &after));
        assert_eq!((&again["allowed"], &again["patch"]), (&json!(true), &Value::Null), "{name}: once more");
        // Another webhook adds a container behind our back: the API server asks again (`reinvocationPolicy: IfNeeded`).
        let late =
            json!({"name": "late", "image": "x", "livenessProbe": {"httpGet": {"path": "/", "port": 9}}});
        after["spec"]["containers"].as_array_mut().unwrap().push(late);
        let response = webhooks.ask("/inject/enabled", &review("shop", &after));
        let after = patched(&after, &patch(&response).unwrap_or_else(|| panic!("{name}: {response:#}")));
        let containers = after["spec"]["containers"].as_array().unwrap();
        let late = containers.iter().find(|one| one["name"] == "late").unwrap();
        assert_eq!(late["livenessProbe"]["httpGet"]["path"], "/app-health/late/livez", "{name}");
        let ours = |list: &str| {
            let all = after["spec"][list].as_array().into_iter().flatten();
            all.filter(|one| one["name"].as_str().unwrap().starts_with("outrider-")).count()
        };
        assert_eq!(ours("containers") + ours("initContainers"), 2, "{name}: one sidecar, one redirection");
    }
    assert!(injected >= 14, "{injected}");
}

#[test]
fn who_does_not_want_or_may_not_have_a_sidecar_gets_none() {
    let webhooks = Webhooks::start(&[]);
    let label = |name: &str, value: &str| pod(json!({"labels": {name: value}}), json!({}));
    let note = |name: &str, value: &str| pod(json!({"annotations": {name: value}}), json!({}));
    let quiet = pod(json!({}), json!({}));
    let table = [
        ("shop", label("outrider.dev/inject", "disabled")),
        ("shop", note("outrider.dev/inject", "false")),
        ("shop", note("linkerd.io/inject", "disabled")),
        ("shop", label("sidecar.istio.io/inject", "false")),
        ("shop", note("sidecar.istio.io/inject", "false")),
        ("shop", pod(json!({}), json!({"hostNetwork": true}))),
        ("shop", note("kubernetes.io/config.mirror", "x")),
        ("shop", pod(json!({}), json!({"os": {"name": "windows"}}))),
        ("shop", pod(json!({}), json!({"containers": [{"name": "istio-proxy", "image": "x"}]}))),
        ("outrider-system", quiet.clone()),
        ("kube-system", quiet.clone()),
    ];
    for (namespace, pod) in table {
        let response = webhooks.ask("/inject/enabled", &review(namespace, &pod));
        assert_eq!((&response["allowed"], &response["patch"]), (&json!(true), &Value::Null), "{pod}");
        let said = response["auditAnnotations"]["decision"].as_str().unwrap();
        assert!(said.starts_with("skipped: "), "{pod}: {said}");
    }
    // In a namespace that says nothing a pod must ask.
    assert!(patch(&webhooks.ask("/inject", &review("shop", &quiet))).is_none());
    let asks = label("outrider.dev/inject", "enabled");
    assert!(patch(&webhooks.ask("/inject", &review("shop", &asks))).is_some());
    // A container for debugging comes into a pod that runs, where nothing can be added any more.
    let mut debug = review("shop", &quiet);
    debug["request"]["operation"] = "UPDATE".into();
    debug["request"]["subResource"] = "ephemeralcontainers".into();
    assert!(patch(&webhooks.ask("/inject/enabled", &debug)).is_none());
}

#[test]
fn what_could_break_out_is_refused_warned_of_or_noted_as_the_namespace_says() {
    let webhooks = Webhooks::start(&["--audit-exempt", "infra/node=host-path,node-files"]);
    let volume = json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}], "serviceAccountName": "node"});
    let bad = pod(json!({}), volume);
    let refused = webhooks.ask("/audit/enforce/baseline", &review("shop", &bad));
    assert_eq!((&refused["allowed"], &refused["status"]["code"]), (&json!(false), &json!(403)));
    let message = refused["status"]["message"].as_str().unwrap();
    assert!(message.contains("spec.volumes[0].hostPath.path: / of the node is as good as root"), "{message}");
    let warned = webhooks.ask("/audit/warn/baseline", &review("shop", &bad));
    assert_eq!((&warned["allowed"], warned["warnings"].as_array().unwrap().len()), (&json!(true), 2));
    let noted = webhooks.ask("/audit/audit/baseline", &review("shop", &bad));
    assert_eq!((&noted["allowed"], &noted["warnings"]), (&json!(true), &Value::Null));
    assert!(noted["auditAnnotations"]["decision"].as_str().unwrap().contains("node-files"));
    let exempt = webhooks.ask("/audit/enforce/baseline", &review("infra", &bad));
    assert_eq!(exempt["allowed"], true, "{exempt:#}");
    assert_eq!(webhooks.ask("/audit/enforce/restricted", &review("infra", &bad))["allowed"], false);

    // A privileged container for debugging, in a pod that has been there before.
    let good = pod(json!({}), json!({}));
    let mut debug = review("shop", &good);
    debug["request"]["operation"] = "UPDATE".into();
    debug["request"]["subResource"] = "ephemeralcontainers".into();
    debug["request"]["oldObject"] = good;
    assert_eq!(webhooks.ask("/audit/enforce/baseline", &debug)["allowed"], true);
    debug["request"]["object"]["spec"]["ephemeralContainers"] =
        json!([{"name": "d", "image": "x", "securityContext": {"privileged": true}}]);
    let refused = webhooks.ask("/audit/enforce/baseline", &debug);
    assert_eq!(refused["allowed"], false);
    assert!(refused["status"]["message"].as_str().unwrap().contains("spec.ephemeralContainers[0]"));
    // A pod with its sidecar passes, but for the rights of the redirection that are let pass here by its image.
    let whole = json!({"automountServiceAccountToken": false,
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "main", "image": "x",
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]});
    let whole = pod(json!({}), whole);
    let response = webhooks.ask("/inject/enabled", &review("shop", &whole));
    let injected = patched(&whole, &patch(&response).unwrap());
    let response = webhooks.ask("/audit/enforce/restricted", &review("shop", &injected));
    assert_eq!(response["allowed"], true, "{response:#}");
}

#[test]
fn a_sidecar_that_cannot_work_fails_closed_or_open_as_it_is_configured() {
    let odd = pod(json!({"annotations": {"config.outrider.dev/log-level": "loud"}}), json!({}));
    for (option, allowed) in [("deny", false), ("allow", true)] {
        let webhooks = Webhooks::start(&["--webhook-on-error", option]);
        let response = webhooks.ask("/inject/enabled", &review("shop", &odd));
        assert_eq!((&response["allowed"], &response["patch"]), (&json!(allowed), &Value::Null), "{option}");
        assert!(
            response.to_string().contains("config.outrider.dev/log-level]: \\\"loud\\\""),
            "{response:#}"
        );
    }
}

#[test]
fn what_is_no_question_gets_a_clear_no_and_the_next_question_an_answer() {
    let webhooks = Webhooks::start(&[]);
    let good = review("shop", &pod(json!({}), json!({})));
    for (path, body, expected) in [
        ("/", good.to_string(), 404),
        ("/inject/disabled", good.to_string(), 404),
        ("/audit/enforce/nothing", good.to_string(), 404),
        ("/inject", "{".to_owned(), 400),
        ("/inject", "[]".to_owned(), 400),
        ("/inject", "[".repeat(100_000), 400),
        ("/inject", json!({"apiVersion": "admission.k8s.io/v1beta1"}).to_string(), 400),
        ("/inject", format!("\"{}\"", "x".repeat(9 * 1024 * 1024)), 413),
    ] {
        let (code, answer) = webhooks.post(path, &body);
        assert_eq!(code, expected, "{path} {:.40}: {answer}", body);
        assert!(!answer.is_empty());
        assert_eq!(webhooks.ask("/inject/enabled?timeout=10s", &good)["allowed"], true);
    }
    let url = format!("https://{HOST}:{}/inject", webhooks.port);
    let run = |command: &mut Command| {
        let output = command.args(["-o", "/dev/null", "-w", "%{http_code}"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run(curl(webhooks.port, &webhooks.roots()).arg(&url)), "405", "GET");
    let plain = url.replace("https", "http");
    assert_eq!(run(curl(webhooks.port, &webhooks.roots()).args(["-d", "{}", &plain])), "000", "no TLS");
    let old = ["--tls-max", "1.2", "-d", "{}", &url];
    assert_eq!(run(curl(webhooks.port, &webhooks.roots()).args(old)), "000", "TLS 1.2");
    assert_eq!(webhooks.ask("/inject/enabled", &good)["allowed"], true);
}

/// Connections of one source that the webhook has at a time (`MAX_CONNECTIONS_OF_ONE` in its server).
const PLACES: usize = 256;
/// How long somebody who says nothing keeps one.
const HELLO: Duration = Duration::from_secs(2);

#[test]
fn who_takes_all_places_keeps_neither_a_question_nor_health_waiting() {
    let webhooks = Webhooks::start(&[]);
    let question = review("shop", &pod(json!({}), json!({})));
    // From the address that the question comes from, too: the worst that there is.
    let silent: Vec<TcpStream> =
        (0..2 * PLACES).map(|_| TcpStream::connect(("127.0.0.1", webhooks.port)).unwrap()).collect();
    let begun = Instant::now();
    let answer = webhooks.ask("/inject/enabled", &question);
    let taken = begun.elapsed();
    assert_eq!(answer["allowed"], true, "{answer:#}");
    assert!(taken < HELLO, "{taken:?}: only when those who say nothing had been cut off");
    for path in ["/healthz", "/readyz"] {
        let answer = admin_get(webhooks.control.api, path);
        assert!(answer.as_deref().is_some_and(|answer| answer.contains(" 200 ")), "{path}: {answer:?}");
    }
    drop(silent);
}

/// Serial number of the certificate that is served now.
fn serial(webhooks: &Webhooks) -> String {
    let script = format!(
        "openssl s_client -connect 127.0.0.1:{} -servername {HOST} </dev/null 2>/dev/null | openssl x509 -noout -serial",
        webhooks.port
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn while_the_certificate_is_made_anew_nobody_is_refused() {
    // The shortest life that there is: a new one after half of it.
    let webhooks = Webhooks::start(&["--svid-ttl-s", "60"]);
    let question = review("shop", &pod(json!({}), json!({})));
    let first = serial(&webhooks);
    assert!(first.starts_with("serial="), "{first}");
    let (done, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        // New connections, as after an API server's restart.
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(webhooks.ask("/inject/enabled", &question)["allowed"], true);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // One connection that stays, as an API server's do.
        scope.spawn(|| {
            let file = webhooks.control.folder.join("question.json");
            fs::write(&file, question.to_string()).unwrap();
            let url = format!("https://{HOST}:{}/inject/enabled", webhooks.port);
            let mut command = curl(webhooks.port, &webhooks.roots());
            command.args(["--max-time", "60", "--rate", "10/s", "-w", "\n%{http_code} %{num_connects}\n"]);
            command.arg("--data-binary").arg(format!("@{}", file.display()));
            let output = command.args(vec![url; 400]).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let codes: Vec<&str> = text.lines().filter(|line| line.starts_with("200 ")).collect();
            assert_eq!(codes.len(), 400, "{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(codes.iter().filter(|code| **code == "200 1").count(), 1, "one connection");
        });
        let end = Instant::now() + Duration::from_secs(60);
        let mut now = serial(&webhooks);
        while now == first && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(500));
            now = serial(&webhooks);
        }
        // Some questions more under the new one.
        let before = asked.load(Ordering::Relaxed);
        while asked.load(Ordering::Relaxed) < before + 20 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
        done.store(true, Ordering::Relaxed);
        assert!(now != first && now.starts_with("serial="), "{now}");
    });
    eprintln!("{} questions over new connections, 400 over one, none refused", asked.load(Ordering::Relaxed));
}

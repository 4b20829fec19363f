//! The same configuration and the same requests through Envoy and through us, over both protocols on both sides:
//! status, headers, body and what the backend saw agree, or the case says why not.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use outrider_tests::backend::Backend;
use outrider_tests::client::{self, Answer, Ask};
use outrider_tests::process::{Process, envoy_binary, free_port};
use serde::Deserialize;
use serde_json::Value;

const CONFIG: &str = include_str!("../differential/config.yaml");
const CASES: &str = include_str!("../differential/cases.yaml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    ask: Ask,
    #[serde(default)]
    only: Vec<String>,
    differs: Option<String>,
}

struct Proxy {
    _process: Process,
    port: u16,
}

/// Fields that say something about the proxy or the moment, not about the exchange.
fn is_ignored(name: &str) -> bool {
    name.starts_with("x-envoy-")
        || matches!(
            name,
            "date" | "server" | "x-request-id" | "outrider-error" | "connection" | "keep-alive" | "via"
                // How a hop frames a body is its own business, as long as the body is the same.
                | "content-length" | "transfer-encoding" | "te"
        )
}

fn config(admin: u16, listen: u16, up: &str, backend: u16, mirror: u16, closed: u16) -> String {
    let http2 = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
                 {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, \
                 explicit_http_config: {http2_protocol_options: {allow_connect: true}}}}";
    CONFIG
        .replace("@ADMIN@", &admin.to_string())
        .replace("@LISTEN@", &listen.to_string())
        .replace("@UP@", up)
        .replace("@PROTOCOL@", if up == "h2" { http2 } else { "type: STATIC" })
        .replace("@BACKEND@", &backend.to_string())
        .replace("@MIRROR@", &mirror.to_string())
        .replace("@CLOSED@", &closed.to_string())
}

/// What is compared of an answer, as text.
fn essence(answer: &Answer, local: bool) -> String {
    let mut text = format!("status {}\n", answer.status);
    for (name, value) in answer.headers.iter().filter(|(name, _)| !is_ignored(name)) {
        // The words of an answer that a proxy makes itself are its own.
        if !(local && name == "content-type") {
            let _ = writeln!(text, "{name}: {value}");
        }
    }
    if local {
        return text;
    }
    match serde_json::from_str::<Value>(&answer.body) {
        Ok(Value::Object(mut seen)) => {
            if let Some(Value::Object(headers)) = seen.get_mut("headers") {
                headers.retain(|name, _| !is_ignored(name) && name != "x-key");
                if let Some(Value::String(hops)) = headers.get_mut("x-forwarded-for") {
                    // For a client on loopback Envoy appends the machine's own address instead.
                    hops.truncate(hops.rfind(',').unwrap_or(0));
                }
            }
            let _ = writeln!(text, "backend saw {}", serde_json::to_string_pretty(&seen).unwrap());
        }
        _ => {
            let _ = writeln!(text, "body {}", answer.body);
        }
    }
    for (name, value) in &answer.trailers {
        let _ = writeln!(text, "trailer {name}: {value}");
    }
    text
}

fn ask_of(case: &Case, unique: &str) -> Ask {
    let mut ask = case.ask.clone();
    for (_, value) in &mut ask.headers {
        *value = value.replace("@UNIQUE@", unique);
    }
    ask
}

async fn ask(port: u16, down: &str, ask: &Ask) -> Answer {
    match down {
        "h1" => client::h1(port, ask).await,
        _ => client::h2(port, ask).await,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn we_agree_with_envoy() {
    let Some(envoy) = envoy_binary() else {
        eprintln!("SKIPPED: Envoy is not there (`make tools` installs it)");
        return;
    };
    let cases: Vec<Case> = serde_saphyr::from_str(CASES).expect("the cases");
    assert!(cases.len() >= 60);
    let (backend, mirror, closed) = (Backend::start().await, Backend::start().await, free_port());
    let (mut compared, mut wrong, mut stale) = (0, Vec::new(), BTreeSet::new());
    for up in ["h1", "h2"] {
        let start = |ours: bool| {
            let (admin, port) = (free_port(), free_port());
            let config = config(admin, port, up, backend.port, mirror.port, closed);
            let process =
                if ours { Process::outrider(&config, admin) } else { Process::envoy(&envoy, &config, admin) };
            Proxy { _process: process, port }
        };
        let (theirs, ours) = (start(false), start(true));
        for case in &cases {
            for down in ["h1", "h2"] {
                if !case.only.is_empty() && !case.only.iter().any(|only| only == down) {
                    continue;
                }
                let key = format!("{}-{up}-{down}", case.name);
                let expected = ask(theirs.port, down, &ask_of(case, &format!("{key}-envoy"))).await;
                let found = ask(ours.port, down, &ask_of(case, &format!("{key}-outrider"))).await;
                let local = found.header("outrider-error").is_some();
                let (expected, found) = (essence(&expected, local), essence(&found, local));
                compared += 1;
                if case.differs.is_some() {
                    stale.insert(&case.name);
                }
                if expected != found && case.differs.is_none() {
                    wrong.push(format!(
                        "{} ({down} to {up})\n--- Envoy\n{expected}--- Outrider\n{found}",
                        case.name
                    ));
                } else if expected != found {
                    stale.remove(&case.name);
                }
            }
        }
    }
    println!("{compared} comparisons of {} cases", cases.len());
    assert!(wrong.is_empty(), "{} of {compared} differ:\n{}", wrong.len(), wrong.join("\n"));
}

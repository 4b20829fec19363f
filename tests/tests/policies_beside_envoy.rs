//! The same policies and the same requests through Envoy and through us: who gets in, and what the backend is told
//! of who asked.

use std::fmt::Write as _;

use outrider_tests::backend::Backend;
use outrider_tests::beside::Beside;
use outrider_tests::client::{self, Ask};
use outrider_tests::config::{HCM, ROUTER, TO_BE, address, cluster};
use outrider_tests::mesh::{CLIENT, Mesh};
use outrider_tests::process::{Process, envoy_binary, free_port};

const RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";

/// Settings of an RBAC filter, each asked about every request of [`REQUESTS`].
const POLICIES: &[&str] = &[
    "rules: {policies: {}}",
    "rules: {action: DENY, policies: {}}",
    "rules: {action: LOG, policies: {p: {permissions: [{any: true}], principals: [{any: true}]}}}",
    "rules: {policies: {p: {permissions: [{any: true}], principals: [{any: true}]}}}",
    "rules: {action: DENY, policies: {p: {permissions: [{any: true}], principals: [{any: true}]}}}",
    "shadow_rules: {action: DENY, policies: {p: {permissions: [{any: true}], principals: [{any: true}]}}}",
    "rules: {policies: {p: {permissions: [{url_path: {path: {prefix: /api}}}], principals: [{any: true}]}}}",
    "rules: {action: DENY, policies: {p: {permissions: [{url_path: {path: {prefix: /admin}}}], principals: [{any: true}]}}}",
    "rules: {policies: {p: {permissions: [{url_path: {path: {exact: /api/a}}}, {url_path: {path: {suffix: .png}}}, \
     {url_path: {path: {contains: min}}}], principals: [{any: true}]}}}",
    "rules: {policies: {p: {permissions: [{url_path: {path: {safe_regex: {regex: '/api/[a-z]+'}}}}], principals: [{any: true}]}}}",
    "rules: {policies: {p: {permissions: [{url_path: {path: {prefix: /API, ignore_case: true}}}], principals: [{any: true}]}}}",
    "rules: {policies: {p: {permissions: [{header: {name: ':method', string_match: {exact: GET}}}], principals: [{any: true}]}}}",
    "rules: {policies: {p: {permissions: [{not_rule: {header: {name: ':method', string_match: {exact: GET}}}}], principals: [{any: true}]}}}",
    "rules: {policies: {p: {permissions: [{header: {name: x-role, string_match: {exact: admin}}}], principals: [{any: true}]}}}",
    "rules: {policies: {p: {permissions: [{header: {name: x-role, present_match: true}}], principals: [{any: true}]}}}",
    "rules: {policies: {p: {permissions: [{header: {name: x-role, string_match: {exact: admin}, invert_match: true}}], principals: [{any: true}]}}}",
    "rules: {policies: {p: {permissions: [{header: {name: x-role, string_match: {exact: admin}, treat_missing_header_as_empty: true, \
     invert_match: true}}], principals: [{any: true}]}}}",
    "rules: {policies: {p: {permissions: [{header: {name: x-level, range_match: {start: 3, end: 9}}}], principals: [{any: true}]}}}",
    "rules: {policies: {p: {permissions: [{header: {name: ':authority', string_match: {exact: shop.test}}}], principals: [{any: true}]}}}",
    "rules: {policies: {p: {permissions: [{and_rules: {rules: [{url_path: {path: {prefix: /api}}}, {header: {name: ':method', \
     string_match: {exact: POST}}}]}}], principals: [{any: true}]}}}",
    "rules: {policies: {p: {permissions: [{or_rules: {rules: [{url_path: {path: {prefix: /admin}}}, {header: {name: x-role, \
     present_match: true}}]}}], principals: [{any: true}]}}}",
    "rules: {policies: {p: {permissions: [{any: true}], principals: [{not_id: {header: {name: x-role, present_match: true}}}]}}}",
    "rules: {policies: {p: {permissions: [{any: true}], principals: [{and_ids: {ids: [{any: true}, {url_path: {path: {prefix: /api}}}]}}]}}}",
    "rules: {policies: {p: {permissions: [{any: true}], principals: [{or_ids: {ids: [{header: {name: x-role, string_match: \
     {prefix: ad}}}, {url_path: {path: {exact: /}}}]}}]}}}",
    "rules: {policies: {p: {permissions: [{any: true}], principals: [{direct_remote_ip: {address_prefix: 127.0.0.0, prefix_len: 8}}]}}}",
    "rules: {policies: {p: {permissions: [{any: true}], principals: [{direct_remote_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}]}}}",
    "rules: {policies: {p: {permissions: [{any: true}], principals: [{remote_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}]}}}",
    "rules: {policies: {p: {permissions: [{destination_ip: {address_prefix: 127.0.0.1, prefix_len: 32}}], principals: [{any: true}]}}}",
    "rules: {policies: {p: {permissions: [{destination_port: 1}], principals: [{any: true}]}}}",
    "rules: {policies: {p: {permissions: [{destination_port_range: {start: 1024, end: 65535}}], principals: [{any: true}]}}}",
    "rules: {policies: {p: {permissions: [{any: true}], principals: [{authenticated: {}}]}}}",
    "rules: {policies: {a: {permissions: [{url_path: {path: {prefix: /api}}}], principals: [{header: {name: x-role, present_match: \
     true}}]}, b: {permissions: [{header: {name: ':method', string_match: {exact: POST}}}], principals: [{any: true}]}}}",
];

/// Method, path, and further headers.
type Request = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const REQUESTS: &[Request] = &[
    ("GET", "/", &[]),
    ("GET", "/api", &[]),
    ("GET", "/api/a", &[]),
    ("GET", "/api/a?x=/admin", &[]),
    ("GET", "/API/a", &[]),
    ("GET", "/x/../admin", &[]),
    ("GET", "/%61dmin", &[]),
    ("POST", "/api/a", &[]),
    ("GET", "/admin/a.png", &[]),
    ("GET", "/admin", &[("x-role", "admin")]),
    ("GET", "/api/b", &[("x-role", "user")]),
    ("GET", "/api/b", &[("x-role", "Admin")]),
    ("GET", "/", &[("x-level", "3")]),
    ("GET", "/", &[("x-level", "9")]),
    ("GET", "/", &[("x-level", "x")]),
    ("DELETE", "/admin", &[("x-forwarded-for", "10.1.2.3")]),
];

/// `http` holds further fields of the connection manager, `chain` of its filter chain.
fn config((admin, port, backend): (u16, u16, u16), rbac: &str, http: &str, chain: &str) -> String {
    format!(
        "admin: {{address: {}}}\nstatic_resources: {{listeners: [{{name: l, address: {}, filter_chains: [{{filters: [{{name: http, \
         typed_config: {{\"@type\": {HCM}, stat_prefix: s, normalize_path: true, {http}http_filters: [{{name: rbac, typed_config: \
         {{\"@type\": {RBAC}, {rbac}}}}}, {{name: r, typed_config: {{\"@type\": {ROUTER}}}}}], route_config: {{virtual_hosts: \
         [{{name: v, domains: ['*'], routes: [{TO_BE}]}}]}}}}}}]{chain}}}]}}], clusters: [{}]}}\n",
        address(admin),
        address(port),
        cluster("be", backend, "")
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_let_in_whom_envoys_let_in() {
    let Some(envoy) = envoy_binary() else {
        println!("skipped: Envoy is not there");
        return;
    };
    let backend = Backend::start().await;
    let (mut compared, mut wrong) = (0, String::new());
    for policy in POLICIES {
        let start = |ours: bool| {
            let (admin, port) = (free_port(), free_port());
            let config = config((admin, port, backend.port), policy, "", "");
            let process =
                if ours { Process::outrider(&config, admin) } else { Process::envoy(&envoy, &config, admin) };
            (process, port)
        };
        let (theirs, ours) = (start(false), start(true));
        for (method, path, headers) in REQUESTS {
            let ask = Ask {
                method: (*method).into(),
                path: (*path).into(),
                host: "shop.test".into(),
                headers: headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
                ..Ask::default()
            };
            for h2 in [false, true] {
                let mut said = [0, 0];
                for (said, port) in said.iter_mut().zip([theirs.1, ours.1]) {
                    let answer = if h2 { client::h2(port, &ask).await } else { client::h1(port, &ask).await };
                    *said = answer.status;
                }
                compared += 1;
                if said[0] != said[1] {
                    let _ = writeln!(wrong, "{policy}\n  {method} {path} {headers:?} {said:?}");
                }
            }
        }
    }
    println!("{compared} decisions compared");
    assert!(wrong.is_empty(), "of {compared} decisions differ (Envoy, Outrider):\n{wrong}");
}

/// What becomes of `x-forwarded-client-cert`: what is wanted of it, and what the client sent.
const FORWARDING: &[(&str, &str)] = &[
    ("SANITIZE", "By=spiffe://mesh.test/a;URI=spiffe://mesh.test/b"),
    ("FORWARD_ONLY", "By=spiffe://mesh.test/a;URI=spiffe://mesh.test/b"),
    ("APPEND_FORWARD", "By=spiffe://mesh.test/a;URI=spiffe://mesh.test/b"),
    ("APPEND_FORWARD", ""),
    ("SANITIZE_SET", "By=spiffe://mesh.test/a;URI=spiffe://mesh.test/b"),
    ("SANITIZE_SET", ""),
    ("ALWAYS_FORWARD_ONLY", "URI=spiffe://mesh.test/b"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_backend_is_told_of_the_peer_as_by_envoy() {
    let Some(envoy) = envoy_binary() else {
        println!("skipped: Envoy is not there");
        return;
    };
    let (mesh, backend) = (Mesh::new("xfcc"), Backend::start().await);
    for (details, sent) in FORWARDING {
        for wanted in ["uri: true", "uri: true, subject: true, dns: true"] {
            let mut seen = Vec::new();
            for ours in [false, true] {
                let (admin, port) = (free_port(), free_port());
                let wanted = match *details {
                    "APPEND_FORWARD" | "SANITIZE_SET" => {
                        format!("set_current_client_cert_details: {{{wanted}}}, ")
                    }
                    _ => String::new(),
                };
                let http = format!("forward_client_cert_details: {details}, {wanted}");
                let chain = format!(", {}", mesh.downstream());
                let config = config((admin, port, backend.port), "rules: {action: LOG}", &http, &chain);
                let _process = if ours {
                    Process::outrider(&config, admin)
                } else {
                    Process::envoy(&envoy, &config, admin)
                };
                let (cert, key) = (mesh.file("client", "pem"), mesh.file("client", "key"));
                let header = format!("x-forwarded-client-cert: {sent}");
                let mut arguments = vec!["--cert", cert.to_str().unwrap(), "--key", key.to_str().unwrap()];
                if !sent.is_empty() {
                    arguments.extend(["-H", &header]);
                }
                let url = format!("https://127.0.0.1:{port}/");
                arguments.push(&url);
                let out = mesh.curl(&arguments);
                assert!(out.stdout.starts_with(b"200"), "{details} ours: {ours} {out:?}");
                let last = backend.seen().pop().unwrap();
                let told = last.headers.get("x-forwarded-client-cert").cloned().unwrap_or_default();
                seen.push(told);
            }
            assert_eq!(seen[0], seen[1], "{details}, {wanted}, client sent \"{sent}\" (Envoy, Outrider)");
            let sets = matches!(*details, "APPEND_FORWARD" | "SANITIZE_SET");
            assert_eq!(seen[0].contains(CLIENT), sets, "{details}: {}", seen[0]);
        }
    }
}

/// How the connection manager finds out who the client is.
const BELIEFS: &[&str] = &[
    "use_remote_address: true",
    "use_remote_address: true, skip_xff_append: true",
    "use_remote_address: true, xff_num_trusted_hops: 1",
    "use_remote_address: true, xff_num_trusted_hops: 1, skip_xff_append: true",
    "use_remote_address: true, xff_num_trusted_hops: 2",
    "use_remote_address: false",
    "use_remote_address: false, xff_num_trusted_hops: 1",
    "use_remote_address: false, xff_num_trusted_hops: 2",
];

/// What stands in `x-forwarded-for`. With one trusted proxy in front, `203.0.113.9` is what that proxy has added, and
/// `10.0.0.1` what an outsider would like to be.
const FORWARDED_FOR: &[&[&str]] = &[
    &[],
    &["203.0.113.9"],
    &["10.0.0.1, 203.0.113.9"],
    &["10.0.0.1", "203.0.113.9"],
    &["10.0.0.1,203.0.113.9,198.51.100.7"],
    &["10.0.0.1, 2001:db8::1"],
    &["10.0.0.1, nonsense"],
    &["10.0.0.1, "],
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_who_envoy_says_they_are() {
    let route = "{match: {prefix: /}, direct_response: {status: 200}, response_headers_to_add: [{header: {key: x-client, value: \
                 '%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%'}}]}";
    let mut wrong = String::new();
    for belief in BELIEFS {
        let both = Beside::both(belief, &[route], &[]);
        for stated in FORWARDED_FOR {
            let headers: Vec<_> = stated.iter().map(|value| ("x-forwarded-for", *value)).collect();
            let mut seen = Vec::new();
            for proxy in &both {
                let answer = proxy.get("/", &headers).await;
                seen.push(answer.header("x-client").unwrap_or("nobody").to_owned());
            }
            if *belief == "use_remote_address: true, xff_num_trusted_hops: 1" && stated.len() == 2 {
                assert_eq!(seen[0], "203.0.113.9", "what the trusted proxy has added");
            }
            if seen.windows(2).any(|pair| pair[0] != pair[1]) {
                let _ = writeln!(wrong, "{belief}, {stated:?}: {seen:?}");
            }
        }
    }
    assert!(wrong.is_empty(), "different clients (Outrider, Envoy):\n{wrong}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_in_plaintext_is_not_secure_by_saying_so() {
    let backend = Backend::start().await;
    let routes = [TO_BE];
    for http in ["use_remote_address: true", "use_remote_address: false"] {
        for proxy in Beside::both(http, &routes, &[cluster("be", backend.port, "")]) {
            let (mut sender, connection) =
                h2::client::handshake(client::connect(proxy.port).await).await.unwrap();
            let connection = tokio::spawn(connection);
            let request = http::Request::get("https://shop.test/").body(()).unwrap();
            let (response, _) = sender.send_request(request, true).unwrap();
            assert_eq!(response.await.unwrap().status(), 200, "{}", proxy.name);
            let told = backend.seen().pop().unwrap().headers.get("x-forwarded-proto").cloned();
            assert_eq!(told.as_deref(), Some("http"), "{} {http}", proxy.name);
            connection.abort();
        }
    }
}

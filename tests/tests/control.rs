//! The control server and what it feeds, as real processes: identities issued, configuration delivered, refusals seen.

use std::net::TcpListener;

use outrider_tests::backend::Backend;
use outrider_tests::client::{self, Ask};
use outrider_tests::control::{Control, PATIENCE, Wire};
use outrider_tests::process::{Process, admin_get, free_port};
use serde_json::Value;

/// The workload `web` of the service `web`, and `client`, who calls it at two local ports.
fn objects(web: u16, application: u16, local: (u16, u16)) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{clusterIP: 10.0.0.1, ports: [{{name: http, port: 80, targetPort: http}}]}}
---
apiVersion: mesh.outrider.dev/v1alpha1
kind: Workload
metadata: {{name: web-1, namespace: shop}}
spec: {{address: 127.0.0.2, service: web, serviceAccount: web, ports: [{{name: http, port: {web}, appPort: {application}, protocol: HTTP}}]}}
---
apiVersion: mesh.outrider.dev/v1alpha1
kind: Workload
metadata: {{name: client-1, namespace: shop}}
spec:
  address: 127.0.0.1
  serviceAccount: client
  upstreams:
  - {{service: web, port: 80, bind: \"127.0.0.1:{}\"}}
  - {{service: web, port: 80, bind: \"127.0.0.1:{}\"}}
",
        local.0, local.1
    )
}

fn start(control: &Control, workload: &str, service_account: &str) -> (Process, u16) {
    let admin = free_port();
    (Process::outrider(&control.outrider(workload, service_account, admin), admin), admin)
}

async fn status(port: u16, path: &str) -> u16 {
    client::h1(port, &Ask { path: path.into(), ..Ask::default() }).await.status
}

/// Asks until the answer is this one.
async fn becomes(port: u16, path: &str, expected: u16) {
    let end = std::time::Instant::now() + PATIENCE;
    let mut last = 0;
    while std::time::Instant::now() < end {
        let tried = tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect(("127.0.0.1", port))).await;
        if tried.is_ok_and(|connected| connected.is_ok()) {
            last = status(port, path).await;
            if last == expected {
                return;
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{path} at {port}: {last}, not {expected}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_become_traffic_between_proved_identities() {
    objects_become_traffic(Wire::Plaintext).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_become_traffic_over_mutual_tls_with_the_control_server() {
    objects_become_traffic(Wire::Tls).await;
}

async fn objects_become_traffic(wire: Wire) {
    let (backend, ports) = (Backend::start().await, (free_port(), free_port()));
    let web = free_port();
    let mesh = objects(web, backend.port, ports);
    let control = Control::start(wire, &mesh);
    let (_web, _) = start(&control, "web-1", "web");
    let (_client, _) = start(&control, "client-1", "client");
    control.settled("web-1");
    let client = control.settled("client-1");
    let proved = if wire == Wire::Tls { "spiffe://mesh.test/ns/shop/sa/client".into() } else { Value::Null };
    assert_eq!(client["identity"], proved);
    becomes(ports.0, "/hello", 200).await;
    let seen = backend.seen().pop().unwrap();
    let proved = seen.headers.get("x-forwarded-client-cert").cloned().unwrap_or_default();
    assert!(proved.contains("URI=spiffe://mesh.test/ns/shop/sa/client"), "{proved}");
    let audit: Vec<_> =
        control.log().lines().filter(|line| line.contains("identity issued")).map(str::to_owned).collect();
    for account in ["web", "client"] {
        let id = format!("spiffe_id=\"spiffe://mesh.test/ns/shop/sa/{account}\"");
        assert_eq!(audit.iter().filter(|line| line.contains(&id)).count(), 1, "{audit:#?}");
    }
    assert_eq!(
        control.condition("Service/shop/web", "Programmed"),
        "True Programmed: acknowledged by 2 of 2 proxies"
    );

    // Nobody is let in but those whom a policy names, and then everybody again.
    let policy = "
apiVersion: mesh.outrider.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec: {action: Deny, rules: [{to: [{paths: [/secret*]}]}]}
";
    control.write("policy.yaml", policy);
    becomes(ports.0, "/secret", 403).await;
    assert_eq!(status(ports.0, "/hello").await, 200);
    // A bad object hides no other, and its last good version stays in force.
    control.write("policy.yaml", &policy.replace("paths", "pahts"));
    let problem = control.wait("/api/v1/status/AuthorizationPolicy/shop/web", "refused", |object| {
        object["conditions"][0]["status"] == "False"
    });
    assert!(problem["conditions"][0]["message"].as_str().unwrap().contains("pahts"), "{problem:#}");
    assert_eq!((status(ports.0, "/secret").await, status(ports.0, "/hello").await), (403, 200));
    let metrics = admin_get(control.api, "/metrics").unwrap();
    assert!(
        metrics.contains("outrider_control_proxies 2") && metrics.contains("outrider_control_problems 1"),
        "{metrics}"
    );
    control.write("policy.yaml", "");
    becomes(ports.0, "/secret", 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_is_bad_from_the_start_lets_nobody_in_until_it_is_good() {
    let (backend, ports, web) = (Backend::start().await, (free_port(), free_port()), free_port());
    let policy = "
---
apiVersion: mesh.outrider.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec: {action: Deny, rules: [{to: [{paths: [/secret*]}]}]}
";
    let mesh = objects(web, backend.port, ports);
    let control = Control::start(Wire::Plaintext, &(mesh.clone() + &policy.replace("paths", "pahts")));
    let (_web, _) = start(&control, "web-1", "web");
    let (_client, _) = start(&control, "client-1", "client");
    becomes(ports.0, "/hello", 403).await;
    let condition = control.condition("AuthorizationPolicy/shop/web", "Accepted");
    assert!(condition.starts_with("False Invalid: spec.rules[0].to[0]") && condition.contains("pahts"));
    assert!(
        condition.ends_with("until it is good, everything is denied that it may be about"),
        "{condition}"
    );
    let (well, said) = control.outrider_cli(&["status"]);
    assert!(!well && said.contains("everything is denied that it may be about"), "{said}");
    control.write("mesh.yaml", &(mesh + policy));
    becomes(ports.0, "/hello", 200).await;
    assert_eq!(status(ports.0, "/secret").await, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_proxy_refuses_is_seen_at_the_object() {
    let (backend, ports, web) = (Backend::start().await, (free_port(), free_port()), free_port());
    // Somebody else has the second local port.
    let taken = TcpListener::bind(("127.0.0.1", ports.1)).unwrap();
    let control = Control::start(Wire::Plaintext, &objects(web, backend.port, ports));
    let (_web, _) = start(&control, "web-1", "web");
    let (_client, admin) = start(&control, "client-1", "client");
    let refused = control.wait("/api/v1/proxies/client-1", "refused", |proxy| proxy["refuses"] == true);
    let listener =
        refused["resources"].as_array().unwrap().iter().find(|one| one["state"] == "refused").unwrap();
    assert_eq!(listener["name"], format!("upstream|127.0.0.1:{}", ports.1));
    let condition = control.condition("Workload/shop/client-1", "Programmed");
    assert!(
        condition.starts_with("False Rejected: acknowledged by 0 of 1 proxies; rejected by client-1: "),
        "{condition}"
    );
    assert!(condition.contains(&ports.1.to_string()), "{condition}");
    assert!(
        control.condition("Workload/shop/web-1", "Programmed").starts_with("True"),
        "others are as they were"
    );
    // What is good in the same response counts.
    becomes(ports.0, "/", 200).await;
    assert!(admin_get(admin, "/metrics").unwrap().contains("outrider_xds_rejects_total"));
    let metrics = admin_get(control.api, "/metrics").unwrap();
    assert!(metrics.contains("outrider_control_xds_rejects_total"), "{metrics}");
    // The operator moves it elsewhere.
    let free = free_port();
    control.write("mesh.yaml", &objects(web, backend.port, (ports.0, free)));
    control.wait("/api/v1/proxies/client-1", "well", |proxy| {
        proxy["refuses"] == false && proxy["settled"] == true
    });
    becomes(free, "/", 200).await;
    assert!(control.condition("Workload/shop/client-1", "Programmed").starts_with("True"));
    drop(taken);
}

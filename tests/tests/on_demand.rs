//! A sidecar that asks for what its workload calls, in a network namespace with the redirection, against the real
//! control server.

use outrider_tests::meshed::{Meshed, nginx, skipped};
use outrider_tests::pods::until;

/// A service with one endpoint, which has no sidecar.
fn service(name: &str, address: &str, endpoint: &str, protocol: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, spec: {{clusterIP: {address}, ports: \
         [{{name: {protocol}, port: 80, targetPort: 8080}}]}}}}\n---\n\
         {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}-a, namespace: shop, labels: \
         {{kubernetes.io/service-name: {name}}}}}, addressType: IPv4, ports: [{{name: {protocol}, port: 8080}}], endpoints: \
         [{{addresses: [{endpoint}]}}]}}\n---\n"
    )
}

#[test]
fn a_sidecar_has_what_its_workload_calls_and_nothing_else() {
    if skipped() {
        return;
    }
    let mut mesh = Meshed::new("");
    let (one, two) = (mesh.network.pod("one"), mesh.network.pod("two"));
    let _servers = (nginx(&one, "one"), nginx(&two, "two"));
    let services = service("web", "10.96.0.10", &one.v4, "http")
        + &service("raw", "10.96.0.11", &two.v4, "tcp")
        + &service("idle", "10.96.0.12", &two.v4, "http");
    mesh.write("mesh.yaml", &services);
    let sidecar = mesh.client.sidecar(&mesh.bootstrap("outrider: {on_demand: {idle_timeout: 2s}}"));
    let outbound = |mesh: &Meshed| -> Vec<String> {
        mesh.has("clusters", "name").into_iter().filter(|name| name.starts_with("outbound")).collect()
    };
    assert_eq!(outbound(&mesh), Vec::<String>::new());

    until("the first connection finds its service", || mesh.curl(&["http://10.96.0.10/a"]).1 == "one /a");
    assert_eq!(outbound(&mesh), ["outbound|80||web.shop"]);
    assert_eq!(mesh.curl(&["http://10.96.0.11/b"]), (true, "two /b".to_owned()), "{}", sidecar.log());
    assert_eq!(outbound(&mesh), ["outbound|80||raw.shop", "outbound|80||web.shop"]);

    // Nothing is there: nothing is reached, and once there is something, it is.
    assert!(!mesh.curl(&["http://10.96.0.13/"]).0);
    mesh.write("late.yaml", &service("late", "10.96.0.13", &one.v4, "http"));
    until("a service that came later is found", || mesh.curl(&["http://10.96.0.13/c"]).1 == "one /c");

    until("what is not called any more is let go of", || {
        outbound(&mesh).is_empty() && mesh.has("destinations", "name").is_empty()
    });
    assert_eq!(mesh.curl(&["http://10.96.0.10/again"]), (true, "one /again".to_owned()));
}

#[test]
fn routes_change_without_a_failure_although_their_clusters_come_on_demand() {
    if skipped() {
        return;
    }
    let mut mesh = Meshed::new("");
    let (one, two) = (mesh.network.pod("one"), mesh.network.pod("two"));
    let _servers = (nginx(&one, "one"), nginx(&two, "two"));
    mesh.write(
        "mesh.yaml",
        &(service("web", "10.96.0.10", &one.v4, "http") + &service("new", "10.96.0.11", &two.v4, "http")),
    );
    let sidecar = mesh.client.sidecar(&mesh.bootstrap("outrider: {on_demand: {}}"));
    until("the service is found", || mesh.curl(&["http://10.96.0.10/"]).0);
    for (service, expected) in [("new", "two /"), ("web", "one /"), ("nowhere", ""), ("new", "two /")] {
        mesh.write(
            "route.yaml",
            &format!(
                "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: web, namespace: shop}}, spec: {{parentRefs: \
                 [{{group: '', kind: Service, name: web}}], rules: [{{backendRefs: [{{name: {service}, port: 80}}]}}]}}}}\n"
            ),
        );
        until("the route is followed", || {
            let (well, text) = mesh.curl(&["http://10.96.0.10/"]);
            // What is not there answers 500, on purpose; before and after that nothing fails.
            assert!(well || service == "nowhere" || text.contains("500"), "{text}\n{}", sidecar.log());
            assert!(well || !text.contains("503"), "{text}\n{}", sidecar.log());
            if expected.is_empty() { text.contains("500") } else { text == expected }
        });
    }
}

#[test]
fn what_is_known_is_served_while_the_control_server_is_away() {
    if skipped() {
        return;
    }
    let mut mesh = Meshed::new("");
    let one = mesh.network.pod("one");
    let _server = nginx(&one, "one");
    mesh.write(
        "mesh.yaml",
        &(service("web", "10.96.0.10", &one.v4, "http") + &service("new", "10.96.0.11", &one.v4, "http")),
    );
    let sidecar = mesh.client.sidecar(&mesh.bootstrap("outrider: {on_demand: {}}"));
    until("the service is found", || mesh.curl(&["http://10.96.0.10/"]).0);
    mesh.kill_control();
    assert!(mesh.curl(&["http://10.96.0.10/"]).0, "{}", sidecar.log());
    assert!(!mesh.curl(&["http://10.96.0.11/", "--max-time", "20"]).0);
    let metrics = mesh.curl(&["http://127.0.0.1:15000/metrics"]).1;
    let counted = |line: &str| line.contains("destination_not_told") && !line.ends_with(" 0");
    assert!(metrics.lines().any(counted), "{metrics}");
    mesh.start_control();
    until("what was asked for meanwhile is there", || mesh.curl(&["http://10.96.0.11/d"]).1 == "one /d");
}

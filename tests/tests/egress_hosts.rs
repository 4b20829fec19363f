//! Hosts outside the mesh by name, through a redirected sidecar that the real control server configures: what is allowed
//! is reached, and no name leads anywhere else.

use outrider_tests::meshed::{Meshed, nginx, skipped};
use outrider_tests::pods::until;

const POLICY: &str = "
apiVersion: mesh.outrider.dev/v1alpha1
kind: EgressPolicy
metadata: {name: out, namespace: shop}
spec:
  allow:
  - {host: good.test, ports: [8080, 8443]}
  - {host: inside.test, ports: [15000]}
  - {host: metadata.test, ports: [8080]}
  - {host: '*.wild.test', ports: [8080]}
";

#[test]
fn a_name_that_is_allowed_is_reached_and_opens_no_other_door() {
    if skipped() {
        return;
    }
    let mut mesh = Meshed::new(POLICY);
    let (good, evil) = (mesh.network.pod("good"), mesh.network.pod("evil"));
    let _servers = (nginx(&good, "good"), nginx(&evil, "evil"));
    mesh.client.hosts(&format!(
        "{} good.test\n{} evil.test a.wild.test\n127.0.0.1 inside.test\n169.254.169.254 metadata.test\n",
        good.v4, evil.v4
    ));
    let (good, evil) = (good.v4.clone(), evil.v4.clone());
    for demand in ["", "outrider: {on_demand: {}}"] {
        let sidecar = mesh.client.sidecar(&mesh.bootstrap(demand));
        let http =
            |host: &str, at: &str| mesh.curl(&["-H", &format!("Host: {host}"), &format!("http://{at}/p")]);
        until("the host is reached", || mesh.curl(&["http://good.test:8080/a"]).1 == "good /a");
        let (well, text) =
            mesh.curl(&["--http2-prior-knowledge", "-H", "Host: evil.test", "http://good.test:8080/a"]);
        assert!(!well && text.contains("egress_refused"), "{text}");
        assert_eq!(mesh.curl(&["-k", "https://good.test:8443/s"]), (true, "good /s".to_owned()));

        // Whatever address the client takes: the name decides, and leads to where it leads.
        assert_eq!(http("good.test", &format!("{evil}:8080")), (true, "good /p".to_owned()));
        let resolve = format!("good.test:8443:{evil}");
        let spoofed = mesh.curl(&["-k", "--resolve", &resolve, "https://good.test:8443/t"]);
        assert_eq!(spoofed, (true, "good /t".to_owned()));

        // Other names, names that only look alike, and wildcards are refused, with the reason.
        for host in ["evil.test", "a.wild.test", "x.good.test", "good.test:80", "good.test.", &good] {
            let (well, text) = http(host, &format!("{good}:8080"));
            assert!(!well && text.contains("egress_refused") && text.contains("403"), "{host}: {text}");
        }
        let resolve = format!("evil.test:8443:{good}");
        assert!(!mesh.curl(&["-k", "--resolve", &resolve, "https://evil.test:8443/"]).0);
        // No name, another port, the address itself.
        assert!(!mesh.curl(&["-k", &format!("https://{good}:8443/")]).0);
        assert!(!mesh.curl(&[&format!("http://{evil}:9090/")]).0);

        // A name server's word leads neither to the sidecar's own ports nor to metadata services.
        for (host, port) in [("inside.test:15000", 15000), ("metadata.test:8080", 8080)] {
            let (well, text) = http(host, &format!("{evil}:{port}"));
            assert!(!well && text.contains("403") && !text.contains("good"), "{host}: {text}");
        }
        let metrics = mesh.curl(&["http://127.0.0.1:15000/metrics"]).1;
        for rule in ["loopback", "metadata"] {
            let series = format!("outrider_egress_total{{outcome=\"refused\",rule=\"{rule}\"}}");
            assert!(metrics.contains(&series), "{series}\n{}", sidecar.log());
        }
    }
    let status = mesh.api("/api/v1/status/EgressPolicy/shop/out").to_string();
    assert!(status.contains("PartiallyInvalid") && status.contains("spec.allow[3].host"), "{status}");
}

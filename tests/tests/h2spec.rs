//! The conformance suite `h2spec` against our HTTP/2 listener.

use std::path::PathBuf;
use std::process::Command;

use outrider_tests::backend::Backend;
use outrider_tests::process::{Process, free_port};

const VERSION: &str = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible";

/// The tool, built by Go once; `None` where there is no Go. In CI its absence is an error.
fn h2spec() -> Option<PathBuf> {
    let bin = std::env::temp_dir().join("outrider-test-go-bin");
    let tool = bin.join("h2spec");
    if tool.exists() {
        return Some(tool);
    }
    for version in [VERSION, "github.com/summerwind/h2spec/cmd/h2spec@latest"] {
        let built = Command::new("go").args(["install", version]).env("GOBIN", &bin).output();
        if built.is_ok_and(|output| output.status.success()) {
            return Some(tool);
        }
    }
    assert!(std::env::var_os("CI").is_none(), "h2spec cannot be built and CI must have it");
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn the_conformance_suite_passes() {
    let Some(tool) = h2spec() else {
        eprintln!("SKIPPED: h2spec cannot be built (Go is missing)");
        return;
    };
    let (backend, admin, port) = (Backend::start().await, free_port(), free_port());
    let hcm = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let config = format!(
        "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
static_resources:
  listeners:
  - name: web
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          \"@type\": {hcm}
          stat_prefix: web
          codec_type: HTTP2
          http_filters: [{{name: r, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]
          route_config: {{virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: be}}}}]}}]}}
  clusters:
  - {{name: be, load_assignment: {{cluster_name: be, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}}}
",
        backend.port
    );
    let mut proxy = Process::outrider(&config, admin);
    let output =
        Command::new(tool).args(["-h", "127.0.0.1", "-p", &port.to_string(), "-o", "4"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let summary = said.lines().find(|line| line.contains(" tests, ")).unwrap_or_default();
    println!("{summary}");
    assert!(summary.contains(" 0 failed"), "{said}");
    assert!(summary.starts_with("14"), "all of the suite was run: {summary}");
    assert!(proxy.is_running());
}

//! The conformance suite `h2spec` against our HTTP/2 listener.

use std::path::PathBuf;
use std::process::Command;

use outrider_tests::backend::Backend;
use outrider_tests::config;
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
    let clusters = [config::cluster("be", backend.port, "")];
    let config = config::web(admin, port, "codec_type: HTTP2", &[config::TO_BE], &clusters);
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

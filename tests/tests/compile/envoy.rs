//! Envoy's own validation of what it is told.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use outrider_control::compile::{Mesh, Settings};
use outrider_control::proxy_info::{Dialect, ProxyInfo};
use outrider_tests::authority::Authority;
use outrider_tests::mesh::{DAY, Mesh as Certificates};
use outrider_tests::process::envoy_binary;

use super::cases::traced;
use super::golden::{objects, proxy};
use super::run::config;

#[test]
fn envoy_finds_nothing_wrong_with_the_golden_cases() {
    let Some(binary) = envoy_binary() else { return };
    let certificates = Certificates::new("validated");
    let id = Authority::svid_params("spiffe://cluster.local/ns/data/sa/api", DAY);
    certificates.write("any", &certificates.authority.issue(&id));
    for (case, workload, account) in [
        ("shop", "shop/front", "front"),
        ("shop", "shop/reviews-1", "reviews"),
        ("policies", "data/api-1", "api"),
        ("policies", "data/db-1", "db"),
        ("traffic", "shop/web-1", "web"),
        ("traced", "shop/reviews-1", "reviews"),
        ("traced", "shop/front", "front"),
    ] {
        let (of, settings) = if case == "traced" { ("shop", traced()) } else { (case, Settings::default()) };
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("golden/{of}.yaml"));
        let mesh = Mesh::with_settings(Arc::new(objects(&fs::read_to_string(file).unwrap())), settings);
        let info = ProxyInfo { dialect: Dialect::Envoy, ..proxy(workload, account) };
        let text = config(&mesh.snapshot(&info), &certificates, "any", 1);
        assert!(workload != "data/api-1" || text.contains("outrider.egress.deny"), "{text}");
        let path = certificates.folder.join("envoy.json");
        fs::write(&path, text).unwrap();
        let out = Command::new(&binary).args(["--mode", "validate", "-l", "error", "-c"]).arg(&path).output();
        let out = out.unwrap();
        assert!(out.status.success(), "{workload}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

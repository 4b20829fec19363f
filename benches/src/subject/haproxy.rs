//! `HAProxy`'s configuration.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use super::certificates::SERVER_NAME;
use super::envoy_form::{denied, unused};
use super::{Mode, Setup, Side};

/// Connections that it may have at a time, both sides together about half of the usual file limit.
const MAX_CONNECTIONS: usize = 9000;

/// TLS 1.3 with one cipher, as the others choose it by themselves.
const TLS: &str = "  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256\n  \
    ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256\n  ssl-default-bind-options ssl-min-ver TLSv1.3\n  \
    ssl-default-server-options ssl-min-ver TLSv1.3\n";

/// The configuration.
pub(super) fn config(setup: &Setup, listen: SocketAddr, certificates: &Path) -> String {
    let http = setup.mode != Mode::Tcp;
    let (mode, reuse) = if http { ("http", "  http-reuse always\n") } else { ("tcp", "") };
    let protocol = if setup.mode == Mode::Http2 { " proto h2" } else { "" };
    let pool = if http { " pool-max-conn 2000" } else { "" };
    let mut text = format!(
        "global\n  nbthread 1\n  maxconn {MAX_CONNECTIONS}\n{TLS}\
         defaults\n  mode {mode}\n  timeout connect 5s\n  timeout client 300s\n  timeout server 300s\n  \
         timeout tunnel 300s\n{reuse}\
         frontend f\n  bind {listen}{protocol}{}\n{}  default_backend s0\n",
        downstream_tls(setup.mode, certificates),
        policy(setup.mode)
    );
    let tls = upstream_tls(setup.mode, certificates);
    for number in 0..setup.clusters {
        let endpoint = if number == 0 { setup.upstream } else { unused(number) };
        let _ = write!(text, "backend s{number}\n  server e1 {endpoint}{protocol}{pool}{tls}\n");
    }
    text
}

/// Rules that name paths that nobody asks for.
fn policy(mode: Mode) -> String {
    let Mode::Policy(rules) = mode else { return String::new() };
    (0..rules).fold(String::new(), |mut text, number| {
        let _ = writeln!(text, "  http-request deny if {{ path {} }}", denied(number));
        text
    })
}

fn downstream_tls(mode: Mode, certificates: &Path) -> String {
    if mode != Mode::Pair(Side::Server) {
        return String::new();
    }
    let folder = certificates.display();
    format!(" ssl crt {folder}/server.pem ca-file {folder}/ca.pem verify required")
}

fn upstream_tls(mode: Mode, certificates: &Path) -> String {
    if mode != Mode::Pair(Side::Client) {
        return String::new();
    }
    let folder = certificates.display();
    format!(
        " ssl crt {folder}/client.pem ca-file {folder}/ca.pem verify required sni str({SERVER_NAME}) verifyhost {SERVER_NAME}"
    )
}

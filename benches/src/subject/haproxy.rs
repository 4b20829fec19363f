//! `HAProxy`'s configuration.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::envoy_form::unused;
use super::{Mode, Setup};

/// Connections that it may have at a time, both sides together about half of the usual file limit.
const MAX_CONNECTIONS: usize = 9000;

pub(super) fn config(setup: &Setup, listen: SocketAddr) -> String {
    let http = setup.mode != Mode::Tcp;
    let (mode, reuse) = if http { ("http", "  http-reuse always\n") } else { ("tcp", "") };
    let protocol = if setup.mode == Mode::Http2 { " proto h2" } else { "" };
    let pool = if http { " pool-max-conn 2000" } else { "" };
    let mut text = format!(
        "global\n  nbthread 1\n  maxconn {MAX_CONNECTIONS}\n\
         defaults\n  mode {mode}\n  timeout connect 5s\n  timeout client 300s\n  timeout server 300s\n  \
         timeout tunnel 300s\n{reuse}\
         frontend f\n  bind {listen}{protocol}\n  default_backend s0\n"
    );
    for number in 0..setup.clusters {
        let endpoint = if number == 0 { setup.upstream } else { unused(number) };
        let _ = write!(text, "backend s{number}\n  server e1 {endpoint}{protocol}{pool}\n");
    }
    text
}

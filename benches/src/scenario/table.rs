//! The table of scenarios with the budget of each.
//!
//! Limits: issue of the harness and the "must" column of the budget. A scenario for a feature that a build lacks may
//! stand here all the same: a subject that refuses its configuration is left out with its own words.

use super::{Reference, Scenario, Traffic, Work};
use crate::drive::{Kind, Load};
use crate::report::Figure::{
    CpuUs, IdleRssMb, KbPerCluster, KbPerConnection, P99Ms, PeakRssMb, ReadyMs, Syscalls,
};
use crate::report::Limit;
use crate::subject::{Mode, Side};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// All scenarios in the order of the report.
pub const TABLE: &[Scenario] = &[
    http("h1-12b-64", "HTTP/1.1, 12 B, 64 connections", (64, 12), SMALL_64, true),
    http("h1-12b-1", "HTTP/1.1, 12 B, 1 connection", (1, 12), ONE, true),
    http("h1-12b-512", "HTTP/1.1, 12 B, 512 connections", (512, 12), MANY, true),
    http("h1-1k-64", "HTTP/1.1, 1 KiB, 64 connections", (64, KIB), SMALL_64, true),
    http("h1-64k-64", "HTTP/1.1, 64 KiB, 64 connections", (64, 64 * KIB), LARGE, true),
    http("h1-1m-64", "HTTP/1.1, 1 MiB, 64 connections", (64, MIB), HUGE, false),
    load("h2-get", "HTTP/2 GET, 12 B, 8 x 16 streams", (Mode::Http2, Kind::H2Get(16), 8, 12), H2, true),
    load("h2-post", "HTTP/2 POST, 100 B, 8 x 16 streams", (Mode::Http2, Kind::H2Post(16), 8, 100), H2, false),
    load(
        "grpc-unary",
        "gRPC unary, 100 B, 8 x 16 streams",
        (Mode::Http2, Kind::GrpcUnary(16), 8, 100),
        H2,
        false,
    ),
    load(
        "grpc-stream",
        "gRPC streams that stay open, messages of 100 B, 8 x 16 streams",
        (Mode::Http2, Kind::GrpcStream(16), 8, 100),
        H2,
        false,
    ),
    load(
        "tcp-small",
        "TCP, answers of 12 B, 64 connections",
        (Mode::Tcp, Kind::Get, 64, 12),
        TCP_SMALL,
        true,
    ),
    load("tcp-1m", "TCP, answers of 1 MiB, 64 connections", (Mode::Tcp, Kind::Get, 64, MIB), TCP_BULK, false),
    load(
        "websocket",
        "WebSocket, 100 B there and back, 64 connections",
        (Mode::WebSocket, Kind::WebSocket, 64, 100),
        NONE,
        false,
    ),
    load(
        "new-connection",
        "New connection for each request, 12 B, 64 at a time",
        (Mode::Http1, Kind::NewConnection, 64, 12),
        NONE,
        false,
    ),
    load("policy-1", "1 deny rule, HTTP/1.1, 12 B, 64 connections", policy(1), NONE, false),
    load("policy-100", "100 deny rules, HTTP/1.1, 12 B, 64 connections", policy(100), NONE, false),
    load("policy-1000", "1,000 deny rules, HTTP/1.1, 12 B, 64 connections", policy(1000), NONE, false),
    load(
        "resilience",
        "Every policy of resilience on, none acts, HTTP/1.1, 12 B, 64 connections",
        (Mode::Resilient, Kind::Get, 64, 12),
        RESILIENCE,
        false,
    ),
    load("pair-12b", "Pair over mTLS, HTTP/1.1, 12 B, 64 connections", pair(64, 12), PAIR_SMALL, true),
    load("pair-12b-1", "Pair over mTLS, HTTP/1.1, 12 B, 1 connection", pair(1, 12), NONE, false),
    load(
        "pair-64k",
        "Pair over mTLS, HTTP/1.1, 64 KiB, 64 connections",
        pair(64, 64 * KIB),
        PAIR_LARGE,
        false,
    ),
    load(
        "mtls-new-connection",
        "New mTLS connection for each request, full handshake, 12 B, 16 at a time",
        (Mode::Pair(Side::Server), Kind::NewConnection, 16, 12),
        NEW_MTLS,
        true,
    ),
    load(
        "mtls-new-connection-pq",
        "New mTLS connection for each request, a post-quantum key exchange offered first",
        (Mode::Pair(Side::Server), Kind::HybridConnection, 16, 12),
        NONE,
        false,
    ),
    latency(
        "latency-half-slowest",
        "Latency at half of what the slowest serves, HTTP/1.1, 12 B, 64 connections",
        Reference::Slowest,
        LATENCY,
        false,
    ),
    latency(
        "latency-half-haproxy",
        "Latency at half of what HAProxy serves, HTTP/1.1, 12 B, 64 connections",
        Reference::Peer("haproxy"),
        LATENCY,
        true,
    ),
    Scenario {
        id: "idle-1000",
        title: "1,000 idle connections",
        work: Work::Idle { connections: 1000 },
        limits: &[
            Limit::Absolute { figure: KbPerConnection, at_most: 6.0 },
            Limit::Absolute { figure: IdleRssMb, at_most: 8.0 },
        ],
        quick: true,
    },
    services("services-10", "10 services", 10, NONE),
    services("services-1000", "1,000 services", 1000, NONE),
    services("services-10000", "10,000 services", 10_000, MESH),
    Scenario {
        id: "push-1000",
        title: "1,000 services from a control server, one change of routes at a time",
        work: Work::Push { services: 1000 },
        limits: NONE,
        quick: false,
    },
    Scenario {
        id: "churn-1000",
        title: "100 changes of routes each second under load, 1,000 services",
        work: Work::Churn { services: 1000, per_second: 100 },
        limits: NONE,
        quick: false,
    },
];

const NONE: &[Limit] = &[];
const SMALL_64: &[Limit] = &[
    cpu("haproxy", 1.0),
    cpu("envoy", 0.37),
    cpu("envoy", 0.33),
    cpu("orion", 0.7),
    cpu("floor-raw", 1.15),
    Limit::Absolute { figure: Syscalls, at_most: 4.2 },
    Limit::Absolute { figure: PeakRssMb, at_most: 10.0 },
];
const ONE: &[Limit] = &[cpu("nginx", 1.0)];
const MANY: &[Limit] = &[cpu("haproxy", 1.0), Limit::Absolute { figure: PeakRssMb, at_most: 20.0 }];
const LARGE: &[Limit] = &[cpu("nginx", 1.0)];
const HUGE: &[Limit] = &[cpu("floor-hyper", 1.0)];
const H2: &[Limit] = &[cpu("envoy", 0.5)];
const TCP_SMALL: &[Limit] = &[cpu("haproxy", 1.0)];
const TCP_BULK: &[Limit] = &[cpu("envoy", 1.0)];
const PAIR_SMALL: &[Limit] = &[
    cpu("haproxy", 1.0),
    cpu("envoy", 0.5),
    cpu("linkerd", 0.5),
    Limit::Absolute { figure: Syscalls, at_most: 8.4 },
];
const RESILIENCE: &[Limit] = &[cpu(super::bench::PLAIN, 1.1)];
const NEW_MTLS: &[Limit] = &[cpu("envoy", 1.0)];
const PAIR_LARGE: &[Limit] = &[cpu("nginx", 1.0)];
const LATENCY: &[Limit] = &[Limit::Ratio { figure: P99Ms, peer: "haproxy", at_most: 1.2 }];
const MESH: &[Limit] = &[
    Limit::Absolute { figure: ReadyMs, at_most: 500.0 },
    Limit::Absolute { figure: KbPerCluster, at_most: 5.0 },
];

const fn policy(rules: usize) -> (Mode, Kind, usize, usize) {
    (Mode::Policy(rules), Kind::Get, 64, 12)
}

const fn pair(connections: usize, bytes: usize) -> (Mode, Kind, usize, usize) {
    (Mode::Pair(Side::Both), Kind::Get, connections, bytes)
}

const fn cpu(peer: &'static str, at_most: f64) -> Limit {
    Limit::Ratio { figure: CpuUs, peer, at_most }
}

const fn http(
    id: &'static str,
    title: &'static str,
    (connections, bytes): (usize, usize),
    limits: &'static [Limit],
    quick: bool,
) -> Scenario {
    load(id, title, (Mode::Http1, Kind::Get, connections, bytes), limits, quick)
}

const fn load(
    id: &'static str,
    title: &'static str,
    (mode, kind, connections, bytes): (Mode, Kind, usize, usize),
    limits: &'static [Limit],
    quick: bool,
) -> Scenario {
    let work = Work::Throughput(Traffic { mode, load: Load { kind, connections, bytes } });
    Scenario { id, title, work, limits, quick }
}

const fn latency(
    id: &'static str,
    title: &'static str,
    reference: Reference,
    limits: &'static [Limit],
    quick: bool,
) -> Scenario {
    let load = Load { kind: Kind::Get, connections: 64, bytes: 12 };
    let traffic = Traffic { mode: Mode::Http1, load };
    Scenario { id, title, work: Work::Latency(traffic, reference), limits, quick }
}

const fn services(id: &'static str, title: &'static str, count: usize, limits: &'static [Limit]) -> Scenario {
    Scenario { id, title, work: Work::Services { count }, limits, quick: false }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_unique_and_fit_for_a_command_line() {
        let ids: BTreeSet<&str> = TABLE.iter().map(|scenario| scenario.id).collect();
        assert_eq!(ids.len(), TABLE.len());
        let fits = |id: &str| id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        assert!(ids.iter().all(|id| fits(id)), "{ids:?}");
    }
}

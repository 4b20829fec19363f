//! The same mesh, served: configuration over ADS and identities from the control server, ours and Envoy's in every
//! role, Envoy over both protocols.

use outrider_tests::backend::Backend;
use outrider_tests::control::{Control, Wire};
use outrider_tests::process::{Process, envoy_binary, free_port};

use super::run::{Running, WORKLOADS, places};
use super::same::check_all;

/// Who stands before a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sidecar {
    Ours,
    /// Envoy, with this `api_type`.
    Envoy(&'static str),
}

const DELTA: Sidecar = Sidecar::Envoy("DELTA_GRPC");
const SOTW: Sidecar = Sidecar::Envoy("GRPC");

async fn check(clients: Sidecar, servers: Sidecar) {
    let envoy = envoy_binary();
    if envoy.is_none() && (clients, servers) != (Sidecar::Ours, Sidecar::Ours) {
        return;
    }
    let backends = [Backend::start().await, Backend::start().await];
    let (ports, text) = places(&backends);
    let control = Control::start(Wire::Tls, &text);
    let each = WORKLOADS.iter().map(|(name, account)| {
        let admin = free_port();
        match who(name, clients, servers) {
            Sidecar::Ours => Process::outrider(&control.outrider(name, account, admin), admin),
            Sidecar::Envoy(api) => {
                Process::envoy(envoy.as_ref().unwrap(), &control.envoy(name, account, admin, api), admin)
            }
        }
    });
    let sidecars = each.collect();
    for (name, account) in WORKLOADS {
        let proxy = control.settled(name);
        assert_eq!(proxy["identity"], format!("spiffe://mesh.test/ns/shop/sa/{account}"), "{proxy:#}");
        assert_eq!(proxy["refuses"], false, "{proxy:#}");
        let expected = match who(name, clients, servers) {
            Sidecar::Ours => ["outrider", "delta"],
            Sidecar::Envoy("GRPC") => ["envoy", "sotw"],
            Sidecar::Envoy(_) => ["envoy", "delta"],
        };
        assert_eq!([&proxy["dialect"], &proxy["protocol"]], expected, "{name}");
    }
    check_all(&Running { ports, backends, _sidecars: sidecars }).await;
}

fn who(name: &str, clients: Sidecar, servers: Sidecar) -> Sidecar {
    if matches!(name, "front" | "stranger") { clients } else { servers }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ours_on_both_sides() {
    check(Sidecar::Ours, Sidecar::Ours).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_over_delta_calls_envoy_over_sotw() {
    check(DELTA, SOTW).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_over_sotw_calls_ours() {
    check(SOTW, Sidecar::Ours).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ours_calls_envoy_over_delta() {
    check(Sidecar::Ours, DELTA).await;
}

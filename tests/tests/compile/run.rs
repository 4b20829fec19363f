//! What is compiled, run: five sidecars with mutual TLS between them, ours and Envoy's in every role, and the same
//! requests through all of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use outrider_control::compile::{Mesh, Settings};
use outrider_control::snapshot::{Kind, Snapshot};
use outrider_proto::envoy::config::cluster::v3::Cluster;
use outrider_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrider_proto::envoy::config::listener::v3::Listener;
use outrider_proto::envoy::config::route::v3::RouteConfiguration;
use outrider_proto::json;
use outrider_tests::backend::Backend;
use outrider_tests::client::{self, Answer, Ask};
use outrider_tests::mesh::{DAY, Mesh as Certificates};
use outrider_tests::process::{Process, envoy_binary, free_port};
use prost::{Message, Name};
use serde_json::{Value, json};

use super::golden::{objects, proxy};

/// The workloads, and their service accounts.
pub const WORKLOADS: [(&str, &str); 5] = [
    ("front", "front"),
    ("stranger", "stranger"),
    ("reviews-1", "reviews"),
    ("reviews-2", "reviews"),
    ("ledger-1", "ledger"),
];

/// A mesh that runs.
pub struct Running {
    pub ports: BTreeMap<&'static str, u16>,
    pub backends: [Backend; 2],
    pub _sidecars: Vec<Process>,
}

impl Running {
    /// Starts it; which of both sides is Envoy.
    pub async fn start(envoy_clients: bool, envoy_servers: bool) -> Self {
        Self::start_with("", envoy_clients, envoy_servers).await
    }

    /// The same, with more objects.
    pub async fn start_with(more: &str, envoy_clients: bool, envoy_servers: bool) -> Self {
        let backends = [Backend::start().await, Backend::start().await];
        let (ports, mut text) = places(&backends);
        text.push_str(more);
        let settings = Settings { trust_domain: "mesh.test".into(), ..Settings::default() };
        let mesh = Mesh::with_settings(Arc::new(objects(&text)), settings);
        let certificates = Certificates::new("compiled");
        let each = WORKLOADS.iter().map(|(name, account)| {
            let id = format!("spiffe://mesh.test/ns/shop/sa/{account}");
            certificates.write(name, &certificates.authority.svid(&id, DAY));
            let mut info = proxy(&format!("shop/{name}"), account);
            info.identity.as_mut().unwrap().trust_domain = "mesh.test".into();
            let admin = free_port();
            let config = config(&mesh.snapshot(&info), &certificates, name, admin);
            let is_client = matches!(*name, "front" | "stranger");
            if if is_client { envoy_clients } else { envoy_servers } {
                Process::envoy(&envoy_binary().unwrap(), &config, admin)
            } else {
                Process::outrider(&config, admin)
            }
        });
        let sidecars = each.collect();
        Self { ports, backends, _sidecars: sidecars }
    }

    /// One request, and how many requests each backend saw because of it.
    pub async fn ask(&self, port: &str, ask: &Ask) -> (Answer, [usize; 2]) {
        let before = self.seen();
        let answer = client::h1(self.ports[port], ask).await;
        let after = self.seen();
        (answer, [after[0] - before[0], after[1] - before[1]])
    }

    fn seen(&self) -> [usize; 2] {
        [self.backends[0].seen().len(), self.backends[1].seen().len()]
    }
}

/// Ports for everybody, and the objects with them.
pub fn places(backends: &[Backend; 2]) -> (BTreeMap<&'static str, u16>, String) {
    let names = [
        "REVIEWS1",
        "REVIEWS2",
        "LEDGER",
        "FRONT",
        "FRONTLEDGER",
        "FRONTIMPOSTOR",
        "FRONTV1",
        "STRANGER",
        "STRANGERLEDGER",
    ];
    let mut ports: BTreeMap<&str, u16> = names.into_iter().map(|name| (name, free_port())).collect();
    ports.insert("BACKEND1", backends[0].port);
    ports.insert("BACKEND2", backends[1].port);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/running.yaml");
    let mut text = fs::read_to_string(file).unwrap();
    // The longer names first: one may begin with another.
    for (name, port) in ports.iter().rev() {
        text = text.replace(&format!("@{name}"), &port.to_string());
    }
    (ports, text)
}

/// A snapshot as a file for a proxy that asks nobody: routes and endpoints put where they are named, certificates as
/// files.
pub fn config(snapshot: &Snapshot, certificates: &Certificates, name: &str, admin: u16) -> String {
    let (routes, endpoints) = (
        all::<RouteConfiguration>(snapshot, Kind::Route),
        all::<ClusterLoadAssignment>(snapshot, Kind::Endpoints),
    );
    let mut listeners = all::<Listener>(snapshot, Kind::Listener);
    let mut clusters = all::<Cluster>(snapshot, Kind::Cluster);
    listeners.values_mut().for_each(|listener| put_routes(listener, &routes));
    for (name, cluster) in &mut clusters {
        if cluster["type"] == "EDS" {
            let fields = cluster.as_object_mut().unwrap();
            fields.remove("eds_cluster_config");
            fields.insert("type".into(), "STATIC".into());
            fields.insert("load_assignment".into(), endpoints[name].clone());
        }
    }
    let file = |path: std::path::PathBuf| json!({"filename": path});
    json!({
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
        "static_resources": {
            "listeners": listeners.into_values().collect::<Vec<_>>(),
            "clusters": clusters.into_values().collect::<Vec<_>>(),
            "secrets": [
                {"name": "default", "tls_certificate": {
                    "certificate_chain": file(certificates.file(name, "pem")),
                    "private_key": file(certificates.file(name, "key"))}},
                {"name": "ROOTCA", "validation_context": {"trusted_ca": file(certificates.folder.join("ca.pem"))}},
            ],
        },
    })
    .to_string()
}

fn all<M: Message + Name + Default>(snapshot: &Snapshot, kind: Kind) -> BTreeMap<String, Value> {
    let resources = snapshot.kind(kind).into_iter().flatten();
    resources
        .map(|(name, resource)| {
            (name.to_string(), json::to_json(&M::decode(resource.body.clone()).unwrap()).unwrap())
        })
        .collect()
}

fn put_routes(value: &mut Value, routes: &BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            if let Some(rds) = fields.remove("rds") {
                let name = rds["route_config_name"].as_str().unwrap();
                fields.insert("route_config".into(), routes[name].clone());
            }
            fields.values_mut().for_each(|value| put_routes(value, routes));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| put_routes(value, routes)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

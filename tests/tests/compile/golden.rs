//! Golden cases: a file of objects, and beside it what each proxy is told and what is said of the objects. With
//! `OUTRIDER_BLESS=1` the expectations are written anew; look at the difference before it is committed.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use outrider_control::compile::Mesh;
use outrider_control::compile::faults::{InForce, Injections};
use outrider_control::object::{AnyObject, Objects, Place};
use outrider_control::proxy_info::{Dialect, Identity, ProxyInfo};
use outrider_control::snapshot::{Kind, Snapshot};
use outrider_control::source::files::Directory;
use outrider_proto::envoy::config::cluster::v3::Cluster;
use outrider_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrider_proto::envoy::config::listener::v3::Listener;
use outrider_proto::envoy::config::route::v3::RouteConfiguration;
use outrider_proto::json;
use outrider_proto::outrider::destination::v1::Destination;
use outrider_proto::outrider::fault::v1::FaultInjection;
use outrider_proto::outrider::identity::v1::RevocationList;
use prost::{Message, Name};
use serde_json::Value;

use super::check::Judge;

/// Longest line that a value is put on as a whole.
const WIDTH: usize = 110;

/// Reads objects of YAML; what is wrong ends the test.
pub fn objects(text: &str) -> Objects {
    let options = serde_saphyr::options! { strict_booleans: true };
    let mut objects = Objects::default();
    for document in text.split("\n---\n").filter(|text| !text.trim().is_empty()) {
        let value: Value = serde_saphyr::from_str_with_options(document, options.clone()).expect(document);
        let object = AnyObject::from_value(value, &Place::default()).expect(document);
        objects.insert(object);
    }
    objects
}

/// A proxy of ours: the workload `NAMESPACE/NAME`, with its service account proved.
pub fn proxy(workload: &str, account: &str) -> ProxyInfo {
    let (namespace, name) = workload.split_once('/').unwrap();
    ProxyInfo {
        id: workload.into(),
        namespace: namespace.into(),
        service_account: account.into(),
        workload: name.into(),
        dialect: Dialect::Outrider,
        supports_ttl: true,
        identity: Some(Identity {
            trust_domain: "cluster.local".into(),
            namespace: namespace.into(),
            service_account: account.into(),
        }),
        ..ProxyInfo::default()
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// Compiles a case and compares all that comes out with what is written beside it.
pub fn case(name: &str, proxies: &[ProxyInfo]) {
    let text = fs::read_to_string(root().join(format!("{name}.yaml"))).unwrap();
    compiled(name, &objects(&text), String::new(), proxies);
}

/// A case of which not all is good: its objects are in a directory, read as the server does.
pub fn directory(name: &str, proxies: &[ProxyInfo]) {
    let view = Directory::new(&root().join(name)).scan().unwrap();
    let mut shown = "# what is wrong\n".to_owned();
    for diagnostic in view.diagnostics.iter() {
        writeln!(shown, "{diagnostic}").unwrap();
    }
    compiled(name, &view.objects, shown, proxies);
}

fn compiled(name: &str, objects: &Objects, mut shown: String, proxies: &[ProxyInfo]) {
    let mesh = Mesh::new(objects);
    shown.push_str(&statuses(&mesh));
    let mut blocks: Vec<String> = Vec::new();
    for proxy in proxies {
        let snapshot = told(&mesh, &mesh.injections(&InForce::default()), proxy);
        let refused = Judge::default().refusals(proxy, &snapshot);
        assert!(refused.is_empty(), "{name}: {} refuses: {refused:#?}", proxy.id);
        write!(shown, "\n# told to {}\n", proxy.id).unwrap();
        for block in resources(&snapshot, proxy.dialect) {
            if blocks.contains(&block) {
                writeln!(shown, "{} as above", block.lines().next().unwrap_or_default()).unwrap();
            } else {
                shown.push_str(&block);
                blocks.push(block);
            }
        }
    }
    let path = root().join(format!("{name}.expected"));
    if std::env::var_os("OUTRIDER_BLESS").is_some() {
        fs::write(&path, &shown).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    if let Some((number, (found, wanted))) =
        shown.lines().zip(expected.lines()).enumerate().find(|(_, (found, wanted))| found != wanted)
    {
        panic!("{}:{}\n  expected {wanted}\n  found    {found}", path.display(), number + 1);
    }
    assert_eq!(shown.lines().count(), expected.lines().count(), "{}", path.display());
}

/// All that a proxy is told, faults that run included.
pub fn told(mesh: &Mesh, injections: &Injections, proxy: &ProxyInfo) -> Snapshot {
    let mut snapshot = mesh.snapshot(proxy);
    mesh.inject(injections, proxy, &mut snapshot);
    snapshot
}

/// What is said of all objects.
pub fn statuses(mesh: &Mesh) -> String {
    let mut text = "# conditions\n".to_owned();
    for (key, status) in mesh.statuses().iter() {
        for (parent, conditions) in &status.parents {
            let parent = if parent.is_empty() { String::new() } else { format!(" of {parent}") };
            for one in conditions {
                let kind = one.kind.as_str();
                writeln!(text, "{key}{parent}: {kind}={} {} {}", one.holds, one.reason, one.message).unwrap();
            }
        }
    }
    text
}

/// Every resource as one block: kind, name and origin, then its JSON form; in the dialect of gRPC, what is on the wire.
fn resources(snapshot: &Snapshot, dialect: Dialect) -> Vec<String> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        for (name, resource) in snapshot.kind(kind).into_iter().flatten() {
            let body = match kind {
                _ if dialect == Dialect::Grpc => super::raw::shown(&resource.body),
                Kind::Cluster => pretty::<Cluster>(&resource.body),
                Kind::Endpoints => pretty::<ClusterLoadAssignment>(&resource.body),
                Kind::Listener => pretty::<Listener>(&resource.body),
                Kind::Route => pretty::<RouteConfiguration>(&resource.body),
                Kind::Destination => pretty::<Destination>(&resource.body),
                Kind::Secret => unreachable!("secrets are not compiled"),
                Kind::Faults => pretty::<FaultInjection>(&resource.body),
                Kind::Revocations => pretty::<RevocationList>(&resource.body),
            };
            let ttl = snapshot.ttl(kind, name).map_or(String::new(), |ttl| format!(" for {ttl:?}"));
            all.push(format!("## {kind:?} {name} of {}{ttl}\n{body}", resource.origin));
        }
    }
    all
}

fn pretty<M: Message + Name + Default>(bytes: &[u8]) -> String {
    let mut text = String::new();
    show(&json::to_json(&M::decode(bytes).unwrap()).unwrap(), 0, &mut text);
    text
}

/// As YAML, with what fits on a line on one line.
fn show(value: &Value, depth: usize, text: &mut String) {
    let line = value.to_string();
    let pad = "  ".repeat(depth);
    match value {
        Value::Object(fields) if line.len() + 2 * depth > WIDTH || depth == 0 => {
            for (name, value) in fields {
                let line = value.to_string();
                let short =
                    line.len() + 2 * depth + name.len() <= WIDTH || !(value.is_object() || value.is_array());
                if short {
                    writeln!(text, "{pad}{name}: {line}").unwrap();
                } else {
                    writeln!(text, "{pad}{name}:").unwrap();
                    show(value, depth + 1, text);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                writeln!(text, "{pad}-").unwrap();
                show(item, depth + 1, text);
            }
        }
        _ => writeln!(text, "{pad}{line}").unwrap(),
    }
}

/// The routes of a port, shortened: what is matched, then where it goes.
pub fn routes(mesh: &Mesh, proxy: &ProxyInfo, name: &str) -> Vec<String> {
    let snapshot = mesh.snapshot(proxy);
    let refused = Judge::default().refusals(proxy, &snapshot);
    assert!(refused.is_empty(), "{refused:#?}");
    let body = &snapshot.kind(Kind::Route).unwrap().get(name).expect(name).body;
    let table = json::to_json(&RouteConfiguration::decode(body.clone()).unwrap()).unwrap();
    let routes = table["virtual_hosts"][0]["routes"].as_array().cloned().unwrap_or_default();
    routes.iter().map(short).collect()
}

fn short(route: &Value) -> String {
    let target = if let Some(status) = route["direct_response"]["status"].as_u64() {
        status.to_string()
    } else if let Some(clusters) = route["route"]["weighted_clusters"]["clusters"].as_array() {
        let each = clusters.iter().map(|one| format!("{}*{}", one["name"].as_str().unwrap(), one["weight"]));
        each.collect::<Vec<_>>().join(" ")
    } else {
        route["route"]["cluster"].as_str().unwrap_or("redirect").to_owned()
    };
    format!("{} -> {target}", route["match"])
}

/// The chains of a listener, shortened: what they match, and what is guarded on the way.
pub fn chains(snapshot: &Snapshot, name: &str) -> Vec<String> {
    let body = &snapshot.kind(Kind::Listener).unwrap().get(name).expect(name).body;
    let listener = json::to_json(&Listener::decode(body.clone()).unwrap()).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let of_chain = |chain: &Value| {
        let matched = &chain["filter_chain_match"];
        let ranges = list(&matched["prefix_ranges"]);
        let ranges =
            ranges.iter().map(|one| format!("{}/{}", text(&one["address_prefix"]), one["prefix_len"]));
        let port = matched["destination_port"].as_u64().map_or("any".to_owned(), |port| port.to_string());
        let mut shown = format!("{}:{port}", ranges.collect::<Vec<_>>().join(","));
        for filter in list(&chain["filters"]) {
            let settings = &filter["typed_config"];
            for name in ["allow", "refuse"] {
                let entries: Vec<String> = list(&settings[name]).iter().flat_map(destinations).collect();
                if !entries.is_empty() {
                    write!(shown, " {name} {entries:?}").unwrap();
                }
            }
            if !settings["rules"].is_null() {
                write!(shown, " {}", settings["rules"]).unwrap();
            }
        }
        shown
    };
    list(&listener["filter_chains"]).iter().map(of_chain).collect()
}

fn destinations(value: &Value) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let ports: Vec<String> = list(&value["ports"]).iter().map(|one| one["start"].to_string()).collect();
    let ports = match ports.as_slice() {
        [first, .., last] => format!("{first}..{last}"),
        [only] => only.clone(),
        [] => "any".to_owned(),
    };
    let addresses = list(&value["addresses"]);
    addresses.iter().map(|one| format!("{}:{ports}", one["address_prefix"].as_str().unwrap())).collect()
}

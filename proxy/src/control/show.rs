//! What the operator is shown of the configuration: all of it as JSON, and clusters in the text form of Envoy's
//! `/clusters`.

use std::fmt::Write as _;

use outrider_proto::{Fault, json};
use serde_json::json as object;

use super::redact;
use super::store::Store;
use crate::model::endpoint::{Endpoint, Health};
use crate::model::limits::Priority;
use crate::model::{ClusterEntry, Snapshot};
use crate::upstream::usage::UsageRegistry;

/// All resources without their private keys.
pub(super) fn config_dump(store: &Store, version: u64) -> String {
    let resources = |messages: Vec<Result<serde_json::Value, Fault>>| {
        serde_json::Value::Array(messages.into_iter().filter_map(Result::ok).collect())
    };
    let mut dump = object!({
        "version": version,
        "listeners": resources(store.listeners().map(|message| json::to_json(&message)).collect()),
        "clusters": resources(store.clusters().map(|message| json::to_json(&message)).collect()),
        "routes": resources(store.routes().map(|message| json::to_json(&message)).collect()),
        "destinations": resources(store.told_destinations().map(|message| json::to_json(&message)).collect()),
        "endpoints": resources(store.endpoints().map(|message| json::to_json(&message)).collect()),
    });
    redact::private_keys(&mut dump);
    serde_json::to_string_pretty(&dump).unwrap_or_default()
}

/// All clusters and their endpoints.
pub(super) fn clusters(snapshot: &Snapshot, usage: &UsageRegistry) -> String {
    let mut out = String::new();
    let mut clusters: Vec<_> = snapshot.clusters.values().collect();
    clusters.sort_by_key(|entry| &entry.config.name);
    for entry in clusters {
        // Writing into a string cannot fail.
        let _ = cluster(&mut out, entry, usage);
    }
    out
}

fn cluster(out: &mut String, entry: &ClusterEntry, usage: &UsageRegistry) -> std::fmt::Result {
    let name = &entry.config.name;
    let limit = entry.config.limits.of(Priority::Default).max_connections;
    writeln!(out, "{name}::max_connections::{limit}")?;
    let usage = usage.cluster(name);
    for endpoint in &entry.endpoints.endpoints {
        let address = endpoint.address;
        writeln!(out, "{name}::{address}::health_flags::{}", flags(endpoint, &usage.hosts))?;
        writeln!(out, "{name}::{address}::weight::{}", endpoint.weight)?;
        let locality = &endpoint.locality;
        for (key, value) in
            [("region", &locality.region), ("zone", &locality.zone), ("sub_zone", &locality.sub_zone)]
        {
            writeln!(out, "{name}::{address}::{key}::{value}")?;
        }
    }
    Ok(())
}

/// What speaks against an endpoint, in Envoy's words.
fn flags(endpoint: &Endpoint, hosts: &crate::upstream::host::Hosts) -> String {
    let known = hosts.known(endpoint.address);
    let known = known.as_ref();
    let flags = [
        ("/failed_active_hc", known.is_some_and(|host| host.fails_checks())),
        ("/failed_outlier_check", known.is_some_and(|host| host.is_ejected())),
        ("/failed_eds_health", endpoint.health != Health::Well),
    ];
    let flags: String = flags.iter().filter(|(_, set)| *set).map(|(flag, _)| *flag).collect();
    if flags.is_empty() { "healthy".to_owned() } else { flags }
}

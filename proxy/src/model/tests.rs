//! No field is accepted and ignored: in a configuration that sets all of them, none can be taken away without an effect
//! on what is compiled.

use std::collections::BTreeSet;

use outrider_proto::envoy::config::bootstrap::v3 as pb;
use outrider_proto::fields::{FieldRef, all_fields};
use outrider_proto::json;
use serde_json::Value;

use super::bootstrap::Bootstrap;

const EVERYTHING: &str = include_str!("everything.yaml");
const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";

/// Fields that cannot have another effect than their absence, each with the reason.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    // The one value there is.
    ("SocketAddress", "protocol"),
    ("RegexMatcher", "google_re2"),
    ("ConfigSource", "resource_api_version"),
    ("TlsParameters", "tls_maximum_protocol_version"),
    // Any other value than the default is refused.
    ("ConfigSource", "initial_fetch_timeout"),
    ("Listener", "enable_reuse_port"),
    ("UseDownstreamHttpConfig", "http_protocol_options"),
    ("AutoHttpConfig", "http_protocol_options"),
    // ADS has one form here, and the node is sent once.
    ("ApiConfigSource", "api_type"),
    ("ApiConfigSource", "set_node_on_first_message_only"),
    // Must be the sum of the weights.
    ("WeightedCluster", "total_weight"),
    // Told to the control server as it is.
    ("Bootstrap", "node"),
    // For people.
    ("AccessLog", "name"),
];

/// Messages that are not compiled: the node is told to the control server as it is, and the last two are what a
/// control server is asked about its clients.
const AS_IT_IS: &[&str] = &["Node", "ControlPlane", "NodeMatcher", "UpdateFailureState"];

/// What is compiled from a configuration, or why it is refused.
fn compiled(config: &Value) -> Result<String, String> {
    let bootstrap: pb::Bootstrap = json::from_json(config).map_err(|faults| format!("{faults:?}"))?;
    let bootstrap = Bootstrap::from_proto(bootstrap).map_err(|faults| format!("{faults:?}"))?;
    let resources = &bootstrap.resources;
    let listeners: Vec<_> = resources.listeners.iter().map(|(_, listener)| listener).collect();
    let clusters: Vec<_> = resources.clusters.iter().map(|(_, cluster)| cluster).collect();
    let Bootstrap { admin, ads, identity, overload, local_cluster, .. } = bootstrap;
    Ok(format!(
        "{admin:#?} {ads:#?} {identity:#?} {overload:#?} {local_cluster:#?} {listeners:#?} {clusters:#?} {:#?}",
        resources.secrets
    ))
}

fn short(message: &str) -> &str {
    message.rsplit('.').next().unwrap_or_default()
}

/// The places of all fields that are set, with what they are fields of.
fn places(
    message: &str,
    at: &str,
    value: &Value,
    fields: &[FieldRef],
    out: &mut Vec<(String, String, String)>,
) {
    let Value::Object(members) = value else { return };
    let message = match members.get("@type").and_then(Value::as_str) {
        Some(url) => url.rsplit('/').next().unwrap_or_default(),
        None => message,
    };
    for (name, value) in members.iter().filter(|(name, _)| *name != "@type") {
        let at = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        let Some(field) = fields.iter().find(|field| field.message == message && field.field == *name) else {
            // An entry of a map, or of a struct.
            places(message, &at, value, fields, out);
            continue;
        };
        out.push((message.to_owned(), name.clone(), at.clone()));
        let Some(held) = &field.holds else { continue };
        if let Value::Array(items) = value {
            for (index, item) in items.iter().enumerate() {
                places(held, &format!("{at}/{index}"), item, fields, out);
            }
        } else {
            places(held, &at, value, fields, out);
        }
    }
}

#[test]
fn no_field_can_be_taken_away_unnoticed() {
    let config = json::to_json(&json::from_yaml::<pb::Bootstrap>(EVERYTHING).unwrap()).unwrap();
    let whole = compiled(&config).unwrap();
    let fields = all_fields();
    let mut set = Vec::new();
    places(BOOTSTRAP, "", &config, &fields, &mut set);
    let (mut effective, mut ignored) = (BTreeSet::new(), Vec::new());
    for (message, field, at) in set {
        let mut without = config.clone();
        let (parent, name) = at.rsplit_once('/').unwrap();
        let name = name.replace("~1", "/").replace("~0", "~");
        without.pointer_mut(parent).and_then(Value::as_object_mut).unwrap().remove(&name).unwrap();
        if compiled(&without).as_ref() == Ok(&whole) {
            ignored.push(at);
        } else {
            effective.insert((message, field));
        }
    }
    let excused = |message: &str, field: &str| {
        AS_IT_IS.contains(&short(message))
            || message.starts_with("envoy.service.")
            || WITHOUT_EFFECT.contains(&(short(message), field))
    };
    let stale = WITHOUT_EFFECT.iter().find(|(message, field)| {
        effective.iter().any(|(known, name)| short(known) == *message && name == field)
    });
    assert_eq!(stale, None, "has an effect");
    let missing: Vec<String> = fields
        .iter()
        .filter(|field| !effective.contains(&(field.message.clone(), field.field.clone())))
        .filter(|field| !excused(&field.message, &field.field))
        .map(|field| format!("{}.{}", field.message, field.field))
        .collect();
    assert!(
        missing.is_empty(),
        "not seen to have an effect: {missing:#?}\nwithout effect where they stand: {ignored:#?}"
    );
}

//! `outrider crds`: the definitions of our own kinds, made of the types that read them.
//!
//! Kubernetes wants structural schemas: one type for each node, nothing by reference, no closed objects (the API server
//! drops unknown fields by itself, and refuses them where the client asks for it). What the generator makes is brought
//! into that form here.

use std::io::{self, Write};

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::object::authorization::AuthorizationPolicy;
use crate::object::egress::EgressPolicy;
use crate::object::fault_injection::FaultInjection;
use crate::object::key::{OWN_GROUP, OWN_VERSION};
use crate::object::revocation::Revocation;
use crate::object::traffic::TrafficPolicy;
use crate::object::workload::Workload;
use crate::object::{ObjectKind, Spec};

/// A column that `kubectl get` shows: its heading and where it comes from.
type Column = (&'static str, &'static str);

/// Writes all definitions, as documents of YAML (each in its JSON form, which is YAML).
///
/// # Errors
/// When they cannot be written.
pub(super) fn write(out: &mut dyn Write) -> io::Result<()> {
    for definition in all() {
        writeln!(out, "---\n{definition:#}")?;
    }
    Ok(())
}

/// All definitions.
#[must_use]
pub(super) fn all() -> Vec<Value> {
    vec![
        definition::<Workload>(
            &["wl"],
            &[
                ("Address", ".spec.address"),
                ("Service", ".spec.service"),
                ("Account", ".spec.serviceAccount"),
            ],
        ),
        definition::<TrafficPolicy>(&["tp"], &[("Targets", ".spec.targetRefs[*].name")]),
        definition::<AuthorizationPolicy>(
            &["authz"],
            &[("Action", ".spec.action"), ("Mode", ".spec.mode"), ("mTLS", ".spec.mtls")],
        ),
        definition::<EgressPolicy>(&["egress"], &[]),
        definition::<FaultInjection>(
            &["fault"],
            &[("Direction", ".spec.direction"), ("Percent", ".spec.percent"), ("Duration", ".spec.duration")],
        ),
        definition::<Revocation>(&[], &[("Identities", ".spec.identities"), ("Reason", ".spec.reason")]),
    ]
}

fn definition<S: Spec + JsonSchema>(short: &[&str], columns: &[Column]) -> Value {
    let kind: ObjectKind = S::KIND;
    let (plural, name) = (kind.plural(), kind.as_str());
    let mut spec = schema::<S>();
    let description = spec.remove("description").unwrap_or_default();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{OWN_GROUP}")},
        "spec": {
            "group": OWN_GROUP,
            "scope": if kind.is_namespaced() { "Namespaced" } else { "Cluster" },
            "names": {
                "kind": name,
                "listKind": format!("{name}List"),
                "plural": plural,
                "singular": name.to_ascii_lowercase(),
                "shortNames": short,
                "categories": ["outrider"],
            },
            "versions": [{
                "name": OWN_VERSION,
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": printed(columns),
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": description,
                    "required": ["spec"],
                    "properties": {
                        "apiVersion": {"type": "string"},
                        "kind": {"type": "string"},
                        "metadata": {"type": "object"},
                        "spec": spec,
                        "status": status(),
                    },
                }},
            }],
        },
    })
}

fn printed(columns: &[Column]) -> Vec<Value> {
    let condition = |name: &str| {
        let path = format!(".status.conditions[?(@.type==\"{name}\")].status");
        json!({"name": name, "type": "string", "jsonPath": path})
    };
    let own = columns.iter().map(|(name, path)| json!({"name": name, "type": "string", "jsonPath": path}));
    let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"});
    own.chain([condition("Accepted"), condition("Programmed"), age]).collect()
}

/// What is said of an object; the form of `metav1.Condition`.
fn status() -> Value {
    let text = |max: u32| json!({"type": "string", "maxLength": max});
    json!({
        "type": "object",
        "properties": {
            "conditions": {
                "type": "array",
                "maxItems": 16,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "type": "object",
                    "required": ["type", "status", "reason", "message", "lastTransitionTime"],
                    "properties": {
                        "type": text(316),
                        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                        "reason": text(1024),
                        "message": text(32_768),
                        "lastTransitionTime": {"type": "string", "format": "date-time"},
                        "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                    },
                },
            },
        },
    })
}

fn schema<S: JsonSchema>() -> Map<String, Value> {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut value = SchemaGenerator::new(settings).into_root_schema_for::<S>().to_value();
    structural(&mut value);
    match value {
        Value::Object(fields) => fields,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}

/// Brings a schema into the structural form, with all below it.
fn structural(value: &mut Value) {
    let Value::Object(fields) = value else { return };
    for name in ["title", "$schema", "components", "default", "nullable", "format"] {
        fields.remove(name);
    }
    if fields.get("additionalProperties") == Some(&Value::Bool(false)) {
        fields.remove("additionalProperties");
    }
    choose(fields);
    // A field that may be missing is one that is not required; null means the same.
    if let Some(Value::Array(types)) = fields.get("type") {
        let real = types.iter().find(|name| name.as_str() != Some("null")).cloned();
        fields.insert("type".to_owned(), real.unwrap_or_default());
    }
    if let Some(Value::Array(values)) = fields.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        properties.values_mut().for_each(structural);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = fields.get_mut(name) {
            structural(inner);
        }
    }
}

/// A choice among words becomes one list of words; a choice between something and nothing becomes the something.
fn choose(fields: &mut Map<String, Value>) {
    for name in ["oneOf", "anyOf", "allOf"] {
        let Some(Value::Array(choices)) = fields.remove(name) else { continue };
        let mut words = Vec::new();
        for mut choice in choices {
            let is_null = choice.get("type").and_then(Value::as_str) == Some("null")
                || choice.get("enum") == Some(&json!([null]));
            if is_null {
                continue;
            }
            if let Value::Object(inner) = &mut choice {
                choose(inner);
                words.extend(inner.remove("const"));
                if let Some(Value::Array(more)) = inner.remove("enum") {
                    words.extend(more);
                }
                for (name, value) in std::mem::take(inner) {
                    fields.entry(name).or_insert(value);
                }
            }
        }
        if !words.is_empty() {
            fields.insert("type".to_owned(), "string".into());
            fields.insert("enum".to_owned(), words.into());
        }
    }
}

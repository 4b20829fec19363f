//! The operator's objects: typed, strict, and independent of where they come from.
//!
//! An object is read in two steps: its shape (`serde`, with unknown fields refused for our kinds and for routes), then
//! what a shape cannot say ([`Spec::check`]). What passed both is what the compiler sees, and nothing else.

pub mod any;
pub mod authorization;
pub mod balancing;
pub mod core;
pub mod egress;
pub mod fault_action;
pub mod fault_injection;
pub mod gateway;
pub mod http_route;
mod http_text;
pub mod key;
pub mod limits;
pub mod meta;
pub mod revocation;
pub mod scalar;
pub mod store;
pub mod traffic;
pub mod workload;

use std::sync::Arc;

use outrider_proto::{Fault, Path};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use any::AnyObject;
pub use key::{Key, ObjectKind};
pub use meta::Metadata;
pub use store::Objects;

/// Where in a source an object stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file below the source's directory, or the source's own name for it.
    pub file: Arc<str>,
    /// Which document of the file, from 1; 0 for the whole file.
    pub document: usize,
    /// The first line of the document, from 1.
    pub line: usize,
}

/// One object that passed all checks.
#[derive(Clone, Debug)]
pub struct Object<S> {
    /// Kind, namespace and name.
    pub key: Key,
    /// Name, labels and so on.
    pub meta: Metadata,
    /// What the operator wants.
    pub spec: S,
    /// What was last said about it; never read for compiling.
    pub status: Option<Value>,
    /// Of everything that may matter for compiling: equal digests mean equal objects.
    pub digest: [u8; 32],
    /// Where it stands.
    pub place: Place,
}

/// The part of an object that belongs to its kind.
pub trait Spec: DeserializeOwned {
    /// The kind.
    const KIND: ObjectKind;

    /// From all fields but `apiVersion`, `kind`, `metadata` and `status`.
    fn from_body(body: Map<String, Value>, _status: Option<&Value>, path: &mut Path) -> Option<Self> {
        spec_only(body, path)
    }

    /// What the shape alone does not say: ranges, combinations, patterns.
    fn check(&self, _path: &mut Path) {}
}

/// A body of which `spec` is the only field.
pub(crate) fn spec_only<S: DeserializeOwned>(mut body: Map<String, Value>, path: &mut Path) -> Option<S> {
    let spec = body.remove("spec").unwrap_or_else(|| Value::Object(Map::new()));
    for name in body.keys() {
        path.fault_at(name, "unknown field; an object has apiVersion, kind, metadata, spec and status");
    }
    path.field("spec", |path| typed(spec, path))
}

/// The typed form of a value, or a fault at the field that does not fit.
pub(crate) fn typed<T: DeserializeOwned>(value: Value, path: &mut Path) -> Option<T> {
    match serde_path_to_error::deserialize(value) {
        Ok(typed) => Some(typed),
        Err(error) => {
            let at = error.path().to_string();
            let reason = in_words(&error.inner().to_string());
            match at.as_str() {
                "." | "" => path.fault(reason),
                at => path.fault_at(at.trim_start_matches('.'), reason),
            }
            None
        }
    }
}

/// What the reader of types says, in words of YAML instead of names of the program's own types.
fn in_words(reason: &str) -> String {
    let Some((found, wanted)) = reason.rsplit_once(", expected ") else { return reason.to_owned() };
    let whole = |least: &dyn std::fmt::Display, most: &dyn std::fmt::Display| {
        format!("a whole number from {least} to {most}")
    };
    let wanted = match wanted {
        "u8" => whole(&u8::MIN, &u8::MAX),
        "u16" => whole(&u16::MIN, &u16::MAX),
        "u32" => whole(&u32::MIN, &u32::MAX),
        "i32" => whole(&i32::MIN, &i32::MAX),
        "u64" | "usize" | "i64" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a mapping".to_owned(),
        "a string" => "a text".to_owned(),
        _ if wanted.starts_with("struct ") => "a mapping of fields".to_owned(),
        _ if wanted.starts_with("enum ") => "one of its words".to_owned(),
        _ => wanted.to_owned(),
    };
    let found = found.replace("invalid type: sequence", "invalid type: list");
    format!("{}, expected {wanted}", found.replace("invalid type: map", "invalid type: mapping"))
}

impl<S: Spec> Object<S> {
    /// From the fields of an object whose kind is known.
    ///
    /// # Errors
    /// All faults that could be found, with the paths of the fields.
    fn from_fields(mut fields: Map<String, Value>, place: &Place) -> Result<Self, Vec<Fault>> {
        let mut path = Path::root();
        let digest = digest(&fields);
        fields.remove("apiVersion");
        fields.remove("kind");
        let status = fields.remove("status");
        let meta = path.field("metadata", |path| {
            Metadata::from_value(fields.remove("metadata"), S::KIND.is_namespaced(), path)
        });
        let spec = S::from_body(fields, status.as_ref(), &mut path);
        if let Some(spec) = &spec {
            path.field("spec", |path| spec.check(path));
        }
        let object = meta.zip(spec).map(|(meta, spec)| Self {
            key: Key::new(S::KIND, &meta.namespace, &meta.name),
            meta,
            spec,
            status,
            digest,
            place: place.clone(),
        });
        path.finish(object)
    }
}

/// Of what may matter for compiling: all but the bookkeeping of an API server and, except for pods, the status.
fn digest(fields: &Map<String, Value>) -> [u8; 32] {
    let mut fields = fields.clone();
    if fields.get("kind").and_then(Value::as_str) != Some("Pod") {
        fields.remove("status");
    }
    if let Some(Value::Object(meta)) = fields.get_mut("metadata") {
        meta.retain(|name, _| {
            matches!(
                name.as_str(),
                "name" | "namespace" | "labels" | "annotations" | "generation" | "creationTimestamp"
            )
        });
    }
    // Keys are sorted: `serde_json` keeps its maps in order.
    crate::digest::sha256(Value::Object(fields).to_string().as_bytes())
}

#[cfg(test)]
mod tests;

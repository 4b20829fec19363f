//! One object of the API server into one of ours.

use kube::api::{ApiResource, DynamicObject};
use outrider_proto::Fault;
use serde_json::{Map, Value};

use super::super::closed;
use crate::object::{AnyObject, Key, ObjectKind, Place, any};

/// An object as it was read.
#[derive(Clone, Debug)]
pub(super) enum Read {
    Good(AnyObject),
    /// What holds in its place when it was never good, and what is wrong with it.
    Bad(Key, Option<AnyObject>, Vec<Fault>),
    /// It is still shown, but it is over: a pod that has ended, whose address may be another's already.
    Over(Key),
}

/// Reads one; `None` when it has no name, which no API server does.
pub(super) fn read(
    object: DynamicObject,
    resource: &ApiResource,
    kind: ObjectKind,
    place: &Place,
) -> Option<Read> {
    let mut value = serde_json::to_value(object).ok()?;
    let fields = value.as_object_mut()?;
    // In lists the items do not say what they are.
    fields.insert("apiVersion".to_owned(), resource.api_version.clone().into());
    fields.insert("kind".to_owned(), resource.kind.clone().into());
    slim(fields, kind);
    let over = kind == ObjectKind::Pod && has_ended(fields);
    let key = any::key_of(&value)?;
    if over {
        return Some(Read::Over(key));
    }
    let closed = closed::in_place_of(&value, place);
    Some(match AnyObject::from_value(value, place) {
        Ok(object) => Read::Good(object),
        Err(faults) => Read::Bad(key, closed, faults),
    })
}

/// Drops what is large, or changes often, and is not looked at.
fn slim(fields: &mut Map<String, Value>, kind: ObjectKind) {
    if let Some(Value::Object(meta)) = fields.get_mut("metadata") {
        meta.remove("managedFields");
        if let Some(Value::Object(annotations)) = meta.get_mut("annotations") {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    match (kind, fields.get_mut("status")) {
        (ObjectKind::Pod, Some(Value::Object(status))) => {
            status.retain(|name, _| matches!(name.as_str(), "podIP" | "podIPs" | "phase"));
        }
        (ObjectKind::Namespace | ObjectKind::Service, Some(_)) => {
            fields.remove("status");
        }
        (_, _) => {}
    }
}

fn has_ended(fields: &Map<String, Value>) -> bool {
    let phase = fields.get("status").and_then(|status| status.get("phase")).and_then(Value::as_str);
    matches!(phase, Some("Succeeded" | "Failed"))
}

impl Read {
    /// Of what it was read.
    pub(super) fn key(&self) -> &Key {
        match self {
            Self::Good(object) => object.key(),
            Self::Bad(key, ..) | Self::Over(key) => key,
        }
    }
}

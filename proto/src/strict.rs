//! Decoding from the wire, where what is not understood is an error.
//!
//! A protobuf decoder skips what it does not know. For a proxy an ignored field can be an ignored rule, so a
//! message is decoded by its descriptor first, and every unknown field, unknown enum number and unlisted
//! `Any`, at any depth, is a fault that names its path.

use prost::{Message, Name};
use prost_reflect::{DynamicMessage, Kind, MapKey, MessageDescriptor, ReflectMessage, Value};
use prost_types::Any;

use crate::fault::{Fault, Path, quoted};
use crate::{outside, pool, type_url};

/// How deep `Any`s may be nested in each other. Messages are bounded by prost's own limit of 100.
const MAX_ANY_DEPTH: usize = 16;

/// Decodes one resource and refuses whatever is outside the subset.
///
/// # Errors
/// All faults (up to [`crate::fault::MAX_FAULTS`]), with the paths of the fields.
pub fn decode<M: Message + Name + Default>(bytes: &[u8]) -> Result<M, Vec<Fault>> {
    let mut path = Path::root();
    let name = M::full_name();
    match pool::message(&name) {
        Some(descriptor) => check_bytes(&descriptor, bytes, 0, &mut path),
        None => path.fault(format!("{name} is not in the supported subset")),
    }
    let message = M::decode(bytes).map_err(|error| path.fault(format!("not a valid {name}: {error}"))).ok();
    path.finish(message)
}

/// The typed message in an `Any`, if it is of this type and can be decoded.
#[must_use]
pub fn unpack<M: Message + Name + Default>(any: &Any) -> Option<M> {
    let name = any.type_url.rsplit('/').next()?;
    (name == M::full_name()).then(|| M::decode(any.value.as_slice()).ok()).flatten()
}

fn check_bytes(descriptor: &MessageDescriptor, bytes: &[u8], depth: usize, path: &mut Path) {
    match DynamicMessage::decode(descriptor.clone(), bytes) {
        Ok(message) => check(&message, depth, path),
        Err(error) => path.fault(format!("not a valid {}: {error}", descriptor.full_name())),
    }
}

fn check(message: &DynamicMessage, depth: usize, path: &mut Path) {
    let descriptor = message.descriptor();
    let of = descriptor.full_name();
    for unknown in message.unknown_fields() {
        let name = match outside::field_outside(of, unknown.number()) {
            Some(name) => name.to_owned(),
            None => format!("field {}", unknown.number()),
        };
        path.fault_at(&name, format!("not supported in {of}"));
        if path.is_full() {
            return;
        }
    }
    if of == "google.protobuf.Any" {
        check_any(message, depth, path);
        return;
    }
    for (field, value) in message.fields() {
        path.field(field.name(), |path| check_value(&field.kind(), value, depth, path));
    }
}

fn check_value(kind: &Kind, value: &Value, depth: usize, path: &mut Path) {
    match value {
        Value::Message(message) => check(message, depth, path),
        Value::EnumNumber(number) => {
            if let Kind::Enum(kind) = kind
                && kind.get_value(*number).is_none()
            {
                path.fault(format!("unknown value {number} of {}", kind.full_name()));
            }
        }
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                if path.is_full() {
                    return;
                }
                path.index(index, |path| check_value(kind, item, depth, path));
            }
        }
        Value::Map(entries) => {
            let Kind::Message(entry) = kind else { return };
            let kind = entry.map_entry_value_field().kind();
            // A hash table has no order of its own; reports must be the same each time.
            let mut entries: Vec<_> = entries.iter().map(|(key, item)| (map_key(key), item)).collect();
            entries.sort_by(|(left, _), (right, _)| left.cmp(right));
            for (key, item) in entries {
                path.key(&key, |path| check_value(&kind, item, depth, path));
            }
        }
        Value::Bool(_)
        | Value::I32(_)
        | Value::I64(_)
        | Value::U32(_)
        | Value::U64(_)
        | Value::F32(_)
        | Value::F64(_)
        | Value::String(_)
        | Value::Bytes(_) => {}
    }
}

/// A map's key as text.
fn map_key(key: &MapKey) -> String {
    match key {
        MapKey::String(key) => key.clone(),
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
    }
}

fn check_any(any: &DynamicMessage, depth: usize, path: &mut Path) {
    let Ok(any) = any.transcode_to::<Any>() else {
        path.fault("not a valid google.protobuf.Any");
        return;
    };
    if depth >= MAX_ANY_DEPTH {
        path.fault(format!("extensions are nested more than {MAX_ANY_DEPTH} deep"));
        return;
    }
    match type_url::extension(&any.type_url).and_then(pool::message) {
        Some(descriptor) => check_bytes(&descriptor, &any.value, depth + 1, path),
        None => path.fault(format!("extension {} is not supported", quoted(&any.type_url))),
    }
}

#[cfg(test)]
mod tests;

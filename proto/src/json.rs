//! The protobuf JSON mapping, read from YAML or JSON and written as JSON.
//!
//! The walk is our own, so that every fault is found and named by its path in one go; the well-known types
//! (durations, wrappers, structs) and the writing are left to `prost-reflect`.

mod scalar;
mod text;

use prost::{Message, Name};
use prost_reflect::{Cardinality, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};
use prost_types::Any;
use serde_json::Value as Json;

use crate::fault::{Fault, Path, quoted};
use crate::yaml::MAX_DEPTH;
use crate::{outside, pool, type_url};

/// Longest key that can be the name of a field, bytes.
const MAX_NAME_BYTES: usize = 64;

/// Reads one message from YAML (of which JSON is a part).
///
/// # Errors
/// All faults, with the paths of the fields; a syntax error with its line and column.
pub fn from_yaml<M: Message + Name + Default>(text: &str) -> Result<M, Vec<Fault>> {
    from_yaml_seen(text, |_| ())
}

/// The same, `see` being shown the text's JSON form before it becomes a message.
///
/// # Errors
/// As [`from_yaml`].
pub fn from_yaml_seen<M: Message + Name + Default>(
    text: &str,
    see: impl FnOnce(&Json),
) -> Result<M, Vec<Fault>> {
    let json = text::read(text)?;
    let message = dynamic::<M>(&json)?;
    see(&json);
    // Each form of a large configuration goes before the next one comes.
    drop(json);
    typed(message)
}

/// Reads one message from its JSON form.
///
/// # Errors
/// All faults, with the paths of the fields.
pub fn from_json<M: Message + Name + Default>(json: &Json) -> Result<M, Vec<Fault>> {
    typed(dynamic::<M>(json)?)
}

fn dynamic<M: Message + Name>(json: &Json) -> Result<DynamicMessage, Vec<Fault>> {
    let mut path = Path::root();
    let name = M::full_name();
    let Some(descriptor) = pool::message(&name) else {
        path.fault(format!("{name} is not in the supported subset"));
        return path.finish(None);
    };
    let message = message(&descriptor, json, 0, &mut path);
    path.finish(message)
}

/// The wire's own limits hold for a file too: text nests deeper in a `Struct` than an encoded message may, for one.
fn typed<M: Message + Default>(message: DynamicMessage) -> Result<M, Vec<Fault>> {
    let encoded = message.encode_to_vec();
    drop(message);
    M::decode(encoded.as_slice()).map_err(|error| vec![Fault::new("", error.to_string())])
}

/// The JSON form of a message, with field names as in the `.proto` files.
///
/// # Errors
/// When the message holds an extension that is not in the subset.
pub fn to_json<M: Message + Name>(value: &M) -> Result<Json, Fault> {
    let fault = |reason: String| Fault::new("", reason);
    let name = M::full_name();
    let descriptor =
        pool::message(&name).ok_or_else(|| fault(format!("{name} is not in the supported subset")))?;
    let mut message = DynamicMessage::new(descriptor);
    message.transcode_from(value).map_err(|error| fault(error.to_string()))?;
    let options = prost_reflect::SerializeOptions::new().use_proto_field_name(true);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| fault(error.to_string()))
}

/// How YAML is read: one document, no key twice, only `true` and `false` as booleans (YAML 1.2), and bounds that an
/// "alias bomb" runs into.
fn message(
    descriptor: &MessageDescriptor,
    json: &Json,
    depth: usize,
    path: &mut Path,
) -> Option<DynamicMessage> {
    if depth > MAX_DEPTH {
        return path.refuse(format!("nested more than {MAX_DEPTH} deep"));
    }
    match descriptor.full_name() {
        "google.protobuf.Any" => return any(descriptor, json, depth, path),
        name if name.starts_with("google.protobuf.") => return scalar::well_known(descriptor, json, path),
        _ => {}
    }
    let Json::Object(entries) = json else {
        return path.refuse(format!("expected a mapping ({}), found {}", descriptor.name(), kind_of(json)));
    };
    let mut message = DynamicMessage::new(descriptor.clone());
    // Numbers of the fields that were set: one that is set to its default looks unset in the message.
    let mut set = Vec::new();
    for (key, json) in entries {
        let Some(field) = find(descriptor, key) else {
            unknown_field(descriptor, key, path);
            continue;
        };
        if is_unset(&field, json) {
            continue;
        }
        path.field(field.name(), |path| {
            if let Some(other) = set_beside(&field, &set) {
                path.fault(format!("set beside {other}; only one of them may be set, and only once"));
            } else if let Some(value) = field_value(&field, json, depth, path) {
                message.set_field(&field, value);
            }
        });
        set.push(field);
    }
    Some(message)
}

/// Whether `null` leaves the field alone; only a `google.protobuf.Value` can hold it.
fn is_unset(field: &FieldDescriptor, json: &Json) -> bool {
    let holds_null =
        matches!(field.kind(), Kind::Message(kind) if kind.full_name() == "google.protobuf.Value");
    json.is_null() && !(holds_null && !field.is_list() && !field.is_map())
}

/// A field by its name in the `.proto` file or by its lowerCamelCase name.
fn find(descriptor: &MessageDescriptor, key: &str) -> Option<FieldDescriptor> {
    descriptor.get_field_by_name(key).or_else(|| descriptor.get_field_by_json_name(key))
}

/// The name of a field that was set already and excludes this one: itself, or another of the same `oneof`.
fn set_beside(field: &FieldDescriptor, set: &[FieldDescriptor]) -> Option<String> {
    let oneof = field.containing_oneof();
    let other =
        set.iter().find(|other| *other == field || (oneof.is_some() && other.containing_oneof() == oneof))?;
    Some(other.name().to_owned())
}

fn unknown_field(descriptor: &MessageDescriptor, key: &str, path: &mut Path) {
    let shown = quoted(key);
    // A name that could be one stands in the path as it is; anything else only as a quoted text.
    let is_name =
        key.len() <= MAX_NAME_BYTES && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if is_name && !key.is_empty() {
        path.fault_at(key, unknown_field_reason(descriptor, key));
    } else {
        path.fault(format!("unknown field {shown} of {}", descriptor.name()));
    }
}

fn unknown_field_reason(descriptor: &MessageDescriptor, key: &str) -> String {
    if outside::is_outside(descriptor.full_name(), key) {
        return format!("not supported: this field of {} is outside Outrider's subset", descriptor.name());
    }
    let near = descriptor
        .fields()
        .map(|field| {
            let distance = edit_distance(field.name(), key).min(edit_distance(field.json_name(), key));
            (distance, field.name().to_owned())
        })
        .min()
        .filter(|(distance, _)| *distance <= 2);
    match near {
        Some((_, name)) => format!("unknown field of {}; did you mean \"{name}\"?", descriptor.name()),
        None => format!("not supported: {} has no such field", descriptor.name()),
    }
}

/// How many letters must change to make one name the other.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut last = i + 1;
        for (cell, right) in row.iter_mut().skip(1).zip(b.chars()) {
            let above = *cell;
            let changed = diagonal + usize::from(left != right);
            last = changed.min(above + 1).min(last + 1);
            diagonal = above;
            *cell = last;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

fn field_value(field: &FieldDescriptor, json: &Json, depth: usize, path: &mut Path) -> Option<Value> {
    if field.is_map() {
        return map(field, json, depth, path);
    }
    if field.cardinality() != Cardinality::Repeated {
        return single(&field.kind(), json, depth, path);
    }
    let Json::Array(items) = json else {
        return path.refuse(format!("expected a list, found {}", kind_of(json)));
    };
    let values = items.iter().enumerate();
    let values =
        values.filter_map(|(index, item)| path.index(index, |path| single(&field.kind(), item, depth, path)));
    Some(Value::List(values.collect()))
}

fn map(field: &FieldDescriptor, json: &Json, depth: usize, path: &mut Path) -> Option<Value> {
    let (Json::Object(entries), Kind::Message(entry)) = (json, field.kind()) else {
        return path.refuse(format!("expected a mapping, found {}", kind_of(json)));
    };
    let kind = entry.map_entry_value_field().kind();
    let values = entries.iter().filter_map(|(key, json)| {
        let value = path.key(key, |path| single(&kind, json, depth, path))?;
        Some((MapKey::String(key.clone()), value))
    });
    Some(Value::Map(values.collect()))
}

fn single(kind: &Kind, json: &Json, depth: usize, path: &mut Path) -> Option<Value> {
    if let Kind::Message(descriptor) = kind {
        message(descriptor, json, depth + 1, path).map(Value::Message)
    } else {
        scalar::value(kind, json, path)
    }
}

fn any(descriptor: &MessageDescriptor, json: &Json, depth: usize, path: &mut Path) -> Option<DynamicMessage> {
    let Json::Object(entries) = json else {
        return path.refuse(format!("expected a mapping with \"@type\", found {}", kind_of(json)));
    };
    let Some(Json::String(url)) = entries.get("@type") else {
        return path.refuse("\"@type\" is missing");
    };
    let Some(inner) = type_url::extension(url).and_then(pool::message) else {
        return path.refuse(format!("extension {} is not supported", quoted(url)));
    };
    let mut rest = entries.clone();
    rest.remove("@type");
    let inner = message(&inner, &Json::Object(rest), depth + 1, path)?;
    let any = Any { type_url: url.clone(), value: inner.encode_to_vec() };
    let mut message = DynamicMessage::new(descriptor.clone());
    message.transcode_from(&any).ok()?;
    Some(message)
}

/// A JSON value as it is shown in a reason, cut when it is long.
fn shown(json: &Json) -> String {
    match json {
        Json::String(text) => quoted(text),
        Json::Number(_) | Json::Bool(_) => json.to_string(),
        Json::Null | Json::Array(_) | Json::Object(_) => kind_of(json).to_owned(),
    }
}

/// What a JSON value is, in words.
fn kind_of(json: &Json) -> &'static str {
    match json {
        Json::Null => "nothing",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "a list",
        Json::Object(_) => "a mapping",
    }
}

#[cfg(test)]
mod tests;

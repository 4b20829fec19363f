//! The protobuf JSON mapping, read from YAML or JSON and written as JSON.
//!
//! The walk is our own, so that every fault is found and named by its path in one go; the well-known types
//! (durations, wrappers, structs) and the writing are left to `prost-reflect`.

mod scalar;

use prost::{Message, Name};
use prost_reflect::{Cardinality, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};
use prost_types::Any;
use serde_json::Value as Json;

use crate::fault::{Fault, Path};
use crate::{pool, type_url};

/// Messages nested deeper than this are refused.
const MAX_DEPTH: usize = 64;

/// Reads one message from YAML (of which JSON is a part).
///
/// # Errors
/// All faults, with the paths of the fields; a syntax error with its line and column.
pub fn from_yaml<M: Message + Name + Default>(text: &str) -> Result<M, Vec<Fault>> {
    let json: Json = serde_saphyr::from_str(text)
        .map_err(|error| vec![Fault::new("", format!("not valid YAML: {error}"))])?;
    from_json(&json)
}

/// Reads one message from its JSON form.
///
/// # Errors
/// All faults, with the paths of the fields.
pub fn from_json<M: Message + Name + Default>(json: &Json) -> Result<M, Vec<Fault>> {
    let mut path = Path::root();
    let name = M::full_name();
    let Some(descriptor) = pool::message(&name) else {
        path.fault(format!("{name} is not in the supported subset"));
        return path.finish(None);
    };
    let message = message(&descriptor, json, 0, &mut path);
    let typed = message.and_then(|message| message.transcode_to::<M>().ok());
    path.finish(typed)
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
    message
        .transcode_from(value)
        .map_err(|error| fault(error.to_string()))?;
    let options = prost_reflect::SerializeOptions::new().use_proto_field_name(true);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| fault(error.to_string()))
}

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
        return path.refuse(format!(
            "expected a mapping ({}), found {}",
            descriptor.name(),
            kind_of(json)
        ));
    };
    let mut message = DynamicMessage::new(descriptor.clone());
    for (key, json) in entries {
        path.field(key, |path| match find(descriptor, key) {
            Some(_) if json.is_null() => {}
            Some(field) if is_set_already(&message, &field) => {
                path.fault("set twice, or beside another field of which only one may be set");
            }
            Some(field) => {
                if let Some(value) = field_value(&field, json, depth, path) {
                    message.set_field(&field, value);
                }
            }
            None => path.fault(unknown_field(descriptor, key)),
        });
    }
    Some(message)
}

/// A field by its name in the `.proto` file or by its lowerCamelCase name.
fn find(descriptor: &MessageDescriptor, key: &str) -> Option<FieldDescriptor> {
    descriptor
        .get_field_by_name(key)
        .or_else(|| descriptor.get_field_by_json_name(key))
}

fn is_set_already(message: &DynamicMessage, field: &FieldDescriptor) -> bool {
    message.has_field(field)
        || field.containing_oneof().is_some_and(|oneof| {
            oneof
                .fields()
                .any(|other| other.supports_presence() && message.has_field(&other))
        })
}

fn unknown_field(descriptor: &MessageDescriptor, key: &str) -> String {
    let near = descriptor
        .fields()
        .map(|field| (edit_distance(field.name(), key), field.name().to_owned()))
        .min()
        .filter(|(distance, _)| *distance <= 2);
    match near {
        Some((_, name)) => format!("unknown field of {}; did you mean \"{name}\"?", descriptor.name()),
        None => format!(
            "not supported: {} has no such field in Outrider's subset",
            descriptor.name()
        ),
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
        let value = path.field(&format!("[\"{key}\"]"), |path| single(&kind, json, depth, path))?;
        Some((MapKey::String(key.clone()), value))
    });
    Some(Value::Map(values.collect()))
}

fn single(kind: &Kind, json: &Json, depth: usize, path: &mut Path) -> Option<Value> {
    match kind {
        Kind::Message(descriptor) => message(descriptor, json, depth + 1, path).map(Value::Message),
        kind => scalar::value(kind, json, path),
    }
}

fn any(descriptor: &MessageDescriptor, json: &Json, depth: usize, path: &mut Path) -> Option<DynamicMessage> {
    let Json::Object(entries) = json else {
        return path.refuse(format!(
            "expected a mapping with \"@type\", found {}",
            kind_of(json)
        ));
    };
    let Some(Json::String(url)) = entries.get("@type") else {
        return path.refuse("\"@type\" is missing");
    };
    let Some(inner) = type_url::extension(url).and_then(pool::message) else {
        return path.refuse(format!("extension \"{url}\" is not supported"));
    };
    let mut rest = entries.clone();
    rest.remove("@type");
    let inner = message(&inner, &Json::Object(rest), depth + 1, path)?;
    let any = Any {
        type_url: url.clone(),
        value: inner.encode_to_vec(),
    };
    let mut message = DynamicMessage::new(descriptor.clone());
    message.transcode_from(&any).ok()?;
    Some(message)
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

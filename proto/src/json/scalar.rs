//! Single values of the JSON mapping.

use prost_reflect::{DynamicMessage, EnumDescriptor, Kind, MessageDescriptor, Value};
use serde_json::Value as Json;

use super::kind_of;
use crate::fault::Path;
use crate::pool;

/// A scalar or an enum.
pub(super) fn value(kind: &Kind, json: &Json, path: &mut Path) -> Option<Value> {
    match kind {
        Kind::Bool => json
            .as_bool()
            .map(Value::Bool)
            .or_else(|| expected("true or false", json, path)),
        Kind::String => match json {
            Json::String(text) => Some(Value::String(text.clone())),
            _ => expected("a string (put it in quotes)", json, path),
        },
        Kind::Enum(kind) => enumeration(kind, json, path),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => whole(json)
            .and_then(|number| i32::try_from(number).ok())
            .map(Value::I32)
            .or_else(|| integer(32, json, path)),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => whole(json)
            .and_then(|number| i64::try_from(number).ok())
            .map(Value::I64)
            .or_else(|| integer(64, json, path)),
        Kind::Uint32 | Kind::Fixed32 => whole(json)
            .and_then(|number| u32::try_from(number).ok())
            .map(Value::U32)
            .or_else(|| unsigned(32, json, path)),
        Kind::Uint64 | Kind::Fixed64 => whole(json)
            .and_then(|number| u64::try_from(number).ok())
            .map(Value::U64)
            .or_else(|| unsigned(64, json, path)),
        Kind::Float | Kind::Double | Kind::Bytes => wrapped(kind, json, path),
        Kind::Message(_) => expected("a mapping", json, path),
    }
}

/// A message that has a JSON form of its own: durations, wrappers, structs.
pub(super) fn well_known(
    descriptor: &MessageDescriptor,
    json: &Json,
    path: &mut Path,
) -> Option<DynamicMessage> {
    match DynamicMessage::deserialize(descriptor.clone(), json) {
        Ok(message) => Some(message),
        Err(error) => {
            let wanted = match descriptor.name() {
                "Duration" => "a duration such as \"1.5s\"",
                "UInt32Value" => "a whole number from 0 to 4294967295",
                "BoolValue" => "true or false",
                name => name,
            };
            path.refuse(format!("expected {wanted}: {error}"))
        }
    }
}

/// Floating point and bytes, by way of the wrapper type that holds the same.
fn wrapped(kind: &Kind, json: &Json, path: &mut Path) -> Option<Value> {
    let wrapper = match kind {
        Kind::Bytes => "google.protobuf.BytesValue",
        _ => "google.protobuf.DoubleValue",
    };
    let message = well_known(&pool::message(wrapper)?, json, path)?;
    let value = message.get_field_by_name("value")?.into_owned();
    match (kind, value) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "single precision is what the field holds"
        )]
        (Kind::Float, Value::F64(number)) => Some(Value::F32(number as f32)),
        (_, value) => Some(value),
    }
}

/// A whole number, written as such, as a float without a fraction, or as a string (as the mapping does for 64 bits).
fn whole(json: &Json) -> Option<i128> {
    match json {
        Json::Number(number) => {
            let exact = number
                .as_i64()
                .map(i128::from)
                .or_else(|| number.as_u64().map(i128::from));
            #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and in range")]
            exact.or_else(|| {
                number
                    .as_f64()
                    .filter(|float| float.fract() == 0.0 && float.abs() < 9e15)
                    .map(|float| float as i128)
            })
        }
        Json::String(text) => text.parse().ok(),
        Json::Null | Json::Bool(_) | Json::Array(_) | Json::Object(_) => None,
    }
}

fn enumeration(kind: &EnumDescriptor, json: &Json, path: &mut Path) -> Option<Value> {
    let known = match json {
        Json::String(name) => kind.get_value_by_name(name),
        json => whole(json)
            .and_then(|number| i32::try_from(number).ok())
            .and_then(|number| kind.get_value(number)),
    };
    if let Some(known) = known {
        return Some(Value::EnumNumber(known.number()));
    }
    let names: Vec<String> = kind.values().map(|value| value.name().to_owned()).collect();
    path.refuse(format!("{json} is not supported; one of {}", names.join(", ")))
}

fn integer<T>(bits: u32, json: &Json, path: &mut Path) -> Option<T> {
    expected(&format!("a whole number of {bits} bits"), json, path)
}

fn unsigned<T>(bits: u32, json: &Json, path: &mut Path) -> Option<T> {
    expected(
        &format!("a whole number of {bits} bits, not negative"),
        json,
        path,
    )
}

fn expected<T>(what: &str, json: &Json, path: &mut Path) -> Option<T> {
    match json {
        Json::Number(_) | Json::String(_) | Json::Bool(_) => {
            path.refuse(format!("expected {what}, found {json}"))
        }
        Json::Null | Json::Array(_) | Json::Object(_) => {
            path.refuse(format!("expected {what}, found {}", kind_of(json)))
        }
    }
}

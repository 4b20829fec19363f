//! Single values of the JSON mapping.

use prost_reflect::{DynamicMessage, EnumDescriptor, Kind, MessageDescriptor, Value};
use prost_types::Duration;
use serde_json::Value as Json;

use super::shown;
use crate::fault::Path;
use crate::pool;

/// A scalar or an enum.
pub(super) fn value(kind: &Kind, json: &Json, path: &mut Path) -> Option<Value> {
    match kind {
        Kind::Bool => json.as_bool().map(Value::Bool).or_else(|| expected("true or false", json, path)),
        Kind::String => match json.as_str() {
            Some(text) => Some(Value::String(text.to_owned())),
            None => expected("a string (put it in quotes)", json, path),
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

/// Longest `google.protobuf.Duration` either way, seconds: 10,000 years.
const MAX_DURATION_SECONDS: i64 = 315_576_000_000;

/// Digits of a second's fraction that a `google.protobuf.Duration` holds.
const FRACTION_DIGITS: usize = 9;

/// A duration such as `1.5s`. Our own: what `prost-reflect` reads is wider than the mapping, and a unit that is
/// taken for another is a timeout that is off by orders of magnitude.
fn duration(json: &Json) -> Option<Duration> {
    let text = json.as_str()?.strip_suffix('s')?;
    let (sign, text) = match text.strip_prefix('-') {
        Some(text) => (-1, text),
        None => (1, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || fraction.len() > FRACTION_DIGITS {
        return None;
    }
    let seconds: i64 = whole.parse().ok().filter(|seconds| *seconds <= MAX_DURATION_SECONDS)?;
    let nanos: i32 = format!("{fraction:0<FRACTION_DIGITS$}").parse().ok()?;
    (seconds < MAX_DURATION_SECONDS || nanos == 0)
        .then_some(Duration { seconds: i64::from(sign) * seconds, nanos: sign * nanos })
}

/// A message that has a JSON form of its own: durations, wrappers, structs.
pub(super) fn well_known(
    descriptor: &MessageDescriptor,
    json: &Json,
    path: &mut Path,
) -> Option<DynamicMessage> {
    let mut message = DynamicMessage::new(descriptor.clone());
    match descriptor.name() {
        "Duration" => {
            let Some(duration) = duration(json) else {
                return expected("a duration in seconds such as \"1.5s\"", json, path);
            };
            message.transcode_from(&duration).ok()?;
        }
        "BoolValue" | "StringValue" | "Int32Value" | "Int64Value" | "UInt32Value" | "UInt64Value" => {
            let field = descriptor.get_field_by_name("value")?;
            message.set_field(&field, value(&field.kind(), json, path)?);
        }
        name => match DynamicMessage::deserialize(descriptor.clone(), json) {
            Ok(read) => message = read,
            Err(error) => return path.refuse(format!("expected {name}: {error}")),
        },
    }
    Some(message)
}

/// Floating point and bytes, by way of the wrapper type that holds the same.
fn wrapped(kind: &Kind, json: &Json, path: &mut Path) -> Option<Value> {
    let wrapper = if matches!(kind, Kind::Bytes) {
        "google.protobuf.BytesValue"
    } else {
        "google.protobuf.DoubleValue"
    };
    let message = well_known(&pool::message(wrapper)?, json, path)?;
    let value = message.get_field_by_name("value")?.into_owned();
    match (kind, value) {
        #[expect(clippy::cast_possible_truncation, reason = "single precision is what the field holds")]
        (Kind::Float, Value::F64(number)) => Some(Value::F32(number as f32)),
        (_, value) => Some(value),
    }
}

/// A whole number, written as such, as a float without a fraction, or as a string (as the mapping does for 64 bits).
fn whole(json: &Json) -> Option<i128> {
    match json {
        Json::Number(number) => {
            let exact = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
            #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and in range")]
            exact.or_else(|| {
                number
                    .as_f64()
                    .filter(|float| float.fract() == 0.0 && float.abs() < 9e15)
                    .map(|float| float as i128)
            })
        }
        // As a JSON number is written: no sign but the minus, and no leading zero that could mean octal.
        Json::String(text) => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let is_plain = digits == "0" || !digits.starts_with(['0', '+', '-']);
            text.parse().ok().filter(|_| is_plain)
        }
        Json::Null | Json::Bool(_) | Json::Array(_) | Json::Object(_) => None,
    }
}

fn enumeration(kind: &EnumDescriptor, json: &Json, path: &mut Path) -> Option<Value> {
    let known = if let Json::String(name) = json {
        kind.get_value_by_name(name)
    } else {
        whole(json).and_then(|number| i32::try_from(number).ok()).and_then(|number| kind.get_value(number))
    };
    if let Some(known) = known {
        return Some(Value::EnumNumber(known.number()));
    }
    let names: Vec<String> = kind.values().map(|value| value.name().to_owned()).collect();
    path.refuse(format!("{} is not supported; one of {}", shown(json), names.join(", ")))
}

fn integer<T>(bits: u32, json: &Json, path: &mut Path) -> Option<T> {
    expected(&format!("a whole number of {bits} bits"), json, path)
}

fn unsigned<T>(bits: u32, json: &Json, path: &mut Path) -> Option<T> {
    expected(&format!("a whole number of {bits} bits, not negative"), json, path)
}

fn expected<T>(what: &str, json: &Json, path: &mut Path) -> Option<T> {
    path.refuse(format!("expected {what}, found {}", shown(json)))
}

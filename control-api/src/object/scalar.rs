//! Small values with a form of their own: durations, addresses, ports by number or name.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

/// A duration as in Gateway API (GEP-2257): `1h30m`, `500ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// The form of [`Span`], for schemas.
const SPAN_PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";
const SPAN_RULE: &str = "a duration like 1h30m, 10s or 500ms, a year (8760h) at most";
/// Longest duration; what is meant to be longer is 0, for ever.
const MAX_SPAN: Duration = Duration::from_secs(8760 * 3600);

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut total = Duration::ZERO;
        let mut rest = text;
        for _ in 0..4 {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at_checked(digits).ok_or(SPAN_RULE)?;
            if !(1..=5).contains(&digits) {
                return Err(SPAN_RULE);
            }
            let number: u64 = number.parse().map_err(|_| SPAN_RULE)?;
            let units = [("ms", 1_u64), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
            let (unit, factor) = units.iter().find(|(unit, _)| tail.starts_with(unit)).ok_or(SPAN_RULE)?;
            total += Duration::from_millis(number.saturating_mul(*factor));
            rest = tail.strip_prefix(unit).ok_or(SPAN_RULE)?;
            if rest.is_empty() {
                return if total <= MAX_SPAN { Ok(Self(total)) } else { Err(SPAN_RULE) };
            }
        }
        Err(SPAN_RULE)
    }
}

/// An address or a range of addresses: `10.0.0.0/8`, `2001:db8::1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// Its first address, or any in it.
    pub address: IpAddr,
    /// How many bits count.
    pub bits: u8,
}

impl FromStr for Cidr {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "an IP address or a range like 10.0.0.0/8";
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| RULE)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| RULE)?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        match bits.unwrap_or(longest) {
            bits if bits <= longest => Ok(Self { address, bits }),
            _ => Err(RULE),
        }
    }
}

/// A share in percent, from 0 to 100, with up to four decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent {
    /// In parts of a million, from 0 to a million.
    pub millionths: u32,
}

impl Percent {
    /// All.
    pub const ALL: Self = Self { millionths: 1_000_000 };
}

impl FromStr for Percent {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "a number from 0 to 100 with four decimals at most";
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits =
            |text: &str| (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(decimals) {
            return Err(RULE);
        }
        let parts = format!("{whole}{decimals:0<4}").parse().map_err(|_| RULE)?;
        let share = Self { millionths: parts };
        if share <= Self::ALL { Ok(share) } else { Err(RULE) }
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        number.to_string().parse().map_err(|rule| de::Error::custom(format!("{number} is not {rule}")))
    }
}

impl JsonSchema for Percent {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Percent".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "number", "minimum": 0, "maximum": 100})
    }
}

/// A port of a workload, by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortRef {
    /// Its number.
    Number(u16),
    /// Its name.
    Name(String),
}

impl<'de> Deserialize<'de> for PortRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = PortRef;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port from 1 to 65535, or the name of one")
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<PortRef, E> {
                match u16::try_from(value) {
                    Ok(port) if port > 0 => Ok(PortRef::Number(port)),
                    _ => Err(E::invalid_value(de::Unexpected::Unsigned(value), &self)),
                }
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<PortRef, E> {
                Ok(PortRef::Name(value.to_owned()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

macro_rules! from_text {
    ($type:ty, $name:literal, $rule:expr, $schema:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(|rule| de::Error::custom(format!("{text:?} is not {rule}")))
            }
        }
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

from_text!(Span, "Duration", SPAN_RULE, json_schema!({"type": "string", "pattern": SPAN_PATTERN}));
from_text!(Cidr, "Cidr", "", json_schema!({"type": "string", "maxLength": 43}));

//! Text to a tree of values, before fields and types are looked at.
//!
//! What is JSON is read as JSON, several times faster than as the YAML that it also is: a configuration of 10,000
//! services is written by a program. Whatever that reader does not take is read as YAML, whose reader says what is wrong.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value as Json};

use crate::fault::Fault;
use crate::yaml::{MAX_DEPTH, MAX_NODES, options, said};

/// Largest text that is read, bytes.
const MAX_TEXT_BYTES: usize = 32 << 20;

/// Reads a text of JSON or YAML.
pub(super) fn read(text: &str) -> Result<Json, Vec<Fault>> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(vec![Fault::new("", format!("longer than {MAX_TEXT_BYTES} bytes"))]);
    }
    json(text).map_or_else(|| yaml(text), Ok)
}

fn json(text: &str) -> Option<Json> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let left = Cell::new(MAX_NODES);
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Node { left: &left, depth: 0 }.deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    Some(value)
}

fn yaml(text: &str) -> Result<Json, Vec<Fault>> {
    serde_saphyr::from_str_with_options(text, options())
        .map_err(|error| vec![Fault::new("", format!("not valid YAML: {}", said(&error, 1)))])
}

/// A value under the bounds that hold for YAML; a key that stands twice in a mapping is refused as there.
#[derive(Clone, Copy)]
struct Node<'a> {
    /// How many more values there may be.
    left: &'a Cell<usize>,
    depth: usize,
}

impl Node<'_> {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        let depth = self.depth + 1;
        if depth > MAX_DEPTH { Err(E::custom("too deep")) } else { Ok(Self { depth, ..self }) }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        let left = self.left.get().checked_sub(1).ok_or_else(|| D::Error::custom("too many values"))?;
        self.left.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Json;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value of JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json, E> {
        Number::from_f64(value).map(Json::Number).ok_or_else(|| E::custom("not a number of JSON"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Json, E> {
        Ok(Json::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let inner = self.deeper()?;
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(inner)? {
            values.push(value);
        }
        Ok(Json::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut mapping: A) -> Result<Json, A::Error> {
        let inner = self.deeper()?;
        let mut values = Map::new();
        while let Some(key) = mapping.next_key::<String>()? {
            let value = mapping.next_value_seed(inner)?;
            if values.insert(key, value).is_some() {
                return Err(A::Error::custom("a key stands twice"));
            }
        }
        Ok(Json::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<u64>().prop_map(Json::from),
            // With more digits than anybody configures the readers may differ in the last place.
            (-1_000_000_i32..1_000_000).prop_map(|thousandths| Json::from(f64::from(thousandths) / 1000.0)),
            "[ -~äλ\n\t\"\\\\]{0,12}".prop_map(Json::from),
        ];
        let tree = leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Json::from),
                prop::collection::btree_map("[a-z@_]{1,6}", inner, 0..5)
                    .prop_map(|map| Json::Object(map.into_iter().collect())),
            ]
        });
        prop::collection::btree_map("[a-z@_]{1,6}", tree, 0..5)
            .prop_map(|map| Json::Object(map.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn json_reads_the_same_by_either_reader(value in value()) {
            let text = value.to_string();
            let json = json(&text).unwrap();
            prop_assert_eq!(&json, &value);
            prop_assert_eq!(json, yaml(&text).unwrap());
        }
    }

    #[test]
    fn what_is_not_quite_json_is_left_to_yaml() {
        for text in ["{a: 1}", "{\"a\": 1} x", "{\"a\": 1, \"a\": 2}", "[1]", "{\"a\": .5}"] {
            assert!(json(text).is_none(), "{text}");
        }
        assert!(read("{a: 1}").is_ok());
        let twice = read("{\"a\": 1, \"a\": 2}").unwrap_err();
        assert!(twice[0].to_string().contains("duplicate"), "{twice:?}");
    }

    #[test]
    fn depth_and_number_are_bounded() {
        let deep = format!("{{\"a\": {}1{}}}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        assert!(json(&deep).is_none());
        assert!(read(&deep).is_err());
        let wide = format!("{{\"a\": [{}1]}}", "1,".repeat(MAX_NODES));
        assert!(json(&wide).is_none());
        assert!(read(&wide).is_err());
    }
}

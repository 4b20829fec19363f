//! Whole messages, made at random from the descriptors, go through every form and come out the same: typed, bytes,
//! strict decoding, JSON, text. A field that one of them does not handle cannot hide.

use proptest::prelude::*;
use std::collections::BTreeSet;

use prost::{Message, Name};
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value,
};
use prost_types::Any;

use crate::envoy::config::bootstrap::v3::Bootstrap;
use crate::envoy::config::cluster::v3::Cluster;
use crate::envoy::config::endpoint::v3::ClusterLoadAssignment;
use crate::envoy::config::listener::v3::Listener;
use crate::envoy::config::route::v3::RouteConfiguration;
use crate::{json, pool, strict, type_url};

/// Below this, fields that hold messages are left out.
const DEPTH: usize = 12;

/// Texts that a careless reader takes for something else.
const TEXTS: [&str; 12] =
    ["", "a", "true", "no", "null", "~", "0755", "1e3", "1.5s", "a\"b\\c\n\t", "\u{e9}\u{1f980}", "@type: x"];

/// A small generator of numbers (splitmix64), so that one seed makes one message.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// A message with random fields set.
fn message(descriptor: &MessageDescriptor, depth: usize, random: &mut Random) -> DynamicMessage {
    let mut made = DynamicMessage::new(descriptor.clone());
    match descriptor.full_name() {
        "google.protobuf.Any" => {
            let name = random.pick(type_url::EXTENSIONS);
            let inner = message(&pool::message(name).unwrap(), depth + 1, random);
            let any = Any { type_url: format!("{}{name}", type_url::PREFIX), value: inner.encode_to_vec() };
            made.transcode_from(&any).unwrap();
        }
        "google.protobuf.Duration" => {
            let sign = random.pick(&[-1, 1]);
            let nanos = random.pick(&[0, 1, 500_000_000, 999_999_999]);
            let seconds = random.pick(&[0, 1, 315_575_999_999]);
            let time = prost_types::Duration {
                seconds: sign * seconds,
                nanos: i32::try_from(sign * nanos).unwrap(),
            };
            made.transcode_from(&time).unwrap();
        }
        "google.protobuf.Value" => {
            let kinds: Vec<_> = descriptor.fields().filter(|field| depth < DEPTH || scalar(field)).collect();
            let field = &kinds[random.below(kinds.len())];
            made.set_field(field, value(field, depth, random));
        }
        _ => {
            for field in chosen(descriptor, random) {
                if depth < DEPTH || scalar(&field) {
                    made.set_field(&field, value(&field, depth, random));
                }
            }
        }
    }
    made
}

/// Which fields to set: two of three, and of a `oneof` one at most, each as likely as the others.
fn chosen(descriptor: &MessageDescriptor, random: &mut Random) -> Vec<FieldDescriptor> {
    let mut chosen: Vec<_> = descriptor.fields().filter(|field| field.containing_oneof().is_none()).collect();
    for oneof in descriptor.oneofs() {
        let members: Vec<_> = oneof.fields().collect();
        chosen.push(members[random.below(members.len())].clone());
    }
    chosen.retain(|_| random.below(3) > 0);
    chosen
}

fn scalar(field: &FieldDescriptor) -> bool {
    !matches!(field.kind(), Kind::Message(_))
}

/// A value for a whole field. A map has one entry at most: the order of more is not part of an encoding.
fn value(field: &FieldDescriptor, depth: usize, random: &mut Random) -> Value {
    if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
        let kind = entry.map_entry_value_field().kind();
        let key = MapKey::String(random.pick(&TEXTS).to_owned());
        return Value::Map([(key, single(&kind, depth, random))].into());
    }
    if field.is_list() {
        let length = random.below(3);
        return Value::List((0..length).map(|_| single(&field.kind(), depth, random)).collect());
    }
    single(&field.kind(), depth, random)
}

fn single(kind: &Kind, depth: usize, random: &mut Random) -> Value {
    match kind {
        Kind::Message(descriptor) => Value::Message(message(descriptor, depth + 1, random)),
        Kind::Enum(names) => {
            let numbers: Vec<_> = names.values().map(|value| value.number()).collect();
            Value::EnumNumber(random.pick(&numbers))
        }
        Kind::String => Value::String(random.pick(&TEXTS).to_owned()),
        Kind::Bytes => Value::Bytes(random.next().to_le_bytes()[..random.below(9)].to_vec().into()),
        Kind::Bool => Value::Bool(random.below(2) == 0),
        Kind::Double => Value::F64(random.pick(&[0.0, 1.0, -1.5, 0.1, 1e300, -5e-324])),
        Kind::Float => Value::F32(random.pick(&[0.0, 1.0, -1.5, 0.1])),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(random.pick(&[0, 1, i32::MIN, i32::MAX])),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(random.pick(&[0, 1, i64::MIN, i64::MAX])),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(random.pick(&[0, 1, u32::MAX])),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(random.pick(&[0, 1, u64::MAX])),
    }
}

fn goes_round<M: Message + Name + Default + PartialEq + std::fmt::Debug>(seed: u64) {
    let descriptor = pool::message(&M::full_name()).unwrap();
    let made = message(&descriptor, 0, &mut Random(seed));
    assert_eq!(made.descriptor(), descriptor);
    let typed: M = strict::decode(&made.encode_to_vec()).unwrap();
    let written = json::to_json(&typed).unwrap();
    let read: M = json::from_json(&written).unwrap();
    assert_eq!(read, typed, "{written:#}");
    let text = serde_json::to_string_pretty(&written).unwrap();
    let read: M = json::from_yaml(&text).unwrap();
    assert_eq!(read, typed, "{text}");
}

/// Adds the fields that are set in a message, also inside its `Any`s, to `seen`.
fn note(message: &DynamicMessage, seen: &mut BTreeSet<String>) {
    if let Ok(any) = message.transcode_to::<Any>()
        && message.descriptor().full_name() == "google.protobuf.Any"
    {
        let inner = pool::message(&any.type_url).unwrap();
        return note(&DynamicMessage::decode(inner, any.value.as_slice()).unwrap(), seen);
    }
    for (field, value) in message.fields() {
        seen.insert(field.full_name().to_owned());
        if let Some(message) = value.as_message() {
            note(message, seen);
        }
        let items = value.as_list().into_iter().flatten();
        let entries = value.as_map().into_iter().flat_map(|entries| entries.values());
        for message in items.chain(entries).filter_map(Value::as_message) {
            note(message, seen);
        }
    }
}

/// Adds the fields that a message may hold, at any depth, to `found`. Left out are those that look unset whatever
/// they hold: an enum with one number.
fn reach(descriptor: &MessageDescriptor, found: &mut BTreeSet<String>) {
    for field in descriptor.fields() {
        let kind = field.kind();
        if kind.as_enum().is_some_and(|names| names.values().len() == 1) {
            continue;
        }
        let is_new = descriptor.is_map_entry() || found.insert(field.full_name().to_owned());
        if let (true, Kind::Message(inner)) = (is_new, kind)
            && !inner.full_name().starts_with("google.")
        {
            reach(&inner, found);
        }
    }
}

/// The proof below is worth something only if the messages that are made hold every field.
#[test]
fn every_field_is_made() {
    let mut missing = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let roots = [Bootstrap::full_name(), RouteConfiguration::full_name()];
    for root in roots.iter().map(String::as_str).chain(type_url::EXTENSIONS.iter().copied()) {
        let descriptor = pool::message(root).unwrap();
        reach(&descriptor, &mut missing);
        for seed in 0..1024 {
            note(&message(&descriptor, 0, &mut Random(seed)), &mut seen);
        }
    }
    missing.retain(|field| !seen.contains(field));
    assert!(missing.is_empty(), "{missing:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_message_goes_round(seed in any::<u64>()) {
        goes_round::<Bootstrap>(seed);
        goes_round::<Cluster>(seed);
        goes_round::<ClusterLoadAssignment>(seed);
        goes_round::<Listener>(seed);
        goes_round::<RouteConfiguration>(seed);
    }
}

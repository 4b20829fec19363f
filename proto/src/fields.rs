//! The list of what is in the subset, from the descriptors themselves.

use prost_reflect::{Kind, MessageDescriptor};

use crate::pool;

/// One field of the subset.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldRef {
    /// Full name of the message.
    pub message: String,
    /// Name of the field.
    pub field: String,
    /// Its number on the wire.
    pub number: u32,
    /// Full name of the message that it holds, one or many; of the values of a map. `None` for anything else.
    pub holds: Option<String>,
}

/// All fields of all messages in Envoy's packages, sorted.
#[must_use]
pub fn all_fields() -> Vec<FieldRef> {
    let mut fields: Vec<FieldRef> = pool::pool()
        .all_messages()
        .filter(|message| message.full_name().starts_with("envoy.") && !message.is_map_entry())
        .flat_map(|message: MessageDescriptor| {
            message
                .fields()
                .map(|field| FieldRef {
                    message: message.full_name().to_owned(),
                    field: field.name().to_owned(),
                    number: field.number(),
                    holds: held(&field.kind()),
                })
                .collect::<Vec<_>>()
        })
        .collect();
    fields.sort();
    fields
}

fn held(kind: &Kind) -> Option<String> {
    let message = kind.as_message()?;
    if message.is_map_entry() {
        held(&message.map_entry_value_field().kind())
    } else {
        Some(message.full_name().to_owned())
    }
}

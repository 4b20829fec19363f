//! The list of what is in the subset, from the descriptors themselves.

use prost_reflect::MessageDescriptor;

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
}

/// All fields of all messages in Envoy's packages, sorted.
#[must_use]
pub fn all_fields() -> Vec<FieldRef> {
    let mut fields: Vec<FieldRef> = pool::POOL
        .all_messages()
        .filter(|message| message.full_name().starts_with("envoy.") && !message.is_map_entry())
        .flat_map(|message: MessageDescriptor| {
            message
                .fields()
                .map(|field| FieldRef {
                    message: message.full_name().to_owned(),
                    field: field.name().to_owned(),
                    number: field.number(),
                })
                .collect::<Vec<_>>()
        })
        .collect();
    fields.sort();
    fields
}

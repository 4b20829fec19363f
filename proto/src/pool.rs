//! The descriptors of everything in this crate.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, MessageDescriptor};

static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The pool; decoded once. The bytes are made by the build script, so an undecodable set cannot be shipped: a
/// test looks types up in it. An empty pool would refuse everything, never let anything through.
pub(crate) static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).unwrap_or_default());

/// The message behind a type URL or a full name, if it is in the subset.
pub(crate) fn message(name: &str) -> Option<MessageDescriptor> {
    POOL.get_message_by_name(name.rsplit('/').next().unwrap_or(name))
}

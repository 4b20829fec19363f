//! The descriptors of everything in this crate.

use std::sync::{Mutex, PoisonError};

use prost_reflect::{DescriptorPool, MessageDescriptor};

static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

static POOL: Mutex<Option<DescriptorPool>> = Mutex::new(None);

/// The pool, decoded by whoever needs it first. The bytes are made by the build script, so an undecodable set cannot be
/// shipped: a test looks types up in it. An empty pool would refuse everything, never let anything through.
pub(crate) fn pool() -> DescriptorPool {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    pool.get_or_insert_with(|| DescriptorPool::decode(DESCRIPTORS).unwrap_or_default()).clone()
}

/// Gives back the memory of the descriptors, about 1.5 MB, until configuration is read or written again: that takes some
/// milliseconds longer then.
pub fn release() {
    POOL.lock().unwrap_or_else(PoisonError::into_inner).take();
}

/// The message behind a type URL or a full name, if it is in the subset.
pub(crate) fn message(name: &str) -> Option<MessageDescriptor> {
    pool().get_message_by_name(name.rsplit('/').next().unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_there_again_when_they_are_needed() {
        let before = message("envoy.config.cluster.v3.Cluster").unwrap();
        release();
        let after = message("type.googleapis.com/envoy.config.cluster.v3.Cluster").unwrap();
        assert_eq!(before.fields().count(), after.fields().count());
    }
}

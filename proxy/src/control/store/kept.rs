//! A resource as it is kept, with the time that it has.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use prost::Message;
use tokio::time::Instant;

use crate::control::change::Kind;

/// A resource as it came and as it was compiled.
#[derive(Debug)]
pub(super) struct Kept<M, C> {
    /// Encoded, because it is looked at again only when a new one comes or an operator asks.
    encoded: Box<[u8]>,
    message: PhantomData<M>,
    pub(super) compiled: Arc<C>,
    pub(super) expires: Option<Instant>,
    pub(super) from_file: bool,
}

/// Resources of a kind by name.
pub(super) type Resources<M, C> = BTreeMap<Arc<str>, Kept<M, C>>;

/// The resources whose TTL has run out.
pub(super) fn lapsed<M, C>(kind: Kind, resources: &Resources<M, C>, now: Instant) -> Vec<(Kind, Arc<str>)> {
    let dead = resources.iter().filter(|(_, kept)| kept.expires.is_some_and(|expires| expires <= now));
    dead.map(|(name, _)| (kind, Arc::clone(name))).collect()
}

/// Keeps a resource; the same message again changes nothing but its time.
pub(super) fn put<M: Message + Default + PartialEq, C>(
    resources: &mut Resources<M, C>,
    name: Arc<str>,
    message: &M,
    compiled: C,
    (expires, from_file): (Option<Instant>, bool),
) {
    let encoded = message.encode_to_vec().into_boxed_slice();
    match resources.get_mut(&name) {
        // The entries of a map have no order, so that the same message can have several encodings.
        Some(kept) if kept.encoded == encoded || kept.message().as_ref() == Some(message) => {
            kept.expires = expires;
        }
        Some(_) | None => {
            let compiled = Arc::new(compiled);
            resources.insert(name, Kept { encoded, message: PhantomData, compiled, expires, from_file });
        }
    }
}

impl<M: Message + Default, C> Kept<M, C> {
    /// As it came.
    pub(super) fn message(&self) -> Option<M> {
        M::decode(&*self.encoded).ok()
    }
}

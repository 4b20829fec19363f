//! Identities and certificates that were cut off before their time.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use super::peer::PeerIdentity;

/// What is cut off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// SPIFFE IDs.
    pub identities: HashSet<Box<str>>,
    /// Serial numbers, in lower-case hexadecimal without leading zeros.
    pub serials: HashSet<Box<str>>,
}

impl Revoked {
    /// Adds what another list cuts off.
    pub fn add(&mut self, other: &Self) {
        self.identities.extend(other.identities.iter().cloned());
        self.serials.extend(other.serials.iter().cloned());
    }

    /// Whether this peer is cut off.
    #[must_use]
    pub fn covers(&self, peer: &PeerIdentity) -> bool {
        let by_identity = peer.spiffe.as_ref().is_some_and(|id| self.identities.contains(id.as_str()));
        by_identity || self.serials.contains(peer.serial.as_str())
    }
}

/// What is cut off now, for all handshakes of the process. Read once a handshake, never on a request's way.
#[derive(Clone, Debug, Default)]
pub struct Revocations(Arc<RwLock<Arc<Revoked>>>);

impl Revocations {
    /// What is cut off now.
    #[must_use]
    pub fn now(&self) -> Arc<Revoked> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces what is cut off.
    pub fn replace(&self, revoked: Revoked) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(revoked);
    }
}

//! What all workers know of an endpoint together: whether it is well.
//!
//! Workers read flags, which are atomics; whoever changes one counts up the cluster's generation, and a worker that
//! sees a new generation builds its picker anew. Nothing on a request's way takes a lock.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::outlier::Conduct;

/// It was ejected for what it did to requests.
const EJECTED: u8 = 1;
/// It fails its health checks.
const FAILS_CHECKS: u8 = 1 << 1;
/// It has health checks and none has come out yet.
const UNCHECKED: u8 = 1 << 2;

/// One endpoint of a cluster in the whole process.
#[derive(Debug, Default)]
pub struct Host {
    flags: AtomicU8,
    /// What requests say about it.
    pub conduct: Conduct,
}

/// The endpoints of one cluster.
#[derive(Debug, Default)]
pub struct Hosts {
    generation: AtomicU64,
    by_address: Mutex<HashMap<SocketAddr, Weak<Host>>>,
}

impl Host {
    /// Whether nothing speaks against it.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.flags.load(Ordering::Relaxed) == 0
    }

    /// Whether it is ejected.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & EJECTED != 0
    }

    /// Whether it has health checks and none has come out yet.
    #[must_use]
    pub fn is_unchecked(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & UNCHECKED != 0
    }

    /// Whether it fails its health checks, or has not passed one yet.
    #[must_use]
    pub fn fails_checks(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & (FAILS_CHECKS | UNCHECKED) != 0
    }
}

impl Hosts {
    /// Counts up whenever the health of one of them changes.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The endpoint at this address, if there is one. Takes a lock; not for a request's way.
    #[must_use]
    pub fn known(&self, address: SocketAddr) -> Option<Arc<Host>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner).get(&address).and_then(Weak::upgrade)
    }

    /// The endpoint at this address. Takes a lock; not for a request's way.
    #[must_use]
    pub fn host(&self, address: SocketAddr) -> Arc<Host> {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = by_address.get(&address).and_then(Weak::upgrade) {
            return host;
        }
        // Now and then, so that it does not cost more than it is worth.
        if by_address.len().is_power_of_two() {
            by_address.retain(|_, host| host.strong_count() > 0);
        }
        let host = Arc::new(Host::default());
        by_address.insert(address, Arc::downgrade(&host));
        host
    }

    /// Does something with all endpoints that there are, while no other does.
    pub(super) fn locked<R>(&self, act: impl FnOnce(&[(SocketAddr, Arc<Host>)]) -> R) -> R {
        let by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let alive = by_address.iter().filter_map(|(address, host)| Some((*address, host.upgrade()?)));
        let alive: Vec<_> = alive.collect();
        act(&alive)
    }

    /// How many are ejected.
    #[must_use]
    pub fn ejected(&self) -> u32 {
        self.locked(|all| {
            let ejected = all.iter().filter(|(_, host)| host.is_ejected()).count();
            u32::try_from(ejected).unwrap_or(u32::MAX)
        })
    }

    /// Ejects an endpoint or takes it back; whether that is a change.
    pub(super) fn set_ejected(&self, host: &Host, ejected: bool) -> bool {
        self.set(host, EJECTED, ejected)
    }

    /// Takes note of what health checks say; whether that is a change.
    pub fn set_failing(&self, host: &Host, failing: bool) -> bool {
        let first = self.set(host, UNCHECKED, false);
        self.set(host, FAILS_CHECKS, failing) || first
    }

    /// Takes note that the first health check is still to come.
    pub fn set_unchecked(&self, host: &Host) {
        self.set(host, UNCHECKED, true);
    }

    /// Takes note that there are no health checks (any more).
    pub fn set_without_checks(&self, host: &Host) {
        self.set(host, UNCHECKED | FAILS_CHECKS, false);
    }

    fn set(&self, host: &Host, flag: u8, on: bool) -> bool {
        let before = if on {
            host.flags.fetch_or(flag, Ordering::Relaxed)
        } else {
            host.flags.fetch_and(!flag, Ordering::Relaxed)
        };
        let after = if on { before | flag } else { before & !flag };
        if before != after {
            self.generation.fetch_add(1, Ordering::Release);
        }
        before != after
    }
}

//! Places for each address that connections come from: who takes all of its own takes none of another's.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bits of an IPv6 address that one host may choose as it likes (RFC 4291, section 2.5.1).
const HOST_BITS: u32 = 64;

/// As many places for each source.
#[derive(Debug)]
pub(crate) struct Sources {
    most: usize,
    /// Those who have a place or wait for one.
    each: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// A place, free again when this is dropped.
#[derive(Debug)]
pub(crate) struct SourcePlace<'a> {
    sources: &'a Sources,
    source: IpAddr,
    /// Missing while it is waited for.
    permit: Option<OwnedSemaphorePermit>,
}

impl Sources {
    /// `most` places for each.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, each: Mutex::default() }
    }

    /// A place for a connection from this address, as soon as there is one. May be cancelled.
    pub(crate) async fn place(&self, address: IpAddr) -> SourcePlace<'_> {
        let source = source(address);
        let mut place = SourcePlace { sources: self, source, permit: None };
        let places = {
            let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(each.entry(source).or_insert_with(|| Arc::new(Semaphore::new(self.most))))
        };
        // It is never closed.
        place.permit = places.acquire_owned().await.ok();
        place
    }
}

impl Drop for SourcePlace<'_> {
    fn drop(&mut self) {
        drop(self.permit.take());
        let mut each = self.sources.each.lock().unwrap_or_else(PoisonError::into_inner);
        // Who has a place or waits for one holds the semaphore too.
        if each.get(&self.source).is_some_and(|places| Arc::strong_count(places) == 1) {
            each.remove(&self.source);
        }
    }
}

/// What counts as one: an IPv4 address, or a network of IPv6 in which a host is who it likes.
pub(super) fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> HOST_BITS << HOST_BITS).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    async fn waits<F: Future + Unpin>(place: &mut F) -> bool {
        tokio::time::timeout(std::time::Duration::ZERO, place).await.is_err()
    }

    #[tokio::test]
    async fn each_source_has_its_own_places_and_nothing_is_kept_of_who_has_gone() {
        let sources = Sources::new(2);
        let (first, second) =
            (sources.place(ip("10.0.0.1")).await, sources.place(ip("::ffff:10.0.0.1")).await);
        let mut third = Box::pin(sources.place(ip("10.0.0.1")));
        assert!(waits(&mut third).await, "both are taken");
        let mut given_up = Box::pin(sources.place(ip("10.0.0.1")));
        assert!(waits(&mut given_up).await);
        drop(given_up);
        drop(sources.place(ip("10.0.0.2")).await);
        assert_eq!(sources.each.lock().unwrap().len(), 1);
        drop(first);
        drop(third.await);
        drop(second);
        assert!(sources.each.lock().unwrap().is_empty());
        let _held = (sources.place(ip("2001:db8::1")).await, sources.place(ip("2001:db8::2")).await);
        let mut other = Box::pin(sources.place(ip("2001:db8::3")));
        assert!(waits(&mut other).await, "one network");
        drop(sources.place(ip("2001:db8:0:1::1")).await);
    }
}

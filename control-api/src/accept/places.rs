//! Places for connections, of which no source can take all: who holds many makes room for who holds few.
//!
//! A connection is *unproven* until it has done what the port is for. Such ones go first, the oldest before the others, so that
//! who comes to ask has the longest time for it.
//!
//! A source may be more than one peer: all pods of a node behind its address, an API server behind a proxy of its cluster. The
//! bounds of a port allow for that.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::sources::source;

/// How many connections a port has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// In all.
    pub(crate) most: usize,
    /// Of one source.
    pub(crate) of_one: usize,
    /// Of one source, of those that are unproven.
    pub(crate) unproven_of_one: usize,
}

/// The connections of a port.
#[derive(Debug)]
pub(super) struct Places {
    bounds: Bounds,
    held: Mutex<Held>,
}

/// A connection's place, free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    proof: Proof,
    /// Closed when another connection has it; nothing then.
    lost: Option<oneshot::Receiver<()>>,
}

/// Proves a connection.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    places: Arc<Places>,
    source: IpAddr,
    number: u64,
}

#[derive(Debug, Default)]
struct Held {
    sources: HashMap<IpAddr, OfOne>,
    all: usize,
    next: u64,
}

/// By number, which is by age; who drops a sender takes the place.
#[derive(Debug, Default)]
struct OfOne {
    unproven: BTreeMap<u64, oneshot::Sender<()>>,
    proven: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Places {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { bounds, held: Mutex::default() })
    }

    /// A place for a connection from this address, if need be another's; `None` when its source has had enough.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let source = source(address);
        let mut held = self.lock();
        let number = held.take(source, self.bounds)?;
        let (taken, lost) = oneshot::channel();
        held.sources.entry(source).or_default().unproven.insert(number, taken);
        held.all += 1;
        drop(held);
        Some(Place { proof: Proof { places: Arc::clone(self), source, number }, lost: Some(lost) })
    }

    /// The system has no room for another one: as when all are taken.
    pub(super) fn relieve(&self) {
        let mut held = self.lock();
        if let Some((of, number)) = held.dispensable(0, 0) {
            held.free(of, number);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // No update leaves anything behind that the next one could not live with.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proof {
    /// The connection has done what the port is for.
    pub(crate) fn give(&self) {
        let mut held = self.places.lock();
        let Some(one) = held.sources.get_mut(&self.source) else { return };
        if let Some(taken) = one.unproven.remove(&self.number) {
            one.proven.insert(self.number, taken);
        }
    }
}

impl Place {
    /// How it is proven.
    pub(crate) fn proof(&self) -> Proof {
        self.proof.clone()
    }

    /// What the connection does; `None` when it is to be closed before the end of it, because another one has its place.
    pub(crate) async fn keep<T>(&mut self, serving: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            () = poll_fn(|cx| self.poll_lost(cx)) => None,
            done = serving => Some(done),
        }
    }

    /// Ready when another connection has it, and from then on.
    pub(crate) fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(lost) = &mut self.lost {
            // Nothing is ever sent: it is the end of the sender that tells.
            let _ended = std::task::ready!(Pin::new(lost).poll(cx));
            self.lost = None;
        }
        Poll::Ready(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Proof { places, source, number } = &self.proof;
        places.lock().free(*source, *number);
    }
}

impl Held {
    /// The number of a new place, for which another one may have to go.
    fn take(&mut self, source: IpAddr, bounds: Bounds) -> Option<u64> {
        let own = self.sources.get(&source);
        let (unproven, proven) = own.map_or((0, 0), |own| (own.unproven.len(), own.proven.len()));
        if unproven + proven >= bounds.of_one || unproven >= bounds.unproven_of_one {
            let oldest = *own?.unproven.first_key_value()?.0;
            self.free(source, oldest);
        } else if self.all >= bounds.most {
            let (of, number) = self.dispensable(unproven, unproven + proven)?;
            self.free(of, number);
        }
        self.next += 1;
        Some(self.next)
    }

    /// Whose place a source gets that has so many unproven ones, and so many in all.
    fn dispensable(&self, unproven: usize, all: usize) -> Option<(IpAddr, u64)> {
        let (of, most) = self.sources.iter().max_by_key(|(_, one)| one.unproven.len())?;
        // The new one will be unproven, too: what comes one after the other to ask drives nobody else away.
        if most.unproven.len() > unproven + 1 {
            return most.unproven.first_key_value().map(|(number, _)| (*of, *number));
        }
        let (of, most) = self.sources.iter().max_by_key(|(_, one)| one.len())?;
        // Who has as many afterwards as the other had before gains nothing for it; who has none gets in all the same.
        let fewer = most.len() > all + usize::from(all > 0);
        let newest = most.unproven.last_key_value().or_else(|| most.proven.last_key_value());
        newest.filter(|_| fewer).map(|(number, _)| (*of, *number))
    }

    fn free(&mut self, source: IpAddr, number: u64) {
        let Some(one) = self.sources.get_mut(&source) else { return };
        if one.unproven.remove(&number).or_else(|| one.proven.remove(&number)).is_some() {
            self.all -= 1;
        }
        if one.len() == 0 {
            self.sources.remove(&source);
        }
    }
}

impl OfOne {
    fn len(&self) -> usize {
        self.unproven.len() + self.proven.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { most: 8, of_one: 4, unproven_of_one: 3 };

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn take(places: &Arc<Places>, last: u8, count: usize) -> Vec<Place> {
        (0..count).map(|_| places.take(ip(last)).unwrap()).collect()
    }

    fn prove(places: &[Place]) {
        places.iter().for_each(|place| place.proof.give());
    }

    fn is_lost(place: &mut Place) -> bool {
        place.poll_lost(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    fn lost(places: &mut [Place]) -> Vec<bool> {
        places.iter_mut().map(is_lost).collect()
    }

    #[test]
    fn a_source_that_has_all_of_its_own_gets_none_of_anothers() {
        let places = Places::new(BOUNDS);
        let mut one = take(&places, 1, 4);
        assert_eq!(lost(&mut one), [true, false, false, false], "three unproven ones");
        prove(&one);
        let mut new = places.take(ip(1)).unwrap();
        new.proof.give();
        assert!(places.take(ip(1)).is_none(), "none of it is unproven");
        assert!(!is_lost(&mut new) && lost(&mut one[1..]) == [false; 3]);
        assert!(places.take("::ffff:10.0.0.1".parse().unwrap()).is_none(), "the same one");
        assert!(places.take(ip(2)).is_some());
        drop((one, new));
        let held = places.lock();
        assert_eq!((held.all, held.sources.len()), (0, 0), "nothing is kept of who has gone");
    }

    #[test]
    fn when_all_are_taken_who_holds_most_makes_room() {
        let places = Places::new(BOUNDS);
        let mut one = take(&places, 1, 3);
        let mut two = take(&places, 2, 3);
        prove(&two);
        let mut three = take(&places, 3, 2);
        prove(&three);
        let mut four = take(&places, 4, 2);
        assert_eq!(lost(&mut one), [true, false, false], "the oldest that is unproven");
        prove(&four);
        assert_eq!(lost(&mut two), [false, false, true], "then the newest of who has most");
        let mut five = places.take(ip(5)).unwrap();
        assert_eq!(lost(&mut one), [true, true, false]);
        assert!(places.take(ip(3)).is_none(), "nobody has more than this one");
        assert!(!is_lost(&mut five) && lost(&mut three) == [false; 2] && lost(&mut four) == [false; 2]);
        assert_eq!(places.lock().all, BOUNDS.most);
        places.relieve();
        assert_eq!(places.lock().all, BOUNDS.most - 1, "one goes when the system has no room");
    }

    #[tokio::test]
    async fn what_a_connection_does_ends_with_its_place() {
        let places = Places::new(Bounds { most: 1, of_one: 1, unproven_of_one: 1 });
        let mut place = places.take(ip(1)).unwrap();
        assert_eq!(place.keep(async { 1 }).await, Some(1));
        let _next = places.take(ip(1)).unwrap();
        assert_eq!(place.keep(std::future::pending::<()>()).await, None);
        drop(place);
        assert_eq!(places.lock().all, 1, "it was not its own any more");
    }
}

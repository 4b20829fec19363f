//! What holds faults back: caps of the proxy, what is spared, and the end of all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::chance::Chance;
use super::injected::Slot;
use super::leased::Subject;
use crate::http::message::RequestHead;
use crate::model::matcher::StringMatcher;

/// What one fault costs of what passes without: a millionth of it for each part of the share.
const FAULT_COST: u64 = 1_000_000;
/// What may be saved up of the share while nothing happens, in faults: so many may follow each other at once.
const MOST_SAVED: u64 = 10;
/// What the user agents of probes begin with.
const PROBE_AGENTS: &[&[u8]] = &[b"kube-probe/"];
/// What the paths of probes begin with.
const PROBE_PATHS: &[&str] = &["/grpc.health.v1.Health/"];

/// All guards together.
#[derive(Clone, Debug)]
pub struct Guard {
    /// No faults at all.
    pub silent: bool,
    /// Requests and connections that have a fault, at a time.
    pub max_active: u32,
    /// Of all that pass.
    pub max_share: Chance,
    /// Paths that are spared.
    pub exempt_paths: Vec<StringMatcher>,
    /// Ports that are spared.
    pub exempt_ports: Vec<u16>,
}

impl Default for Guard {
    /// One that holds nothing back but what is always spared.
    fn default() -> Self {
        Self {
            silent: false,
            max_active: u32::MAX,
            max_share: Chance::ALWAYS,
            exempt_paths: Vec::new(),
            exempt_ports: Vec::new(),
        }
    }
}

impl Guard {
    /// Adds another; the stricter counts.
    pub fn add(&mut self, other: &Self) {
        self.silent |= other.silent;
        self.max_active = self.max_active.min(other.max_active);
        if other.max_share.millionths() < self.max_share.millionths() {
            self.max_share = other.max_share;
        }
        self.exempt_paths.extend(other.exempt_paths.iter().cloned());
        self.exempt_ports.extend(&other.exempt_ports);
    }

    /// Whether the subject never has a fault.
    #[must_use]
    pub fn spares(&self, subject: &Subject<'_>) -> bool {
        self.exempt_ports.contains(&subject.destination.port())
            || subject.head.is_some_and(|head| {
                let path = head.path_only();
                is_probe(head) || self.exempt_paths.iter().any(|spared| spared.matches(path.as_bytes()))
            })
    }
}

/// Whether somebody asks for the workload's health: whoever restarts it must see it as it is.
fn is_probe(head: &RequestHead) -> bool {
    let agent = head.headers.first(b"user-agent").unwrap_or_default();
    PROBE_AGENTS.iter().any(|probe| agent.starts_with(probe))
        || PROBE_PATHS.iter().any(|probe| head.path.starts_with(probe))
}

/// What has passed the proxy, in all workers, and what of it had a fault.
#[derive(Debug, Default)]
pub struct Tally {
    active: Arc<AtomicU32>,
    /// What is left of the share, in parts of [`FAULT_COST`].
    credit: AtomicU64,
    connections: AtomicU64,
}

impl Tally {
    /// The number of the next connection, from 1.
    #[must_use]
    pub fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts a request, an attempt or a connection that passes.
    pub fn pass(&self, guard: &Guard) {
        let share = u64::from(guard.max_share.millionths());
        let more = |credit: u64| Some((credit + share).min(MOST_SAVED * FAULT_COST));
        // It always changes.
        let _ = self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// A place for one more that has a fault, if the guard allows one.
    #[must_use]
    pub fn take_slot(&self, guard: &Guard) -> Option<Slot> {
        let slot = Slot::take(&self.active, guard.max_active)?;
        let less = |credit: u64| credit.checked_sub(FAULT_COST);
        self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stricter_guard_counts() {
        let mut all = Guard::default();
        all.add(&Guard { max_active: 3, exempt_ports: vec![1], ..Guard::default() });
        all.add(&Guard { max_active: 5, max_share: Chance::ALWAYS.at_most(20), ..Guard::default() });
        assert_eq!((all.max_active, all.max_share.millionths(), all.silent), (3, 200_000, false));
        all.add(&Guard { silent: true, ..Guard::default() });
        assert!(all.silent && all.exempt_ports == [1]);
    }

    #[test]
    fn a_share_is_never_passed() {
        let guard = Guard { max_share: Chance::ALWAYS.at_most(10), ..Guard::default() };
        let tally = Tally::default();
        let mut struck = 0_u64;
        for passed in 1..=10_000_u64 {
            tally.pass(&guard);
            struck += u64::from(tally.take_slot(&guard).is_some());
            assert_eq!(struck, passed / 10);
        }
        // A long time without one lets no more than a few follow each other.
        (0..100_000).for_each(|_| tally.pass(&guard));
        assert_eq!((0..100).filter(|_| tally.take_slot(&guard).is_some()).count() as u64, MOST_SAVED);
    }

    #[test]
    fn places_come_back() {
        let (tally, guard) = (Tally::default(), Guard { max_active: 1, ..Guard::default() });
        (0..10).for_each(|_| tally.pass(&guard));
        let slot = tally.take_slot(&guard);
        assert!(slot.is_some() && tally.take_slot(&guard).is_none());
        drop(slot);
        assert!(tally.take_slot(&guard).is_some());
    }

    #[test]
    fn probes_are_spared() {
        let head = |path: &str, agent: &[u8]| {
            let mut head = RequestHead { path: path.into(), ..RequestHead::default() };
            head.headers.append(b"user-agent", agent);
            head
        };
        assert!(is_probe(&head("/", b"kube-probe/1.30")));
        assert!(is_probe(&head("/grpc.health.v1.Health/Check", b"x")));
        assert!(!is_probe(&head("/healthz", b"curl kube-probe/1")));
    }
}

//! What was done to one exchange on purpose, for as long as it lasts: its marks, its places, and how its bytes go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::set::Pause;
use super::shape::Shaper;
use crate::observe::metrics::GaugeGuard;

/// The faults of one exchange or connection.
#[derive(Debug, Default)]
pub struct Injected {
    /// The names of the faults, for log, header and metrics.
    pub names: Vec<Arc<str>>,
    /// Their places among the faults at work, given back at the end.
    slots: Vec<Slot>,
    /// What shows in metrics that they are at work.
    shown: Vec<GaugeGuard>,
    /// How long the response is held back.
    pub hold: Option<Pause>,
    /// How the bytes to the client go.
    pub response: Option<Box<Shaper>>,
    /// How the bytes from the client go.
    pub request: Option<Box<Shaper>>,
}

impl Injected {
    /// Takes note of a fault, which has its place until the end.
    pub fn add(&mut self, name: &Arc<str>, slot: Option<Slot>) {
        if !self.names.contains(name) {
            self.names.push(Arc::clone(name));
        }
        self.slots.extend(slot);
    }

    /// Shows that a fault is at work, until the end.
    pub fn show(&mut self, guard: GaugeGuard) {
        self.shown.push(guard);
    }

    /// The names in one line.
    #[must_use]
    pub fn line(&self) -> String {
        self.names.join(",")
    }
}

/// A place among the faults at work; given back when dropped.
#[derive(Debug)]
pub struct Slot(Arc<AtomicU32>);

impl Slot {
    /// A place, if fewer than `limit` are taken.
    #[must_use]
    pub fn take(active: &Arc<AtomicU32>, limit: u32) -> Option<Self> {
        let more = |taken: u32| (taken < limit).then(|| taken + 1);
        active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(Arc::clone(active)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

//! Ending a connection from outside the task that serves it.
//!
//! Whoever cuts a connection does not drop it: its reads and writes fail from then on, so that its task unwinds in
//! its own way and records what it has to record.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Waker};

use tokio::time::Instant;

use crate::identity::PeerIdentity;

/// Fewest entries of a registry before it looks for those that are gone.
const LEAST_SWEEP: usize = 64;

/// Whether a connection was cut, and who must be told when it is.
#[derive(Debug, Default)]
pub struct Cutoff {
    /// Who is at the other end, where that is known from a certificate.
    pub peer: OnceCell<PeerIdentity>,
    /// The cluster that it belongs to, and when nothing new may be begun on it because a certificate ends.
    pub rests_on: OnceCell<(Arc<str>, Instant)>,
    cut: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Cutoff {
    /// Ends the connection; it cannot be taken back.
    pub fn cut(&self) {
        self.cut.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whether it was cut.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.cut.get()
    }

    /// Takes note of who is to be told, before something is waited for.
    ///
    /// # Errors
    /// `ConnectionAborted` once the connection was cut.
    pub(super) fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        if self.cut.get() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Ok(())
    }
}

/// Values that others own, as long as they do.
#[derive(Debug)]
pub struct Registry<T>(RefCell<Entries<T>>);

#[derive(Debug)]
struct Entries<T> {
    all: Vec<Weak<T>>,
    /// With so many entries those that are gone are looked for.
    sweep_at: usize,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self(RefCell::new(Entries { all: Vec::new(), sweep_at: LEAST_SWEEP }))
    }
}

impl<T> Registry<T> {
    /// Adds a value. Takes constant time on average, and room for at most twice as many values as there are.
    pub fn add(&self, value: &Rc<T>) {
        let mut entries = self.0.borrow_mut();
        if entries.all.len() >= entries.sweep_at {
            entries.all.retain(|entry| entry.strong_count() > 0);
            entries.sweep_at = (entries.all.len() * 2).max(LEAST_SWEEP);
            let room = entries.sweep_at;
            entries.all.shrink_to(room);
        }
        entries.all.push(Rc::downgrade(value));
    }

    /// The values that are still there.
    #[must_use]
    pub fn alive(&self) -> Vec<Rc<T>> {
        self.0.borrow().all.iter().filter_map(Weak::upgrade).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_forgets_what_is_gone() {
        let registry = Registry::default();
        let kept = Rc::new(0);
        registry.add(&kept);
        for value in 1..10_000 {
            registry.add(&Rc::new(value));
        }
        assert!(registry.0.borrow().all.len() <= LEAST_SWEEP);
        assert_eq!(registry.alive(), [kept]);
    }

    #[test]
    fn whoever_waits_is_told() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicBool, Ordering};
        struct Flag(AtomicBool);
        impl std::task::Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let cutoff = Cutoff::default();
        cutoff.check(&Context::from_waker(&Arc::clone(&flag).into())).unwrap();
        cutoff.cut();
        assert!(flag.0.load(Ordering::Relaxed));
        let refused = cutoff.check(&Context::from_waker(Waker::noop())).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionAborted);
    }
}

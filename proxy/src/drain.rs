//! Telling connections that they should come to an end.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

/// Whether the listener that a connection came in on is being drained: it changed, it is gone, or the proxy is
/// ending.
#[derive(Clone, Debug, Default)]
pub struct Drain(Rc<State>);

#[derive(Debug, Default)]
struct State {
    begun: Cell<bool>,
    wake: Notify,
}

impl Drain {
    /// Begins to drain; it cannot be taken back.
    pub fn begin(&self) {
        self.0.begun.set(true);
        self.0.wake.notify_waiters();
    }

    /// Whether it has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.begun.get()
    }

    /// Waits for it to begin. Cancel-safe.
    pub async fn begun(&self) {
        let wake = self.0.wake.notified();
        if !self.has_begun() {
            wake.await;
        }
    }
}

//! What one worker asks the control thread for: each destination once, however many connections wait for it.

use std::cell::RefCell;
use std::net::SocketAddr;

use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};

/// After this long, whoever waits asks again: there may have been no room for the destination.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What connections wait for; at most as many as there are connections.
#[derive(Debug)]
pub(super) struct Asks {
    queue: mpsc::Sender<SocketAddr>,
    waiting: RefCell<FxHashMap<SocketAddr, Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    connections: usize,
    asked: Option<Instant>,
}

impl Asks {
    pub(super) fn new(queue: mpsc::Sender<SocketAddr>) -> Self {
        Self { queue, waiting: RefCell::default() }
    }

    /// A connection waits until this is dropped.
    pub(super) fn wait_for(&self, address: SocketAddr) -> Wait<'_> {
        self.waiting.borrow_mut().entry(address).or_default().connections += 1;
        Wait { asks: self, address }
    }
}

/// A connection that waits for a destination.
#[derive(Debug)]
pub(super) struct Wait<'a> {
    asks: &'a Asks,
    address: SocketAddr,
}

impl Wait<'_> {
    /// Asks, unless another connection has; where too many destinations wait to be asked for, once there is room. Ends
    /// only when nobody can be asked any more. Cancel-safe.
    pub(super) async fn ask(&self) {
        if !self.is_asked() {
            let Ok(room) = self.asks.queue.reserve().await else { return };
            // Another connection may have had room before.
            if !self.is_asked() {
                self.has_asked();
                room.send(self.address);
            }
        }
        std::future::pending().await
    }

    fn is_asked(&self) -> bool {
        let waiting = self.asks.waiting.borrow();
        let asked = waiting.get(&self.address).and_then(|waiting| waiting.asked);
        asked.is_some_and(|asked| asked.elapsed() < AGAIN_AFTER)
    }

    fn has_asked(&self) {
        if let Some(waiting) = self.asks.waiting.borrow_mut().get_mut(&self.address) {
            waiting.asked = Some(Instant::now());
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut all = self.asks.waiting.borrow_mut();
        if let Some(waiting) = all.get_mut(&self.address) {
            waiting.connections -= 1;
            if waiting.connections == 0 {
                all.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Waker};

    use super::*;

    fn ends(asking: Pin<&mut impl Future<Output = ()>>) -> bool {
        asking.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    #[tokio::test(start_paused = true)]
    async fn a_destination_is_asked_for_once_however_many_wait() {
        let (queue, mut asked) = mpsc::channel(8);
        let asks = Asks::new(queue);
        let (one, two) = (asks.wait_for(address(1)), asks.wait_for(address(1)));
        assert!(!ends(pin!(one.ask())) && !ends(pin!(two.ask())));
        assert_eq!((asked.try_recv().ok(), asked.try_recv().ok()), (Some(address(1)), None));
        drop(one);
        tokio::time::advance(AGAIN_AFTER).await;
        assert!(!ends(pin!(two.ask())));
        assert_eq!(asked.try_recv().ok(), Some(address(1)), "nothing was said of it");
        drop(two);
        assert!(asks.waiting.borrow().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn where_the_queue_is_full_connections_wait_for_room() {
        let (queue, mut asked) = mpsc::channel(1);
        let asks = Asks::new(queue);
        let (one, two, three) =
            (asks.wait_for(address(1)), asks.wait_for(address(2)), asks.wait_for(address(2)));
        assert!(!ends(pin!(one.ask())));
        let mut second = Box::pin(two.ask());
        let mut third = Box::pin(three.ask());
        assert!(!ends(second.as_mut()) && !ends(third.as_mut()));
        // Whoever waited for room first gives up; another connection asks in its place.
        drop(second);
        assert_eq!(asked.recv().await, Some(address(1)));
        assert!(!ends(third.as_mut()));
        assert_eq!(asked.try_recv().ok(), Some(address(2)));
        drop(asked);
        assert!(ends(pin!(asks.wait_for(address(3)).ask())), "nobody can be asked");
    }
}

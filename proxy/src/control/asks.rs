//! What workers ask for, on its way to the control thread: some at a time and not more often than now and then, so that a
//! workload that calls very many addresses costs neither this thread nor the control server more than that.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Destinations that may wait to be asked for. Where there are more, connections wait for room.
pub const QUEUED: usize = 1024;
/// Between two times that they are asked for.
const EVERY: Duration = Duration::from_millis(10);
/// That are asked for at a time: 800 in a second.
const AT_A_TIME: usize = 8;

/// Those that wait.
#[derive(Debug)]
pub struct Asks {
    queue: mpsc::Receiver<SocketAddr>,
    next: Instant,
}

impl Asks {
    /// Takes them from here.
    #[must_use]
    pub fn new(queue: mpsc::Receiver<SocketAddr>) -> Self {
        Self { queue, next: Instant::now() }
    }

    /// The next ones, once there are any. Cancel-safe.
    pub async fn next(&mut self) -> Vec<SocketAddr> {
        sleep_until(self.next).await;
        let mut all = Vec::new();
        if self.queue.recv_many(&mut all, AT_A_TIME).await == 0 {
            // The workers have ended; waiting for ever is what "none come" means.
            std::future::pending::<()>().await;
        }
        self.next = Instant::now() + EVERY;
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn few_are_taken_at_a_time_and_the_first_at_once() {
        let (queue, waiting) = mpsc::channel(QUEUED);
        let (mut asks, begun) = (Asks::new(waiting), Instant::now());
        for port in 1..=20 {
            queue.try_send(SocketAddr::from(([10, 0, 0, 1], port))).unwrap();
        }
        let mut taken = Vec::new();
        for _ in 0..3 {
            taken.push((asks.next().await.len(), begun.elapsed().as_millis()));
        }
        assert_eq!(taken.iter().map(|(count, _)| *count).collect::<Vec<_>>(), [8, 8, 4]);
        assert!(taken[0].1 == 0 && taken[1].1 >= 10 && taken[2].1 >= 20, "{taken:?}");
        drop(queue);
        assert!(tokio::time::timeout(Duration::from_secs(1), asks.next()).await.is_err());
    }
}

//! How long a fault may go on without somebody saying that it is still wanted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How often what a fault holds up looks whether it still may.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A lease that heartbeats extend without a new configuration. It is kept by the monotonic clock, so that nobody's idea
/// of the time can make it longer, and it is over for all workers at once.
#[derive(Debug)]
pub struct Lease {
    begun: Instant,
    /// In milliseconds since then; 0 when it is over.
    ends_ms: AtomicU64,
}

impl Default for Lease {
    /// One that is over until it is extended.
    fn default() -> Self {
        Self { begun: Instant::now(), ends_ms: AtomicU64::new(0) }
    }
}

impl Lease {
    /// Until then, and no longer.
    pub fn extend(&self, until: Instant) {
        let ms = until.saturating_duration_since(self.begun).as_millis();
        self.ends_ms.store(u64::try_from(ms).unwrap_or(0), Ordering::Relaxed);
    }

    /// It is over.
    pub fn end(&self) {
        self.ends_ms.store(0, Ordering::Relaxed);
    }

    /// Whether it goes on.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.begun.elapsed().as_millis() < u128::from(self.ends_ms.load(Ordering::Relaxed))
    }

    /// For how long there has been this fault.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Waits as long as it is asked to, at most to the end of the lease. Cancel-safe.
    pub async fn wait(&self, delay: Duration) {
        let end = Instant::now() + delay;
        while self.is_live() && Instant::now() < end {
            sleep_until(end.min(Instant::now() + LOOK_EVERY)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_with_its_lease() {
        let lease = Lease::default();
        assert!(!lease.is_live());
        lease.extend(Instant::now() + Duration::from_secs(10));
        let begun = Instant::now();
        lease.wait(Duration::from_secs(3)).await;
        assert_eq!(begun.elapsed().as_secs(), 3);
        lease.wait(Duration::from_secs(100)).await;
        assert_eq!(begun.elapsed().as_secs(), 10);
        assert!(!lease.is_live());
        lease.extend(Instant::now() + Duration::from_secs(10));
        let ending = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            lease.end();
        };
        tokio::join!(lease.wait(Duration::from_secs(100)), ending);
        assert!((11_000..=11_000 + 2 * LOOK_EVERY.as_millis()).contains(&begun.elapsed().as_millis()));
    }
}

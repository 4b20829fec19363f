//! How many retries a cluster may get where the configuration does not say: a fifth of the requests of the last
//! seconds, and ten a second whatever the load.
//!
//! Each worker keeps the share of its own requests, because every request adds to it and nothing else should cost a
//! request anything. The ten a second are for all workers together; only a retry that finds its worker's share used
//! up asks for one.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use crate::limit::bucket::{Bucket, Rate};

/// Retries for each request.
pub const SHARE: f64 = 0.2;
/// For about how long a request counts.
pub const MEMORY: Duration = Duration::from_secs(10);
/// Retries in any case: ten a second, those of ten seconds at once at most.
pub const RESERVE: Rate = Rate { interval: Duration::from_millis(100), burst: 100 };

/// What the requests of one worker have earned.
#[derive(Debug)]
pub struct Earned {
    tokens: Cell<f64>,
    faded: Cell<Instant>,
}

impl Earned {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self { tokens: Cell::new(0.0), faded: Cell::new(Instant::now()) }
    }

    /// A request was made that is no retry.
    pub fn earn(&self) {
        self.tokens.set(self.tokens.get() + SHARE);
    }

    /// Takes a retry from what was earned, or from the reserve of all workers.
    #[must_use]
    pub fn spend(&self, reserve: &Bucket, now: Instant) -> bool {
        let left = self.tokens.get() - 1.0;
        if left >= 0.0 {
            self.tokens.set(left);
            return true;
        }
        reserve.take(RESERVE, now)
    }

    /// Forgets, a little with every call, what was earned long ago. Called about every second.
    pub fn fade(&self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.faded.replace(now));
        self.tokens.set(self.tokens.get() * (-elapsed.as_secs_f64() / MEMORY.as_secs_f64()).exp());
    }
}

impl Default for Earned {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_gets_a_fifth_and_ten_a_second() {
        let (earned, reserve, begin) = (Earned::new(), Bucket::new(), Instant::now());
        let (mut retries, mut requests) = (0, 0);
        // A thousand requests a second for a minute, all of which fail for ever.
        for milliseconds in 0..60_000_u64 {
            let now = begin + Duration::from_millis(milliseconds);
            requests += 1;
            earned.earn();
            while earned.spend(&reserve, now) {
                retries += 1;
            }
            if milliseconds % 1000 == 0 {
                earned.fade(now);
            }
        }
        let most = requests / 5 + 600 + 100;
        assert!(retries <= most && retries > most * 9 / 10, "{retries} of {requests}");
    }

    #[test]
    fn what_was_earned_is_forgotten() {
        let (earned, reserve, begin) = (Earned::new(), Bucket::new(), Instant::now());
        for _ in 0..10_000 {
            earned.earn();
        }
        while reserve.take(RESERVE, begin) {}
        earned.fade(begin + Duration::from_secs(60));
        let left = (0..100).filter(|_| earned.spend(&reserve, begin)).count();
        assert!((3..=6).contains(&left), "{left}");
    }
}

//! A token bucket in one atomic (GCRA, the generic cell rate algorithm of ITU-T I.371).
//!
//! Instead of tokens and the moment of the last refill it keeps one number: when the bucket will be full again.
//! Taking a token moves that moment by the time that a token takes to come back; a token is there as long as the
//! moment is no further away than the whole bucket takes to fill.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Tokens that come back at a steady rate.
pub struct Bucket {
    begun: Instant,
    /// When it is full again, in nanoseconds since it was made.
    full_at_ns: AtomicU64,
}

/// How a bucket fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Between two tokens.
    pub interval: Duration,
    /// Most tokens.
    pub burst: u32,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub fn new() -> Self {
        Self { begun: Instant::now(), full_at_ns: AtomicU64::new(0) }
    }

    /// Takes a token if there is one.
    #[must_use]
    pub fn take(&self, rate: Rate, now: Instant) -> bool {
        take(&self.full_at_ns, rate, nanos(now.saturating_duration_since(self.begun)))
    }

    /// How long until there is a token.
    #[must_use]
    pub fn wait(&self, rate: Rate, now: Instant) -> Duration {
        wait(&self.full_at_ns, rate, nanos(now.saturating_duration_since(self.begun)))
    }

    /// Tokens that are there.
    #[must_use]
    pub fn left(&self, rate: Rate, now: Instant) -> u32 {
        left(&self.full_at_ns, rate, nanos(now.saturating_duration_since(self.begun)))
    }
}

/// Tokens that are there.
pub(super) fn left(full_at_ns: &AtomicU64, rate: Rate, now_ns: u64) -> u32 {
    let missing = full_at_ns.load(Ordering::Relaxed).saturating_sub(now_ns);
    let missing = missing.div_ceil(nanos(rate.interval).max(1));
    rate.burst.saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX))
}

/// Takes a token from a bucket that is full at the first number.
pub(super) fn take(full_at_ns: &AtomicU64, rate: Rate, now_ns: u64) -> bool {
    let interval = nanos(rate.interval);
    let whole = interval.saturating_mul(u64::from(rate.burst));
    let taken = full_at_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
        let full_at = full_at.max(now_ns).saturating_add(interval);
        (full_at - now_ns <= whole).then_some(full_at)
    });
    taken.is_ok()
}

/// How long until a token can be taken.
pub(super) fn wait(full_at_ns: &AtomicU64, rate: Rate, now_ns: u64) -> Duration {
    let interval = nanos(rate.interval);
    let whole = interval.saturating_mul(u64::from(rate.burst.max(1)));
    let full_at = full_at_ns.load(Ordering::Relaxed).max(now_ns).saturating_add(interval);
    Duration::from_nanos((full_at - now_ns).saturating_sub(whole))
}

impl std::fmt::Debug for Bucket {
    /// Without the time, so that what is compiled alike is shown alike.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket").field("full_at_ns", &self.full_at_ns).finish_non_exhaustive()
    }
}

impl Default for Bucket {
    fn default() -> Self {
        Self::new()
    }
}

/// Good for 584 years.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let (bucket, begin) = (Bucket::new(), Instant::now());
        let rate = Rate { interval: Duration::from_millis(100), burst: 5 };
        let at = |milliseconds| begin + Duration::from_millis(milliseconds);
        assert_eq!((0..9).filter(|_| bucket.take(rate, at(10))).count(), 5);
        assert_eq!(bucket.left(rate, at(10)), 0);
        assert!(!bucket.take(rate, at(100)));
        assert_eq!(bucket.wait(rate, at(100)), Duration::from_millis(10));
        assert!(bucket.take(rate, at(111)));
        assert!(!bucket.take(rate, at(112)));
        assert_eq!(bucket.left(rate, at(1000)), 5);
        assert_eq!((0..9).filter(|_| bucket.take(rate, at(60_000))).count(), 5);
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate(steps in prop::collection::vec(0_u64..50, 1..400), burst in 1_u32..20) {
            let bucket = Bucket::new();
            let rate = Rate { interval: Duration::from_millis(10), burst };
            let (mut elapsed, mut taken) = (0, 0);
            let begin = Instant::now();
            for step in steps {
                elapsed += step;
                taken += u64::from(bucket.take(rate, begin + Duration::from_millis(elapsed)));
            }
            prop_assert!(taken <= u64::from(burst) + elapsed / 10 + 1);
        }
    }

    #[test]
    fn threads_share_it_exactly() {
        let bucket = Bucket::new();
        let rate = Rate { interval: Duration::from_secs(3600), burst: 1000 };
        let now = Instant::now();
        let taken: usize = std::thread::scope(|scope| {
            let take = || (0..1000).filter(|_| bucket.take(rate, now)).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }
}

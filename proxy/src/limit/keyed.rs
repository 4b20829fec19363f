//! Buckets for values that are not known beforehand: a fixed table without locks.
//!
//! A bucket that is full again is the same as a new one, so a place whose bucket is full can be given to another value
//! without anybody noticing. When no place near the one that a value belongs to is free, the one that is nearest to
//! full is taken: whoever was counted there is let in a little too often.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::bucket::{self, Rate, nanos};

/// Places that a value may have.
const NEAR: usize = 8;

/// The buckets, by a hash of the value.
pub struct Keyed {
    begun: Instant,
    /// Seeded, so that nobody can choose whom to share a place with.
    hasher: RandomState,
    places: Box<[Place]>,
}

#[derive(Debug, Default)]
struct Place {
    /// 0 when it was never used.
    hash: AtomicU64,
    full_at_ns: AtomicU64,
}

impl std::fmt::Debug for Keyed {
    /// Without the seed and the time, so that what is compiled alike is shown alike.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyed").field("places", &self.places.len()).finish_non_exhaustive()
    }
}

impl Keyed {
    /// With this many places, or a few more.
    #[must_use]
    pub fn new(places: usize) -> Self {
        let places = places.max(NEAR).next_power_of_two();
        let places = std::iter::repeat_with(Place::default).take(places).collect();
        Self { begun: Instant::now(), hasher: RandomState::new(), places }
    }

    /// How many values can have tokens of their own at a time.
    #[must_use]
    pub const fn places(&self) -> usize {
        self.places.len()
    }

    /// Takes a token of this value if there is one; how long until there is one otherwise.
    ///
    /// # Errors
    /// How long it takes until there is a token.
    pub fn take<'a>(
        &self,
        value: impl Iterator<Item = &'a [u8]>,
        rate: Rate,
        now: Instant,
    ) -> Result<(), Duration> {
        let (hash, now_ns) = (self.hash(value), nanos(now.saturating_duration_since(self.begun)));
        let Some(place) = self.place(hash, now_ns) else { return Ok(()) };
        if bucket::take(&place.full_at_ns, rate, now_ns) {
            return Ok(());
        }
        Err(bucket::wait(&place.full_at_ns, rate, now_ns))
    }

    /// The tokens that this value has, and how long until there is one.
    pub fn left<'a>(
        &self,
        value: impl Iterator<Item = &'a [u8]>,
        rate: Rate,
        now: Instant,
    ) -> (u32, Duration) {
        let (hash, now_ns) = (self.hash(value), nanos(now.saturating_duration_since(self.begun)));
        let Some(place) = self.place(hash, now_ns) else { return (rate.burst, Duration::ZERO) };
        let full_at_ns = &place.full_at_ns;
        (bucket::left(full_at_ns, rate, now_ns), bucket::wait(full_at_ns, rate, now_ns))
    }

    fn hash<'a>(&self, value: impl Iterator<Item = &'a [u8]>) -> u64 {
        value.fold(1_u64, |hash, part| self.hasher.hash_one((hash, part))).max(1)
    }

    fn place(&self, hash: u64, now_ns: u64) -> Option<&Place> {
        let mask = self.places.len().saturating_sub(1);
        #[expect(clippy::cast_possible_truncation, reason = "the low bits are what is wanted")]
        let first = hash as usize;
        let near = || (0..NEAR).filter_map(|step| self.places.get(first.wrapping_add(step) & mask));
        if let Some(known) = near().find(|place| place.hash.load(Ordering::Relaxed) == hash) {
            return Some(known);
        }
        // Whoever takes the place at the same moment under another value shares it for once.
        let free = near().min_by_key(|place| place.full_at_ns.load(Ordering::Relaxed).max(now_ns))?;
        free.hash.store(hash, Ordering::Relaxed);
        free.full_at_ns.store(0, Ordering::Relaxed);
        Some(free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(keyed: &Keyed, value: &str, rate: Rate, now: Instant) -> usize {
        (0..100).filter(|_| keyed.take(std::iter::once(value.as_bytes()), rate, now).is_ok()).count()
    }

    #[test]
    fn each_value_has_tokens_of_its_own() {
        let keyed = Keyed::new(4096);
        let rate = Rate { interval: Duration::from_secs(1), burst: 3 };
        let now = Instant::now();
        for value in 0..50 {
            assert_eq!(taken(&keyed, &value.to_string(), rate, now), 3, "{value}");
        }
        assert_eq!(taken(&keyed, "7", rate, now), 0);
        assert_eq!(taken(&keyed, "7", rate, now + Duration::from_secs(2)), 2);
        let wait = keyed.take(std::iter::once(&b"7"[..]), rate, now + Duration::from_secs(2)).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{wait:?}");
    }

    #[test]
    fn more_values_than_places_cost_no_memory_and_limit_nobody_else() {
        let keyed = Keyed::new(16);
        let rate = Rate { interval: Duration::from_secs(1), burst: 2 };
        let now = Instant::now();
        for value in 0..10_000 {
            assert!(taken(&keyed, &value.to_string(), rate, now) >= 2);
        }
        assert_eq!(keyed.places(), 16);
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let keyed = Keyed::new(1024);
        let rate = Rate { interval: Duration::from_secs(1), burst: 1 };
        let now = Instant::now();
        for parts in [["ab", "c"], ["a", "bc"]] {
            assert!(keyed.take(parts.iter().map(|part| part.as_bytes()), rate, now).is_ok());
        }
    }
}

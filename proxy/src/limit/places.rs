//! Who is under way, by the second in which it began, shared by the workers without a lock.
//!
//! What takes very long, as a stream does, would hold its place all its life. It can be told to give it back without
//! anybody asking the request itself: places are counted by age.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Seconds that are told apart. Whoever began earlier has given its place back, at the latest when the seconds have gone
/// round.
const SECONDS: u32 = 64;
/// The longest age that can be asked for, in seconds.
pub(super) const OLDEST_S: u32 = SECONDS - 2;

/// Places that are taken.
pub(super) struct Places {
    taken: AtomicU32,
    /// Of each second, as [`Second`] writes it.
    seconds: Box<[AtomicU64]>,
    /// All that began before this second have given their places back.
    cleared: AtomicU32,
}

impl Places {
    pub(super) fn new() -> Self {
        let seconds = std::iter::repeat_with(AtomicU64::default).take(SECONDS as usize).collect();
        Self { taken: AtomicU32::new(0), seconds, cleared: AtomicU32::new(0) }
    }

    /// Takes a place in this second, if fewer than so many are taken; whether it did.
    pub(super) fn take(&self, limit: u32, second: u32) -> bool {
        if self.taken.fetch_add(1, Ordering::Relaxed) >= limit {
            self.taken.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        let before = self.change(second, |found| {
            let taken = if found.number == second { found.taken } else { 0 };
            Some(Second { number: second, taken: taken.saturating_add(1) })
        });
        // Those of a round ago have been at it for very long.
        if let Some(before) = before.filter(|before| before.number != second) {
            self.taken.fetch_sub(before.taken, Ordering::Relaxed);
        }
        true
    }

    /// Gives back a place that was taken in this second; whether it was still held.
    pub(super) fn give_back(&self, second: u32) -> bool {
        let less = |found: Second| {
            let taken = found.taken.checked_sub(1).filter(|_| found.number == second)?;
            Some(Second { taken, ..found })
        };
        let held = self.change(second, less).is_some();
        self.taken.fetch_sub(u32::from(held), Ordering::Relaxed);
        held
    }

    /// Takes back what was taken before this second, and tells of each second how many there were.
    pub(super) fn clear(&self, before: u32, mut cleared: impl FnMut(u32, u32)) {
        if self.cleared.fetch_max(before, Ordering::Relaxed) >= before {
            return;
        }
        for second in before.saturating_sub(SECONDS)..before {
            let none = |found: Second| {
                (found.number == second && found.taken > 0).then_some(Second { taken: 0, ..found })
            };
            if let Some(held) = self.change(second, none) {
                self.taken.fetch_sub(held.taken, Ordering::Relaxed);
                cleared(second, held.taken);
            }
        }
    }

    /// Changes what is known of a second; what it was before, if it was changed.
    fn change(&self, second: u32, to: impl Fn(Second) -> Option<Second>) -> Option<Second> {
        let slot = self.seconds.get((second % SECONDS) as usize)?;
        let to = |bits| to(Second::from_bits(bits)).map(Second::bits);
        slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, to).ok().map(Second::from_bits)
    }
}

/// What is known of one second.
#[derive(Clone, Copy)]
struct Second {
    number: u32,
    taken: u32,
}

impl Second {
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    const fn from_bits(bits: u64) -> Self {
        Self { number: (bits >> 32) as u32, taken: bits as u32 }
    }

    const fn bits(self) -> u64 {
        (self.number as u64) << 32 | self.taken as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(places: &Places) -> u32 {
        places.taken.load(Ordering::Relaxed)
    }

    #[test]
    fn places_are_taken_and_given_back() {
        let places = Places::new();
        assert!(places.take(2, 0) && places.take(2, 5) && !places.take(2, 5));
        assert!(places.give_back(0) && !places.give_back(0) && places.take(2, 5));
        assert!(places.give_back(5) && places.give_back(5) && !places.give_back(5));
        assert_eq!(taken(&places), 0);
    }

    #[test]
    fn the_old_give_theirs_back_once() {
        let places = Places::new();
        for second in [1, 1, 2, 9] {
            assert!(places.take(4, second));
        }
        let mut told = Vec::new();
        places.clear(3, |second, count| told.push((second, count)));
        places.clear(3, |second, count| told.push((second, count)));
        assert_eq!(told, [(1, 2), (2, 1)]);
        assert!(!places.give_back(1) && !places.give_back(2) && places.give_back(9));
        assert_eq!(taken(&places), 0);
    }

    #[test]
    fn what_is_older_than_a_round_is_forgotten() {
        let places = Places::new();
        assert!(places.take(9, 1) && places.take(9, 1 + SECONDS));
        assert_eq!(taken(&places), 1);
        assert!(!places.give_back(1) && places.give_back(1 + SECONDS));
        assert_eq!(taken(&places), 0);
    }

    /// Whoever gives back and whoever clears at the same time count each place once.
    #[test]
    fn workers_count_each_place_once() {
        let places = Places::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for second in 0..2000 {
                        assert!(places.take(u32::MAX, second));
                        places.clear(second, |_, _| {});
                        places.give_back(second);
                    }
                });
            }
        });
        places.clear(2000, |_, _| {});
        assert_eq!(taken(&places), 0);
    }
}

//! When an SVID is renewed, when its end is warned of, and how long to wait after a failure. No clock, no I/O.

use std::time::{Duration, SystemTime};

/// Part of what is left of an SVID's life after which it is renewed, and by how much that differs at random.
const RENEW_AT: f64 = 0.5;
const RENEW_JITTER: f64 = 0.1;
/// Shortest time between two renewals.
const MIN_RENEWAL: Duration = Duration::from_secs(1);
/// By how much authorities date certificates back, at most.
const MAX_BACKDATED: Duration = Duration::from_secs(300);
/// Shortest pause after a failure.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause after a failure.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// When to renew an SVID that was got `now`; `random` is from 0 to 1. The life is counted from now, because
/// authorities date certificates back by an amount of their own.
#[must_use]
pub fn renewal(now: SystemTime, not_after: SystemTime, random: f64) -> SystemTime {
    let left = not_after.duration_since(now).unwrap_or_default();
    let part = RENEW_AT * (1.0 - RENEW_JITTER + 2.0 * RENEW_JITTER * random.clamp(0.0, 1.0));
    now + left.mul_f64(part).max(MIN_RENEWAL)
}

/// Pauses that grow while failures follow each other.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The pause is at most this long, and at least half of it.
    span: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { span: FIRST_PAUSE * 2 }
    }
}

impl Backoff {
    /// The next pause; `random` is from 0 to 1.
    pub fn pause(&mut self, random: f64) -> Duration {
        let pause = self.span.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0);
        self.span = (self.span * 2).min(LONGEST_PAUSE);
        pause
    }
}

/// How far an SVID's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// More than a quarter is left; a renewal is not overdue.
    Fresh,
    /// A quarter or less is left.
    Quarter,
    /// A tenth or less is left.
    Tenth,
    /// It is over.
    Expired,
}

/// The life of an SVID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    begin: SystemTime,
    end: SystemTime,
}

impl Life {
    /// Of an SVID that was got at a time. What its authority dated it back by is no part of its life: of a short one
    /// it could be the most.
    #[must_use]
    pub fn new(not_before: SystemTime, obtained: SystemTime, not_after: SystemTime) -> Self {
        Self { begin: obtained.min(not_before + MAX_BACKDATED), end: not_after }
    }

    /// The first moment after it.
    #[must_use]
    pub const fn end(&self) -> SystemTime {
        self.end
    }

    /// Where it stands.
    #[must_use]
    pub fn stage(&self, now: SystemTime) -> Stage {
        [Stage::Expired, Stage::Tenth, Stage::Quarter]
            .into_iter()
            .find(|stage| now >= self.begin(*stage))
            .unwrap_or(Stage::Fresh)
    }

    /// When the next stage begins; `None` when there is none.
    #[must_use]
    pub fn next_change(&self, now: SystemTime) -> Option<SystemTime> {
        let begins = [Stage::Quarter, Stage::Tenth, Stage::Expired].map(|stage| self.begin(stage));
        begins.into_iter().find(|begin| *begin > now)
    }

    fn begin(&self, stage: Stage) -> SystemTime {
        let whole = self.end.duration_since(self.begin).unwrap_or_default();
        match stage {
            Stage::Fresh => self.begin,
            Stage::Quarter => self.end - whole / 4,
            Stage::Tenth => self.end - whole / 10,
            Stage::Expired => self.end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_renewal_is_at_half_of_the_life_give_or_take_a_tenth() {
        for (random, expected) in [(0.0, 1450), (0.5, 1500), (1.0, 1550), (7.0, 1550)] {
            assert_eq!(renewal(at(1000), at(2000), random), at(expected));
        }
        assert_eq!(renewal(at(1000), at(1001), 0.5), at(1001), "not more than once in a second");
        assert_eq!(renewal(at(1000), at(500), 0.5), at(1001), "an SVID that is over");
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut backoff = Backoff::default();
        let spans: Vec<u64> = (0..8).map(|_| backoff.pause(1.0).as_secs()).collect();
        assert_eq!(spans, [2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(Backoff::default().pause(0.0), FIRST_PAUSE);
    }

    #[test]
    fn stages_begin_when_a_quarter_and_a_tenth_are_left() {
        let life = Life::new(at(0), at(0), at(1000));
        let cases = [
            (0, Stage::Fresh, Some(750)),
            (749, Stage::Fresh, Some(750)),
            (750, Stage::Quarter, Some(900)),
            (900, Stage::Tenth, Some(1000)),
            (999, Stage::Tenth, Some(1000)),
            (1000, Stage::Expired, None),
        ];
        for (now, stage, next) in cases {
            assert_eq!((life.stage(at(now)), life.next_change(at(now))), (stage, next.map(at)), "{now}");
        }
        let dated_back = Life::new(at(0), at(100), at(140));
        assert_eq!(dated_back.next_change(at(100)), Some(at(130)), "a quarter of 40 s");
        let got_late = Life::new(at(0), at(90_000), at(100_300));
        assert_eq!(got_late.next_change(at(0)), Some(at(75_300)), "a quarter of the whole");
    }
}

//! How long good answers of a cluster take, as far as one worker has seen: a request that has less time left than that is
//! not worth sending (`outrider.shedding.v1.DeadlineShedding`).

use std::cell::Cell;
use std::time::Duration;

/// Answers before anything is refused.
const MIN_ANSWERS: u32 = 50;
/// By how much of itself the time moves with one answer, of which the percentile's share when it rises and the rest when
/// it falls. It falls fast and rises slowly: what it refuses in error weighs more than what it lets through.
const STEP: f64 = 0.1;
/// One in so many of those without enough time is sent all the same: were all refused, nobody would see that the cluster
/// has become faster.
const PROBES: u32 = 10;

/// A moving percentile of the time that good answers take.
#[derive(Debug)]
pub struct Haste {
    /// From 0 to 1.
    share: f64,
    seconds: Cell<f64>,
    answers: Cell<u32>,
    refused: Cell<u32>,
}

impl Haste {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(percentile: u8) -> Self {
        Self {
            share: f64::from(percentile) / 100.0,
            seconds: Cell::new(0.0),
            answers: Cell::new(0),
            refused: Cell::new(0),
        }
    }

    /// Takes note that a good answer took so long, or that one was given up after so long.
    pub fn observe(&self, took: Duration, answered: bool) {
        let (took, known) = (took.as_secs_f64(), self.seconds.get());
        let answers = self.answers.get();
        if answers == 0 {
            if answered {
                self.seconds.set(took);
                self.answers.set(1);
            }
            return;
        }
        // One that was given up would have taken longer than it did; how much longer nobody knows.
        if took > known {
            self.seconds.set(known * (1.0 + STEP * self.share));
        } else if answered {
            self.seconds.set(known * (1.0 - STEP * (1.0 - self.share)));
        }
        self.answers.set(answers.saturating_add(1));
    }

    /// Whether a request with so much time left is to be refused.
    #[must_use]
    pub fn refuses(&self, left: Duration) -> bool {
        if self.answers.get() < MIN_ANSWERS || left.as_secs_f64() >= self.seconds.get() {
            return false;
        }
        let refused = self.refused.get().wrapping_add(1);
        self.refused.set(refused);
        !refused.is_multiple_of(PROBES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// How many of a hundred requests with so much time left are refused.
    fn refused(haste: &Haste, left: Duration) -> usize {
        (0..100).filter(|_| haste.refuses(left)).count()
    }

    #[test]
    fn the_percentile_is_found() {
        for (percentile, expected) in [(10, 85..=125), (50, 450..=560)] {
            let haste = Haste::new(percentile);
            let mut random = fastrand::Rng::with_seed(7);
            // Evenly between 0 and 1000 ms: the percentile is ten times its number.
            for _ in 0..20_000 {
                haste.observe(MS * random.u32(0..1000), true);
            }
            let found = (0..1000).map(|_| {
                haste.observe(MS * random.u32(0..1000), true);
                Duration::from_secs_f64(haste.seconds.get())
            });
            let mean = (found.sum::<Duration>() / 1000).as_millis();
            assert!(expected.contains(&mean), "{percentile}: {mean} ms");
        }
    }

    #[test]
    fn only_what_is_too_late_is_refused_and_a_tenth_of_it_is_sent() {
        let haste = Haste::new(10);
        assert_eq!(refused(&haste, Duration::ZERO), 0, "nothing is known");
        (0..49).for_each(|_| haste.observe(100 * MS, true));
        assert_eq!(refused(&haste, Duration::ZERO), 0, "little is known");
        haste.observe(100 * MS, true);
        assert_eq!(refused(&haste, 20 * MS), 90);
        assert_eq!(refused(&haste, 101 * MS), 0);
    }

    #[test]
    fn a_cluster_that_becomes_faster_is_found_out() {
        let haste = Haste::new(10);
        (0..1000).for_each(|_| haste.observe(1000 * MS, true));
        let mut asked = 0;
        while haste.seconds.get() > 0.05 {
            asked += 1;
            if !haste.refuses(50 * MS) {
                haste.observe(10 * MS, true);
            }
            assert!(asked < 1000);
        }
    }

    #[test]
    fn what_was_given_up_counts_only_for_more_time() {
        let haste = Haste::new(50);
        (0..60).for_each(|_| haste.observe(100 * MS, true));
        let before = haste.seconds.get();
        haste.observe(MS, false);
        assert_eq!(haste.seconds.get().total_cmp(&before), std::cmp::Ordering::Equal);
        haste.observe(1000 * MS, false);
        assert!(haste.seconds.get() > before);
    }
}

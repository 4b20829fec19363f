//! The peak-sensitive moving average of an endpoint's latency, as one worker sees it.
//!
//! Published in Finagle's `PeakEwma`: a latency above the average becomes the average at once, one below it pulls
//! the average down with weight `1 - exp(-elapsed / decay)`. Time without an answer pulls it towards 0 in the same
//! way, so that an endpoint that was slow is asked again after a while. The cost of an endpoint is its average times
//! one more than what is under way there.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::balancing::PeakEwma;

/// The average; nothing is known at first.
#[derive(Debug, Default)]
pub struct Latency {
    /// Seconds at the time of the stamp.
    seconds: Cell<f64>,
    stamp: Cell<Option<Instant>>,
}

impl Latency {
    /// Takes note of an answer.
    pub fn observe(&self, parameters: &PeakEwma, latency: Duration, now: Instant) {
        let latency = latency.as_secs_f64();
        let average = match self.stamp.get() {
            // The first answer says more than the default.
            None => latency,
            Some(stamp) => {
                let left = decay(parameters, stamp, now);
                latency.max(self.seconds.get() * left + latency * (1.0 - left))
            }
        };
        self.seconds.set(average);
        self.stamp.set(Some(now));
    }

    /// What one more request there costs.
    #[must_use]
    pub fn cost(&self, parameters: &PeakEwma, active: u32, now: Instant) -> f64 {
        self.average(parameters, now) * (f64::from(active) + 1.0)
    }

    fn average(&self, parameters: &PeakEwma, now: Instant) -> f64 {
        match self.stamp.get() {
            None => parameters.default_latency.as_secs_f64(),
            Some(stamp) => self.seconds.get() * decay(parameters, stamp, now),
        }
    }
}

/// How much of the average is left.
fn decay(parameters: &PeakEwma, stamp: Instant, now: Instant) -> f64 {
    (-now.saturating_duration_since(stamp).as_secs_f64() / parameters.decay.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_at_once_and_falls_slowly() {
        let (parameters, latency, begin) = (PeakEwma::default(), Latency::default(), Instant::now());
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let close = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
        close(latency.cost(&parameters, 0, begin), 0.03);
        latency.observe(&parameters, Duration::from_millis(10), begin);
        close(latency.cost(&parameters, 0, begin), 0.01);
        close(latency.cost(&parameters, 3, begin), 0.04);
        latency.observe(&parameters, Duration::from_millis(500), begin);
        close(latency.cost(&parameters, 0, begin), 0.5);
        // One decay time later: 0.5/e + 0.01 (1 - 1/e).
        latency.observe(&parameters, Duration::from_millis(10), at(10));
        let left = (-1.0_f64).exp();
        close(latency.cost(&parameters, 0, at(10)), 0.5 * left + 0.01 * (1.0 - left));
        // Without an answer it falls too.
        assert!(latency.cost(&parameters, 0, at(100)) < 1e-4);
    }
}

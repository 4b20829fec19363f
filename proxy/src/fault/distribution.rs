//! How long a delay is.

use std::time::Duration;

use super::filter::MAX_DELAY;

/// How delays are spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Always the same.
    Fixed(Duration),
    /// Evenly from the first to the second.
    Uniform(Duration, Duration),
    /// Around a mean with a standard deviation; never below 0.
    Normal {
        /// The middle.
        mean: Duration,
        /// The standard deviation.
        deviation: Duration,
    },
    /// With a heavy tail.
    Pareto {
        /// The shortest.
        scale: Duration,
        /// The smaller, the heavier the tail.
        shape: f64,
        /// The longest.
        max: Duration,
    },
}

impl Distribution {
    /// The delay for a draw, evenly distributed over all numbers.
    #[must_use]
    pub fn sample(&self, draw: u64) -> Duration {
        let seconds = match *self {
            Self::Fixed(delay) => return delay,
            Self::Uniform(min, max) => {
                min.as_secs_f64() + unit(draw) * (max.as_secs_f64() - min.as_secs_f64())
            }
            Self::Normal { mean, deviation } => {
                // Box and Muller: two even draws make one normal draw.
                let radius = (-2.0 * (1.0 - unit(draw)).ln()).sqrt();
                let angle = std::f64::consts::TAU * unit(mix(draw, 1));
                deviation.as_secs_f64().mul_add(radius * angle.cos(), mean.as_secs_f64())
            }
            Self::Pareto { scale, shape, max } => {
                (scale.as_secs_f64() / (1.0 - unit(draw)).powf(1.0 / shape)).min(max.as_secs_f64())
            }
        };
        Duration::try_from_secs_f64(seconds.max(0.0)).map_or(MAX_DELAY, |delay| delay.min(MAX_DELAY))
    }
}

/// Evenly from 0 up to 1, 1 left out.
fn unit(draw: u64) -> f64 {
    /// As many bits as a fraction has.
    const BITS: u32 = 53;
    #[expect(clippy::cast_precision_loss, reason = "53 bits are what a double holds exactly")]
    let fraction = (draw >> (u64::BITS - BITS)) as f64 / (1_u64 << BITS) as f64;
    fraction
}

/// The n-th draw of a seed: as good as random, and the same each time (splitmix64).
#[must_use]
pub const fn mix(seed: u64, n: u64) -> u64 {
    let mut state = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// Mean, median and 99th percentile in milliseconds.
    fn figures(distribution: Distribution) -> [f64; 3] {
        let mut all: Vec<f64> =
            (0..100_000).map(|n| distribution.sample(mix(7, n)).as_secs_f64() * 1000.0).collect();
        all.sort_by(f64::total_cmp);
        [all.iter().sum::<f64>() / 100_000.0, all[50_000], all[99_000]]
    }

    #[test]
    fn delays_are_spread_as_asked() {
        for (distribution, expected) in [
            (Distribution::Fixed(MS(30)), [30.0, 30.0, 30.0]),
            (Distribution::Uniform(MS(10), MS(110)), [60.0, 60.0, 109.0]),
            (Distribution::Normal { mean: MS(100), deviation: MS(20) }, [100.0, 100.0, 146.5]),
            (Distribution::Pareto { scale: MS(10), shape: 3.0, max: MAX_DELAY }, [15.0, 12.6, 46.4]),
        ] {
            for (found, expected) in figures(distribution).iter().zip(expected) {
                assert!((found - expected).abs() < expected * 0.02, "{distribution:?}: {found} {expected}");
            }
        }
        let bounded = Distribution::Pareto { scale: MS(10), shape: 0.1, max: MS(50) };
        assert!((0..1000).all(|n| bounded.sample(mix(1, n)) <= MS(50)));
        let wide = Distribution::Normal { mean: MS(1), deviation: MS(1000) };
        assert!((0..1000).any(|n| wide.sample(mix(1, n)).is_zero()));
    }
}

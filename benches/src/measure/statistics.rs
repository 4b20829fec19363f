//! Medians and spreads. A machine that others use gives outliers, which a mean and a standard deviation would follow.

use serde::{Deserialize, Serialize};

/// What several rounds gave for one figure.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle value.
    pub median: f64,
    /// Median absolute deviation from it.
    pub deviation: f64,
    /// The values in the order of the rounds.
    pub samples: Vec<f64>,
}

impl Spread {
    /// Of at least one value; `None` of none.
    #[must_use]
    pub fn of(samples: Vec<f64>) -> Option<Self> {
        let middle = median(&samples)?;
        let distances: Vec<f64> = samples.iter().map(|one| (one - middle).abs()).collect();
        Some(Self { median: middle, deviation: median(&distances)?, samples })
    }
}

/// The ratio of two figures of the same round, round by round, then the spread of the ratios: what changes the machine for
/// a whole round changes both sides of it.
#[must_use]
pub fn median_of_ratios(ours: &Spread, theirs: &Spread) -> Option<Spread> {
    let pairs = ours.samples.iter().zip(&theirs.samples);
    Spread::of(pairs.filter(|(_, theirs)| **theirs > 0.0).map(|(ours, theirs)| ours / theirs).collect())
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    sorted.get(middle.checked_sub(1)?).map(|lower| f64::midpoint(*lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outlier_moves_neither_the_median_nor_the_deviation_far() {
        let spread = Spread::of(vec![10.0, 11.0, 500.0, 9.0, 10.0]).unwrap();
        assert!((spread.median - 10.0).abs() < 1e-9 && (spread.deviation - 1.0).abs() < 1e-9, "{spread:?}");
        let even = Spread::of(vec![4.0, 1.0, 3.0, 2.0]).unwrap();
        assert!((even.median - 2.5).abs() < 1e-9);
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The second round ran on a machine twice as slow: the ratio does not move.
        let ours = Spread::of(vec![10.0, 20.0, 10.0]).unwrap();
        let theirs = Spread::of(vec![20.0, 40.0, 20.0]).unwrap();
        let ratio = median_of_ratios(&ours, &theirs).unwrap();
        assert_eq!(ratio.samples, [0.5, 0.5, 0.5]);
        let nothing = Spread::of(vec![0.0]).unwrap();
        assert_eq!(median_of_ratios(&ours, &nothing), None);
    }
}

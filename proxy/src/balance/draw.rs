//! A draw by weight, in logarithmic time; in constant time where all weights are the same.

/// Who can be drawn.
#[derive(Debug)]
pub(super) struct Draw {
    count: usize,
    /// Sums of the weights up to and with each; empty when all are the same.
    sums: Box<[u64]>,
}

impl Draw {
    /// Each as often as its weight says.
    #[must_use]
    pub(super) fn new(weights: &[u32]) -> Self {
        let even = weights.windows(2).all(|pair| pair.first() == pair.last());
        let mut sum = 0_u64;
        let sums = weights.iter().filter(|_| !even).map(|weight| {
            sum += u64::from(*weight);
            sum
        });
        Self { count: weights.len(), sums: sums.collect() }
    }

    /// Whether all weights are the same.
    #[must_use]
    pub(super) const fn is_even(&self) -> bool {
        self.sums.is_empty()
    }

    /// One of them.
    #[must_use]
    pub(super) fn next(&self, random: &mut fastrand::Rng) -> Option<usize> {
        let Some(total) = self.sums.last() else {
            return (self.count > 0).then(|| random.usize(..self.count));
        };
        let draw = random.u64(..(*total).max(1));
        Some(self.sums.partition_point(|sum| *sum <= draw))
    }

    /// Two different ones where there are two that can be drawn; where weights differ, by weight.
    #[must_use]
    pub(super) fn pair(&self, random: &mut fastrand::Rng) -> Option<(usize, usize)> {
        let first = self.next(random)?;
        if self.is_even() {
            // The second is drawn among the others, so that no draw is wasted.
            let others = self.count - 1;
            let second = if others == 0 { first } else { random.usize(..others) };
            return Some((first, if others > 0 && second >= first { second + 1 } else { second }));
        }
        Some((first, self.next(random)?))
    }
}

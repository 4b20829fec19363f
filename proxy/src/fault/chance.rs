//! How often a fault happens.

use outrider_proto::Path;
use outrider_proto::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};

/// A share of all, as a fraction whose denominator is 100, 10,000 or 1,000,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chance {
    numerator: u32,
    denominator: u32,
}

impl Chance {
    /// Never.
    pub const NEVER: Self = Self { numerator: 0, denominator: 100 };
    /// Always.
    pub const ALWAYS: Self = Self { numerator: 100, denominator: 100 };

    /// From the message; more than all is a fault.
    pub(crate) fn from_proto(value: &FractionalPercent, path: &mut Path) -> Option<Self> {
        let denominator = match value.denominator() {
            DenominatorType::Hundred => 100,
            DenominatorType::TenThousand => 10_000,
            DenominatorType::Million => 1_000_000,
        };
        if value.numerator > denominator {
            return path.refuse("more than the whole");
        }
        Some(Self { numerator: value.numerator, denominator })
    }

    /// The same with a smaller numerator, if this one is smaller: so a request can lower it, and not raise it.
    #[must_use]
    pub fn at_most(self, numerator: u64) -> Self {
        let asked = u32::try_from(numerator).unwrap_or(u32::MAX);
        Self { numerator: self.numerator.min(asked), ..self }
    }

    /// Parts of a million.
    #[must_use]
    pub const fn millionths(self) -> u32 {
        self.numerator * (1_000_000 / self.denominator)
    }

    /// Whether a draw, evenly distributed over all numbers, falls into the share.
    #[must_use]
    pub const fn covers(self, draw: u64) -> bool {
        draw % (self.denominator as u64) < self.numerator as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_drawn_as_often_as_it_says() {
        let share = Chance { numerator: 25, denominator: 100 };
        assert_eq!((0..10_000).filter(|draw| share.covers(*draw)).count(), 2_500);
        assert_eq!((0..10_000).filter(|draw| share.at_most(5).covers(*draw)).count(), 500);
        assert_eq!(share.at_most(99), share);
        assert_eq!(share.millionths(), 250_000);
        assert!((0..1000).all(|draw| Chance::ALWAYS.covers(draw) && !Chance::NEVER.covers(draw)));
    }
}

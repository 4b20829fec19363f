//! The budget: what our figure may be, as a ratio to a peer's in the same rounds or as it is.

use serde::{Deserialize, Serialize};

use super::{Figure, Row};
use crate::measure::{Spread, median_of_ratios};

/// The subject that the budget is for.
const OURS: &str = "outrider";

/// One limit of the budget.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// Ours divided by a peer's, round by round.
    Ratio {
        /// What is compared.
        figure: Figure,
        /// With whom.
        peer: &'static str,
        /// The most that the median of the ratios may be.
        at_most: f64,
    },
    /// Ours.
    Absolute {
        /// What is limited.
        figure: Figure,
        /// The most that its median may be.
        at_most: f64,
    },
}

/// What became of a limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The limit in words: `CPU <= 1.00 of haproxy`.
    pub limit: String,
    /// What it allows.
    pub at_most: f64,
    /// What was measured; nothing if a side of it was missing.
    pub measured: Option<Spread>,
}

impl Verdict {
    /// Whether it was kept, if that is known.
    #[must_use]
    pub fn is_kept(&self) -> Option<bool> {
        self.measured.as_ref().map(|measured| measured.median <= self.at_most)
    }

    /// `pass`, `falls short by 12 %` or `not measured`.
    #[must_use]
    pub fn words(&self) -> String {
        match (&self.measured, self.is_kept()) {
            (Some(_), Some(true)) => "pass".to_owned(),
            (Some(measured), _) => {
                let percent = (measured.median / self.at_most - 1.0) * 100.0;
                if percent >= 10.0 {
                    format!("falls short by {percent:.0} %")
                } else {
                    format!("falls short by {percent:.1} %")
                }
            }
            (None, _) => "not measured".to_owned(),
        }
    }
}

/// Holds a row against its limits.
#[must_use]
pub fn judge(row: &Row, limits: &[Limit]) -> Vec<Verdict> {
    limits.iter().map(|limit| one(row, *limit)).collect()
}

fn one(row: &Row, limit: Limit) -> Verdict {
    let spread = |subject: &str, figure: Figure| row.cell(subject)?.figures.get(&figure);
    match limit {
        Limit::Ratio { figure, peer, at_most } => {
            let both = spread(OURS, figure).zip(spread(peer, figure));
            let measured = both.and_then(|(ours, theirs)| median_of_ratios(ours, theirs));
            Verdict { limit: format!("{} <= {at_most:.2} of {peer}", figure.short()), at_most, measured }
        }
        Limit::Absolute { figure, at_most } => Verdict {
            limit: format!("{} <= {at_most}", figure.short()),
            at_most,
            measured: spread(OURS, figure).cloned(),
        },
    }
}

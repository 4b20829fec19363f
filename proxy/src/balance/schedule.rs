//! Earliest-deadline-first scheduling: weighted turns in logarithmic time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Scale of the deadlines: a step is this divided by the weight.
const SCALE: u64 = 1 << 32;

/// Longest step, so that nobody waits for ever.
const LONGEST: u64 = SCALE * 1024;

/// Whose turn it is, with the moments of everybody's next turns.
#[derive(Debug)]
pub(super) struct Schedule {
    turns: BinaryHeap<Reverse<(u64, usize)>>,
    steps: Vec<u64>,
}

impl Schedule {
    /// A schedule in which each comes as often as its weight says. It begins anywhere: a schedule is made anew with
    /// every change of the endpoints, in every worker, and the light ones would never have a turn where that is often.
    #[must_use]
    pub(super) fn new(weights: &[u32]) -> Self {
        let steps: Vec<u64> = weights.iter().map(|weight| SCALE / u64::from((*weight).max(1))).collect();
        let turns = steps
            .iter()
            .enumerate()
            .map(|(index, step)| Reverse((fastrand::u64(1..=*step), index)))
            .collect();
        Self { turns, steps }
    }

    /// Takes a turn.
    pub(super) fn next(&mut self) -> Option<usize> {
        self.next_slowed(|_| 1.0)
    }

    /// Takes a turn; whose it is has to wait for its next one so many times longer.
    pub(super) fn next_slowed(&mut self, factor: impl FnOnce(usize) -> f64) -> Option<usize> {
        let Reverse((moment, index)) = *self.turns.peek()?;
        let step = self.steps.get(index).copied()?;
        let factor = factor(index);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "the exact case is apart; elsewhere a part of a step more or less does not matter"
        )]
        let step = if factor <= 1.0 { step } else { ((step as f64) * factor).min(LONGEST as f64) as u64 };
        // Wraps only after some 2^32 turns of the lightest; a fresh start then costs nobody a turn.
        let Some(next) = moment.checked_add(step) else {
            self.turns = self.steps.iter().enumerate().map(|(index, step)| Reverse((*step, index))).collect();
            return Some(index);
        };
        if let Some(mut top) = self.turns.peek_mut() {
            *top = Reverse((next, index));
        }
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_turn_is_anybodys_by_weight() {
        let firsts = (0..20_000).filter(|_| Schedule::new(&[3, 1]).next() == Some(1)).count();
        // A sixth of them: the light one is first where its moment, of three times the span, comes before the other's.
        assert!((3_000..3_700).contains(&firsts), "{firsts}");
    }
}

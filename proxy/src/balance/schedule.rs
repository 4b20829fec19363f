//! Earliest-deadline-first scheduling: weighted turns in logarithmic time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Scale of the deadlines: a step is this divided by the weight.
const SCALE: u64 = 1 << 32;

/// Whose turn it is, with the moments of everybody's next turns.
#[derive(Debug)]
pub struct Schedule {
    turns: BinaryHeap<Reverse<(u64, usize)>>,
    steps: Vec<u64>,
}

impl Schedule {
    /// A schedule in which each comes as often as its weight says.
    #[must_use]
    pub fn new(weights: &[u32]) -> Self {
        let steps: Vec<u64> = weights.iter().map(|weight| SCALE / u64::from((*weight).max(1))).collect();
        let turns = steps.iter().enumerate().map(|(index, step)| Reverse((*step, index))).collect();
        Self { turns, steps }
    }

    /// Takes a turn.
    pub fn next(&mut self) -> Option<usize> {
        let Reverse((moment, index)) = *self.turns.peek()?;
        let step = self.steps.get(index).copied()?;
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

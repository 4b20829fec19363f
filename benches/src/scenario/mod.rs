//! What is measured: the table of scenarios, and one file for each way to measure.

mod bench;
mod churn;
mod control;
mod idle;
mod latency;
mod progress;
mod services;
mod table;
mod throughput;

pub use bench::{Bench, Pacing};
pub use progress::Progress;
pub use table::TABLE;

use crate::drive::Load;
use crate::report::Limit;
use crate::subject::Mode;

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What `--only` takes.
    pub id: &'static str,
    /// What it is, in words.
    pub title: &'static str,
    /// How it is measured.
    pub work: Work,
    /// The budget.
    pub limits: &'static [Limit],
    /// Whether `--quick` runs it.
    pub quick: bool,
}

/// The ways to measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// As many requests as it takes: CPU, throughput, memory, system calls.
    Throughput(Traffic),
    /// Requests at a fixed rate: latency.
    Latency(Traffic, Reference),
    /// Connections that do nothing: memory.
    Idle {
        /// How many.
        connections: usize,
    },
    /// A large configuration: memory and the time until it serves.
    Services {
        /// How many services.
        count: usize,
    },
    /// A control server pushes one change at a time: the time until it has an effect.
    Push {
        /// How many services there are.
        services: usize,
    },
    /// A control server pushes changes under load: what they cost.
    Churn {
        /// How many services there are.
        services: usize,
        /// Changes each second.
        per_second: u32,
    },
}

/// What the rate of a latency scenario is half of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// What the slowest of the products serves in a closed loop.
    Slowest,
    /// What this subject serves; who cannot serve clearly more than the rate is left out.
    Peer(&'static str),
}

/// A load, and how the subject is set up for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// How the subject is set up.
    pub mode: Mode,
    /// What is sent.
    pub load: Load,
}

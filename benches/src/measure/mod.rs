//! What is read from the outside of a subject while load runs: CPU time, memory, system calls; and what is made of it.
//!
//! Nothing here knows a scenario or a proxy: it is given process ids.

mod cores;
mod process;
mod statistics;
mod syscalls;

pub use cores::{Cores, pin, spawn_on};
pub use process::{Family, Memory};
pub use statistics::{Spread, median_of_ratios};
pub use syscalls::{Tool, count};

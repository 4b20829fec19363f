//! Whether the generator itself was the limit: its CPU time, how long it waited for its core, and how far behind its schedule it ran.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::meter::Tally;

/// From this share of a core on, the generator is the limit.
const BUSY: f64 = 0.9;
/// From this share of the time on in which it ran or waited to run, its core is the limit.
const NEVER_IDLE: f64 = 0.97;
/// From this share of late turns on, an open loop was not at its rate.
const LATE: f64 = 0.01;

/// The beginning of the measured time. Begin and end belong to the generator's thread.
#[derive(Debug)]
pub(super) struct Watch {
    begin: Instant,
    cpu: Duration,
    delayed: Option<Duration>,
    core: Option<usize>,
}

/// What the generator's thread used in the measured time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    pub(super) elapsed: Duration,
    pub(super) cpu: Duration,
    /// How long it was ready to run and did not, where the kernel tells.
    pub(super) delayed: Option<Duration>,
    /// The core it was bound to.
    pub(super) core: Option<usize>,
}

impl Watch {
    pub(super) fn begin(core: Option<usize>) -> Self {
        Self { begin: Instant::now(), cpu: cpu(), delayed: delayed(), core }
    }

    pub(super) fn end(self) -> Usage {
        Usage {
            elapsed: self.begin.elapsed(),
            cpu: cpu().saturating_sub(self.cpu),
            delayed: delayed().zip(self.delayed).map(|(after, before)| after.saturating_sub(before)),
            core: self.core,
        }
    }
}

/// Why the generator was the limit, if it was.
pub(super) fn limit(usage: &Usage, tally: &Tally) -> Option<String> {
    let elapsed = usage.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
    let cpu = usage.cpu.as_secs_f64() / elapsed;
    let delayed = usage.delayed.unwrap_or_default().as_secs_f64() / elapsed;
    let late = tally.late as f64 / tally.waited.max(1) as f64;
    let core = usage.core.map_or_else(|| "a core".to_owned(), |core| format!("core {core}"));
    if cpu >= BUSY {
        Some(format!("it used {:.0} % of {core}", cpu * 100.0))
    } else if cpu + delayed >= NEVER_IDLE {
        Some(format!("it used {:.0} % of {core} and waited for it {:.0} %", cpu * 100.0, delayed * 100.0))
    } else if late > LATE {
        Some(format!("{:.1} % of the requests that could have been sent in time were not", late * 100.0))
    } else {
        None
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The second figure of `schedstat`: nanoseconds on a run queue.
fn delayed() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

//! What all connections of a run share: the gate at which they start together, their turns, and what is counted.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::Semaphore;

use super::outcome::{ErrorKind, Errors};
use super::pace::{Schedule, Turns};
use super::{Pace, Spec};

/// The longest latency that is told apart, in microseconds; what is longer counts as this.
pub(super) const MAX_LATENCY_US: u64 = 60_000_000;
/// Significant digits of a latency.
const DIGITS: u8 = 3;
/// An open loop that hands a turn to a waiting connection later than this was late.
const LATE: Duration = Duration::from_millis(1);

/// Why a request failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    pub(super) why: String,
}

impl Failure {
    pub(super) fn new(kind: ErrorKind, why: impl ToString) -> Self {
        Self { kind, why: why.to_string() }
    }

    /// The connection broke.
    pub(super) fn broken(error: impl ToString) -> Self {
        Self::new(ErrorKind::Broken, error)
    }
}

/// What a request that succeeded moved.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moved {
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

/// The time in which requests count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) begin: Instant,
    pub(super) from: Instant,
    pub(super) to: Instant,
}

/// Counts, and says whose turn it is. Only the generator's thread uses it, so its lock is always free.
#[derive(Debug)]
pub(super) struct Meter {
    ready: Semaphore,
    gate: Semaphore,
    window: OnceLock<Window>,
    turns: Option<Turns>,
    tally: Mutex<Tally>,
}

/// A request on its way. It counts from `since`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    since: Instant,
}

/// What was counted.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) latency_us: Histogram<u64>,
    pub(super) moved: Moved,
    /// Answers before and after the measured time.
    pub(super) beside: u64,
    pub(super) errors: Errors,
    /// Turns that a waiting connection got too late, and all that one was waiting for.
    pub(super) late: u64,
    pub(super) waited: u64,
    /// Why the first request failed, in or before the measured time.
    pub(super) first_failure: Option<String>,
}

impl Meter {
    pub(super) fn new(spec: &Spec) -> Result<Self, hdrhistogram::CreationError> {
        let turns = match spec.pace {
            Pace::Closed => None,
            Pace::Open { per_second } => Some(Turns::new(Schedule::new(per_second))),
        };
        let tally = Tally {
            latency_us: Histogram::new_with_bounds(1, MAX_LATENCY_US, DIGITS)?,
            moved: Moved::default(),
            beside: 0,
            errors: Errors::default(),
            late: 0,
            waited: 0,
            first_failure: None,
        };
        Ok(Self {
            ready: Semaphore::new(0),
            gate: Semaphore::new(0),
            window: OnceLock::new(),
            turns,
            tally: Mutex::new(tally),
        })
    }

    /// Waits until every connection is there. Each connection calls it once, before its first turn.
    pub(super) async fn start_together(&self) {
        self.ready.add_permits(1);
        // It is opened by being closed.
        let _ = self.gate.acquire().await;
    }

    /// Waits until so many connections are at the gate.
    pub(super) async fn all_ready(&self, connections: usize) {
        let all = self.ready.acquire_many(u32::try_from(connections).unwrap_or(u32::MAX));
        if let Ok(permits) = all.await {
            permits.forget();
        }
    }

    /// Lets them go.
    pub(super) fn open_gate(&self, spec: &Spec) -> Window {
        let begin = Instant::now();
        let from = begin + spec.warmup;
        let window = *self.window.get_or_init(|| Window { begin, from, to: from + spec.duration });
        self.gate.close();
        window
    }

    /// The turns of an open loop.
    pub(super) const fn turns(&self) -> Option<&Turns> {
        self.turns.as_ref()
    }

    /// Waits for the next turn; `None` when the run is over.
    pub(super) async fn turn(&self) -> Option<Turn> {
        let window = self.window.get()?;
        let Some(turns) = &self.turns else {
            let since = Instant::now();
            return (since < window.to).then_some(Turn { since });
        };
        let next = turns.next().await?;
        let since = window.begin + turns.due(next.number);
        if next.waited && since >= window.from {
            let late = since.elapsed() > LATE;
            let mut tally = self.tally();
            tally.waited += 1;
            tally.late += u64::from(late);
        }
        Some(Turn { since })
    }

    /// Whether there will be no more turns.
    pub(super) fn is_over(&self) -> bool {
        match &self.turns {
            Some(turns) => turns.is_over(),
            None => self.window.get().is_some_and(|window| Instant::now() >= window.to),
        }
    }

    /// Counts an answer.
    pub(super) fn answered(&self, turn: Turn, moved: Moved) {
        let now = Instant::now();
        if !self.counts(turn, now) {
            self.tally().beside += 1;
            return;
        }
        let took_us = u64::try_from(now.saturating_duration_since(turn.since).as_micros());
        let mut tally = self.tally();
        tally.latency_us.saturating_record(took_us.unwrap_or(MAX_LATENCY_US).clamp(1, MAX_LATENCY_US));
        tally.moved.bytes_in += moved.bytes_in;
        tally.moved.bytes_out += moved.bytes_out;
    }

    /// Counts a failure.
    pub(super) fn failed(&self, turn: Turn, failure: Failure) {
        let counts = self.counts(turn, Instant::now());
        let mut tally = self.tally();
        if counts {
            tally.errors.add(failure.kind, 1);
        }
        tally.first_failure.get_or_insert(failure.why);
    }

    /// Notes why something failed that was no request.
    pub(super) fn trouble(&self, failure: Failure) {
        self.tally().first_failure.get_or_insert(failure.why);
    }

    /// In a closed loop what ends in the window counts, in an open one what was due in it.
    fn counts(&self, turn: Turn, now: Instant) -> bool {
        let at = if self.turns.is_some() { turn.since } else { now };
        self.window.get().is_some_and(|window| (window.from..window.to).contains(&at))
    }

    /// What was counted so far.
    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Whose turn it is to send: at once in a closed loop, when a request is due in an open one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::sync::{Semaphore, mpsc};

use super::Pace;

/// Handing out a turn later than this is being late.
const LATE: Duration = Duration::from_millis(1);
/// Most turns that wait for a connection; a subject that is this far behind is not measured any more.
const MAX_WAITING: usize = 100_000;

/// Turns are handed out at most this often: waking up for each of tens of thousands a second would take the core that
/// the generator and the backend need. Latency counts from when a request was due all the same.
const TICK: Duration = Duration::from_micros(100);
/// Most turns that are handed out at once.
const BATCH: usize = 1024;

/// Hands out turns.
pub(super) struct Turns {
    pace: Pace,
    due: RefCell<VecDeque<Instant>>,
    /// As many permits as there are entries in `due`; first come, first served.
    ready: Semaphore,
    ended: Cell<bool>,
}

impl Turns {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, due: RefCell::default(), ready: Semaphore::new(0), ended: Cell::new(false) }
    }

    /// Waits for the next turn; the instant from which its latency counts, `None` when the pass is over.
    pub(super) async fn next(&self) -> Option<Instant> {
        match self.pace {
            Pace::Closed => (!self.ended.get()).then(Instant::now),
            Pace::Open { .. } => {
                self.ready.acquire().await.ok()?.forget();
                self.due.borrow_mut().pop_front()
            }
        }
    }

    /// Hands turns out for so long; the share of them that was handed out late.
    pub(super) async fn run(&self, length: Duration) -> Result<f64> {
        let late = match self.pace {
            Pace::Closed => {
                // The connections come first: on a busy machine the whole pass could be over before their first request.
                tokio::task::yield_now().await;
                tokio::time::sleep(length).await;
                0.0
            }
            Pace::Open { per_second } => self.fixed_rate(per_second, length).await?,
        };
        self.ended.set(true);
        // What is due is still sent, or the slowest requests would not count; whoever comes after that finds nothing.
        self.ready.add_permits(MAX_WAITING);
        Ok(late)
    }

    /// Requests that were due and have not been sent.
    pub(super) fn left(&self) -> u64 {
        self.due.borrow().len() as u64
    }

    async fn fixed_rate(&self, per_second: f64, length: Duration) -> Result<f64> {
        let (send, mut dues) = mpsc::channel(MAX_WAITING);
        let clock = std::thread::spawn(move || tick(per_second, length, &send));
        let mut batch = Vec::new();
        let (mut handed, mut late) = (0_u64, 0_u64);
        while dues.recv_many(&mut batch, BATCH).await > 0 {
            let now = Instant::now();
            late += batch.iter().filter(|due| now.saturating_duration_since(**due) > LATE).count() as u64;
            handed += batch.len() as u64;
            self.ready.add_permits(batch.len());
            self.due.borrow_mut().extend(batch.drain(..));
            ensure!(self.due.borrow().len() < MAX_WAITING, "too many requests wait to be sent");
        }
        ensure!(clock.join().is_ok_and(|kept| kept), "the clock of the load failed");
        Ok(late as f64 / handed.max(1) as f64)
    }
}

/// Sends each instant at which a request is due, when it is. A thread of its own: the runtime's timers count in
/// milliseconds. Says whether it came to its end.
fn tick(per_second: f64, length: Duration, send: &mpsc::Sender<Instant>) -> bool {
    // Without it every sleep is up to 50 us longer (prctl(2), PR_SET_TIMERSLACK); it works without it, too.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let begin = Instant::now();
    let mut number = 0_u64;
    loop {
        let (woken, mut next) = (begin.elapsed(), Duration::ZERO);
        while next <= woken {
            next = Duration::from_secs_f64(number as f64 / per_second);
            if next >= length {
                return true;
            }
            if next <= woken {
                if send.try_send(begin + next).is_err() {
                    return false;
                }
                number += 1;
            }
        }
        std::thread::sleep(next.saturating_sub(begin.elapsed()).max(TICK));
    }
}

//! Whose turn it is to send: at once in a closed loop, when a request is due in an open one.
//!
//! In an open loop one schedule serves all connections: the next free one takes the request that has been due longest. A request keeps
//! the time at which it was due, however late it is sent.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;

/// Turns are handed out at most this often: to wake up for each of tens of thousands a second would cost the generator more than the
/// requests themselves. The wait counts as latency.
const TICK: Duration = Duration::from_micros(50);

/// When requests are due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Schedule {
    per_second: f64,
}

impl Schedule {
    /// For a rate above zero.
    pub(super) const fn new(per_second: f64) -> Self {
        Self { per_second }
    }

    /// When the request of this number is due, from the beginning on.
    pub(super) fn due(self, number: u64) -> Duration {
        Duration::from_secs_f64(number as f64 / self.per_second)
    }

    /// How many requests are due within this time from the beginning: those that are due before its end.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "runs are too short to fill 64 bits"
    )]
    pub(super) fn count(self, within: Duration) -> u64 {
        let estimate = (within.as_secs_f64() * self.per_second).ceil() as u64;
        // What rounding did to the estimate is put right by the definition.
        let mut count = estimate.saturating_sub(1);
        while self.due(count) < within {
            count += 1;
        }
        count
    }
}

/// Hands out the turns of an open loop.
#[derive(Debug)]
pub(super) struct Turns {
    schedule: Schedule,
    /// A permit for each request that is due and not taken; first come, first served.
    permits: Semaphore,
    taken: AtomicU64,
}

/// A turn: the number of the request, and whether a connection had been waiting for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) number: u64,
    pub(super) waited: bool,
}

impl Turns {
    pub(super) fn new(schedule: Schedule) -> Self {
        Self { schedule, permits: Semaphore::new(0), taken: AtomicU64::new(0) }
    }

    /// Waits for the next turn; `None` when there will be none. Nothing is lost when it is dropped.
    pub(super) async fn next(&self) -> Option<Turn> {
        let (permit, waited) = match self.permits.try_acquire() {
            Ok(permit) => (permit, false),
            Err(_) => (self.permits.acquire().await.ok()?, true),
        };
        permit.forget();
        Some(Turn { number: self.taken.fetch_add(1, Ordering::Relaxed), waited })
    }

    /// When the request of this number is due, from the beginning on.
    pub(super) fn due(&self, number: u64) -> Duration {
        self.schedule.due(number)
    }

    /// How many requests are due from `from` to `to` after the beginning.
    pub(super) fn count(&self, from: Duration, to: Duration) -> u64 {
        self.schedule.count(to).saturating_sub(self.schedule.count(from))
    }

    /// Hands out what is due within `length` from `begin` on, each when it is. The turns that nobody took stay.
    pub(super) async fn hand_out(&self, begin: Instant, length: Duration) -> std::io::Result<()> {
        let mut alarm = Alarm::new()?;
        let (total, mut given) = (self.schedule.count(length), 0);
        while given < total {
            let now = begin.elapsed();
            // What is due at this very moment is due.
            let due = self.schedule.count(now + Duration::from_nanos(1)).min(total);
            self.permits.add_permits(usize::try_from(due - given).unwrap_or(Semaphore::MAX_PERMITS));
            given = due;
            alarm.after(self.schedule.due(given).saturating_sub(now).max(TICK)).await?;
        }
        Ok(())
    }

    /// Whether there will be none.
    pub(super) fn is_over(&self) -> bool {
        self.permits.is_closed()
    }

    /// No more turns, even of those that are due.
    pub(super) fn end(&self) {
        self.permits.close();
    }
}

/// A timer of the kernel: those of the runtime count in milliseconds.
struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    fn new() -> std::io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(
            deprecated,
            reason = "what replaces it is unsafe, for the sake of types that do not keep their descriptor; ours does"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Self(timer))
    }

    async fn after(&mut self, wait: Duration) -> std::io::Result<()> {
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec {
                tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(wait.subsec_nanos()),
            },
        };
        // Setting it takes back an expiry that was not read, so that it need not be.
        rustix::time::timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_thousand_a_second_are_a_millisecond_apart() {
        let schedule = Schedule::new(1000.0);
        assert_eq!(schedule.due(0), Duration::ZERO);
        assert_eq!(schedule.due(1500), Duration::from_millis(1500));
        assert_eq!(schedule.count(Duration::ZERO), 0);
        assert_eq!(schedule.count(Duration::from_nanos(1)), 1);
        assert_eq!(schedule.count(Duration::from_secs(2)), 2000);
    }

    proptest! {
        /// The count is just that of the requests whose time has come.
        #[test]
        fn count_and_due_agree(per_second in 0.1_f64..2e6, us in 0_u64..5_000_000) {
            let (schedule, within) = (Schedule::new(per_second), Duration::from_micros(us));
            let count = schedule.count(within);
            prop_assert!(count == 0 || schedule.due(count - 1) < within);
            prop_assert!(schedule.due(count) >= within);
        }
    }

    #[tokio::test]
    async fn every_turn_is_handed_out_once_and_none_before_it_is_due() {
        let turns = Turns::new(Schedule::new(20_000.0));
        let begin = Instant::now();
        let take = async {
            let mut numbers = Vec::new();
            while let Some(turn) = turns.next().await {
                assert!(begin.elapsed() >= turns.schedule.due(turn.number));
                numbers.push(turn.number);
                if numbers.len() == 1000 {
                    turns.end();
                }
            }
            numbers
        };
        let (handed, numbers) = tokio::join!(turns.hand_out(begin, Duration::from_millis(50)), take);
        handed.unwrap();
        assert_eq!(numbers, (0..1000).collect::<Vec<u64>>());
    }
}

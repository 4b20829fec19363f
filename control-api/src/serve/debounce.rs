//! Changes in quick succession are told as one: once it has been quiet for a moment, and in any case before long.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// How long it must be quiet.
pub const QUIET: Duration = Duration::from_millis(100);
/// How long a change waits at most for it to be quiet.
pub const LONGEST: Duration = Duration::from_secs(10);

/// Changes that are not told yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Waiting {
    /// The first and the last of them.
    between: Option<(Instant, Instant)>,
}

impl Waiting {
    fn change(&mut self, now: Instant) {
        let first = self.between.map_or(now, |(first, _)| first);
        self.between = Some((first, now));
    }

    /// When they are to be told; `None` while there are none.
    fn due(&self) -> Option<Instant> {
        self.between.map(|(first, last)| (last + QUIET).min(first + LONGEST))
    }
}

/// Tells `told` of the changes of `source`, until one of them is gone; what is `urgent` at once.
pub async fn run(
    mut source: watch::Receiver<u64>,
    mut urgent: watch::Receiver<u64>,
    told: watch::Sender<u64>,
) {
    let mut waiting = Waiting::default();
    loop {
        let due = waiting.due();
        let wait = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = source.changed() => match changed {
                Ok(()) => waiting.change(Instant::now()),
                Err(_) => return,
            },
            changed = urgent.changed() => match changed {
                Ok(()) => drop(told.send_replace(*source.borrow())),
                Err(_) => return,
            },
            () = wait => {
                waiting = Waiting::default();
                told.send_replace(*source.borrow_and_update());
            }
            () = told.closed() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn changes_are_told_when_it_is_quiet_and_before_long() {
        let (change, source) = watch::channel(0);
        let (told, mut seen) = watch::channel(0);
        let (urge, urgent) = watch::channel(0);
        let task = tokio::spawn(run(source, urgent, told));
        let start = Instant::now();
        for number in 1..=3 {
            change.send_replace(number);
            tokio::time::sleep(QUIET / 2).await;
        }
        seen.changed().await.unwrap();
        assert_eq!((*seen.borrow_and_update(), start.elapsed()), (3, QUIET * 2));
        // It cannot wait.
        let start = Instant::now();
        urge.send_replace(1);
        seen.changed().await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
        // Never quiet.
        let start = Instant::now();
        let churn = tokio::spawn(async move {
            for number in 4.. {
                change.send_replace(number);
                tokio::time::sleep(QUIET / 2).await;
                if start.elapsed() > LONGEST * 2 {
                    return;
                }
            }
        });
        seen.changed().await.unwrap();
        assert_eq!(start.elapsed(), LONGEST);
        churn.await.unwrap();
        task.await.unwrap();
    }
}

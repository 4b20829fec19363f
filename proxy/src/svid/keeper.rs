//! Publishes SVIDs, renews them in time, warns before one ends, and takes it back when it has ended.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::Svid;
use super::error::FetchError;
use super::schedule::{self, Backoff, Life, Stage};

/// The wall clock is looked at this often: it can be set, and it goes on while the machine sleeps.
const MAX_NAP: Duration = Duration::from_secs(30);

/// What time it is: that of the machine, or of a simulation.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

impl Clock {
    /// The machine's.
    #[must_use]
    pub fn system() -> Self {
        Self::new(SystemTime::now)
    }

    /// One of the caller's.
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        (self.0)()
    }

    /// Waits until the wall clock shows a time.
    pub async fn sleep_until(&self, time: SystemTime) {
        while let Ok(left) = time.duration_since(self.now()) {
            if left.is_zero() {
                return;
            }
            // Never shorter than what timers can tell apart, or the last one would be waited for in a busy loop.
            sleep(left.clamp(Duration::from_millis(1), MAX_NAP)).await;
        }
    }
}

/// Holds what is published.
#[derive(Debug)]
pub struct Keeper {
    sender: watch::Sender<Option<Arc<Svid>>>,
    changed: Notify,
    clock: Clock,
}

impl Keeper {
    /// With nothing published.
    #[must_use]
    pub fn new(sender: watch::Sender<Option<Arc<Svid>>>, clock: Clock) -> Self {
        metrics::gauge!("outrider_identity_valid").set(0.0);
        Self { sender, changed: Notify::new(), clock }
    }

    /// The time that it goes by.
    #[must_use]
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Fetches, publishes, and fetches again in time, for ever.
    pub async fn keep_fresh<F: Future<Output = Result<Svid, FetchError>>>(
        &self,
        mut fetch: impl FnMut() -> F,
    ) {
        let mut backoff = Backoff::default();
        loop {
            match fetch().await {
                Ok(svid) => {
                    backoff = Backoff::default();
                    let renewal = schedule::renewal(self.clock.now(), svid.not_after, fastrand::f64());
                    self.publish(svid);
                    self.clock.sleep_until(renewal).await;
                }
                Err(error) => {
                    self.failed(&error);
                    sleep(backoff.pause(fastrand::f64())).await;
                }
            }
        }
    }

    /// Publishes a new identity in place of the one before; `false` when it is the same one again.
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit for 285 million years")]
    pub fn publish(&self, svid: Svid) -> bool {
        metrics::gauge!("outrider_identity_renewal_failures_in_a_row").set(0.0);
        if self.sender.borrow().as_ref().is_some_and(|current| current.is_same(&svid)) {
            return false;
        }
        let not_after = seconds(svid.not_after);
        tracing::info!(spiffe_id = %svid.spiffe_id, not_after_unix_s = not_after, "new identity");
        metrics::counter!("outrider_identity_renewals_total", "outcome" => "ok").increment(1);
        metrics::gauge!("outrider_identity_expiry_timestamp_seconds").set(not_after as f64);
        metrics::gauge!("outrider_identity_valid").set(1.0);
        self.sender.send_replace(Some(Arc::new(svid)));
        self.changed.notify_one();
        true
    }

    /// Counts and logs that a new identity could not be had. What is published stays.
    pub fn failed(&self, error: &FetchError) {
        metrics::counter!("outrider_identity_renewals_total", "outcome" => error.outcome()).increment(1);
        metrics::gauge!("outrider_identity_renewal_failures_in_a_row").increment(1.0);
        let current = self.sender.borrow().as_ref().map(|svid| seconds(svid.not_after));
        match current {
            Some(until) => {
                tracing::warn!(%error, current_until_unix_s = until, "identity not renewed; going on with the one there is")
            }
            None => tracing::warn!(%error, "no identity"),
        }
    }

    /// Watches over the end of what is published, for ever: warns of it, and takes back what has ended.
    pub async fn watch_life(&self) {
        let mut told = (None, Stage::Fresh);
        loop {
            let life = self.life();
            let now = self.clock.now();
            if let Some(life) = life {
                let stage = life.stage(now);
                if told != (Some(life), stage) {
                    told = (Some(life), stage);
                    self.tell(life, stage, now);
                }
            }
            let next = life.and_then(|life| life.next_change(now));
            let wait = async {
                match next {
                    Some(next) => self.clock.sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Returns when nobody looks at what is published any more.
    pub async fn unwanted(&self) {
        self.sender.closed().await;
    }

    fn life(&self) -> Option<Life> {
        let current = self.sender.borrow();
        current.as_ref().map(|svid| Life::new(svid.not_before, svid.obtained, svid.not_after))
    }

    fn tell(&self, life: Life, stage: Stage, now: SystemTime) {
        let left_s = life.end().duration_since(now).unwrap_or_default().as_secs();
        match stage {
            Stage::Fresh => {}
            Stage::Quarter => {
                tracing::warn!(left_s, "a quarter of the identity's life is left and it was not renewed")
            }
            Stage::Tenth => {
                tracing::warn!(left_s, "a tenth of the identity's life is left and it was not renewed")
            }
            Stage::Expired => {
                metrics::gauge!("outrider_identity_valid").set(0.0);
                tracing::error!("the identity has expired: no mTLS until there is a new one");
                self.sender.send_replace(None);
            }
        }
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

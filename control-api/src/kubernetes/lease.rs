//! A lease (`coordination.k8s.io/v1`): of several replicas one holds it, and does what only one may do.
//!
//! No clocks are compared. Whoever does not hold it looks whether it still changes, by its own clock; whoever holds it
//! lets go, by its own clock too, well before others may take it. A holder that ends gives it back.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease as Record, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::{KubeError, call};

/// How long what takes.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// A lease that does not change for as long is anybody's; whole seconds.
    pub life: Duration,
    /// A holder that could not renew it for as long lets go; shorter than `life`.
    pub renewal: Duration,
    /// Between two tries.
    pub pause: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            life: Duration::from_secs(15),
            renewal: Duration::from_secs(10),
            pause: Duration::from_secs(2),
        }
    }
}

/// A wish to hold a lease.
#[derive(Debug)]
pub struct Lease {
    api: Api<Record>,
    name: String,
    holder: String,
    terms: Terms,
    /// The lease as it was last seen to change, and when that was.
    seen: Option<(LeaseSpec, Instant)>,
}

impl Lease {
    /// A lease of this name in a namespace, for a holder whose name no other replica has.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, holder: String, terms: Terms) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, name: name.to_owned(), holder, terms, seen: None }
    }

    /// Keeps `held` as it is, until `ending` is set or nobody looks. Then the lease is given back.
    pub async fn run(mut self, held: watch::Sender<bool>, mut ending: watch::Receiver<bool>) {
        // When the lease was last ours for certain: the moment before the question was put.
        let mut renewed: Option<Instant> = None;
        loop {
            let asked = Instant::now();
            // Before the next try is over, a holder may have to let go.
            let until = renewed.unwrap_or(asked) + self.terms.renewal;
            match timeout_at(until, self.attempt()).await {
                Ok(Ok(true)) => renewed = Some(asked),
                Ok(Ok(false)) => renewed = None,
                Ok(Err(error)) => {
                    tracing::warn!(lease = self.name, %error, "the lease cannot be asked for");
                    renewed = renewed.filter(|renewed| renewed.elapsed() < self.terms.renewal);
                }
                Err(_) => renewed = None,
            }
            self.tell(&held, renewed.is_some());
            let next = tokio::time::sleep(self.terms.pause);
            tokio::select! {
                () = next => {}
                () = held.closed() => break,
                _ = ending.wait_for(|ending| *ending) => break,
            }
        }
        if held.send_replace(false)
            && let Err(error) = self.give_back().await
        {
            tracing::warn!(lease = self.name, %error, "the lease was not given back; it ends by itself");
        }
    }

    fn tell(&self, held: &watch::Sender<bool>, holds: bool) {
        held.send_if_modified(|before| {
            let changed = *before != holds;
            if changed {
                tracing::info!(lease = self.name, holder = self.holder, holds, "lease");
            }
            metrics::gauge!("outrider_control_leader").set(if holds { 1.0 } else { 0.0 });
            *before = holds;
            changed
        });
    }

    /// Takes or renews the lease; whether it is ours now.
    async fn attempt(&mut self) -> Result<bool, KubeError> {
        let Some(mut record) = call(self.api.get_opt(&self.name)).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let record = Record { metadata, spec: Some(self.next(None)) };
            return won(call(self.api.create(&PostParams::default(), &record)).await);
        };
        let spec = record.spec.take().unwrap_or_default();
        if self.is_anothers(&spec) {
            return Ok(false);
        }
        record.spec = Some(self.next(Some(spec)));
        // Its version is in it: if somebody was faster, this is refused.
        won(call(self.api.replace(&self.name, &PostParams::default(), &record)).await)
    }

    /// Whether somebody else holds it, and has shown it for less long than it lives.
    fn is_anothers(&mut self, spec: &LeaseSpec) -> bool {
        let since = match &self.seen {
            Some((seen, since)) if seen == spec => *since,
            Some(_) | None => {
                let now = Instant::now();
                self.seen = Some((spec.clone(), now));
                now
            }
        };
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let life = seconds.map_or(self.terms.life, Duration::from_secs);
        !holder.is_empty() && holder != self.holder && since.elapsed() < life
    }

    /// The lease when it is ours from now on.
    fn next(&self, before: Option<LeaseSpec>) -> LeaseSpec {
        let before = before.unwrap_or_default();
        let now = MicroTime(Timestamp::now());
        let ours = before.holder_identity.as_deref() == Some(&self.holder);
        let transitions = before.lease_transitions.unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: i32::try_from(self.terms.life.as_secs().max(1)).ok(),
            acquire_time: if ours { before.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(if ours { transitions } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }

    /// Nobody's from now on.
    async fn give_back(&self) -> Result<(), KubeError> {
        let mut record = call(self.api.get(&self.name)).await?;
        let Some(spec) = record.spec.as_mut() else { return Ok(()) };
        if spec.holder_identity.as_deref() != Some(&self.holder) {
            return Ok(());
        }
        spec.holder_identity = None;
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        call(self.api.replace(&self.name, &PostParams::default(), &record)).await.map(drop)
    }
}

/// Somebody who was faster is no failure.
fn won<T>(written: Result<T, KubeError>) -> Result<bool, KubeError> {
    match written {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some(409) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::stand_in::StandIn;
    use tokio::task::JoinHandle;

    const TERMS: Terms = Terms {
        life: Duration::from_secs(3),
        renewal: Duration::from_millis(1500),
        pause: Duration::from_millis(20),
    };
    const LONG: Duration = Duration::from_secs(20);
    const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/mesh/leases/one";

    struct Replica {
        held: watch::Receiver<bool>,
        end: watch::Sender<bool>,
        task: JoinHandle<()>,
    }

    impl Replica {
        fn start(server: &StandIn, name: &str) -> Self {
            let (held, holds) = watch::channel(false);
            let (end, ending) = watch::channel(false);
            let lease = Lease::new(server.client(), "mesh", "one", name.to_owned(), TERMS);
            Self { held: holds, end, task: tokio::spawn(lease.run(held, ending)) }
        }

        async fn wait(&mut self, holds: bool) {
            let waited = tokio::time::timeout(LONG, self.held.wait_for(|held| *held == holds));
            waited.await.unwrap_or_else(|_| panic!("holds: {holds}")).unwrap();
        }
    }

    #[tokio::test]
    async fn one_holds_it_and_hands_it_over_at_its_end() {
        let server = StandIn::start().await;
        let mut first = Replica::start(&server, "first");
        first.wait(true).await;
        let mut second = Replica::start(&server, "second");
        // The second one has looked several times.
        let looks = || server.requests(&["GET", PATH]);
        let before = looks();
        while looks() < before + 20 {
            assert!(!*second.held.borrow() && *first.held.borrow());
            tokio::time::sleep(TERMS.pause / 4).await;
        }
        let started = Instant::now();
        first.end.send_replace(true);
        first.task.await.unwrap();
        second.wait(true).await;
        assert!(started.elapsed() < TERMS.life, "it was given back, and not waited for");
        let spec = server.object(PATH).unwrap()["spec"].clone();
        assert_eq!((&spec["holderIdentity"], &spec["leaseTransitions"]), (&"second".into(), &2.into()));
    }

    #[tokio::test]
    async fn the_lease_of_one_that_was_killed_ends_by_itself_and_not_before() {
        let server = StandIn::start().await;
        let mut first = Replica::start(&server, "first");
        first.wait(true).await;
        let mut second = Replica::start(&server, "second");
        let looks = || server.requests(&["GET", PATH]);
        let before = looks();
        while looks() < before + 4 {
            tokio::time::sleep(TERMS.pause / 4).await;
        }
        first.task.abort();
        drop(first.task.await);
        let started = Instant::now();
        second.wait(true).await;
        assert!(started.elapsed() > TERMS.life / 2, "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn a_holder_that_is_cut_off_lets_go_and_takes_it_again() {
        let server = StandIn::start().await;
        let mut one = Replica::start(&server, "one");
        one.wait(true).await;
        server.stop().await;
        one.wait(false).await;
        server.resume().await;
        one.wait(true).await;
    }
}

//! The Kubernetes API as a source: every kind is followed on its own, and what all of them have is one [`View`], the same
//! as from a directory.
//!
//! A kind that the API server does not serve has no objects, and holds nothing up. One that it serves and does not show
//! (no permission, no answer) holds the first view up: without the policies, everything that they forbid would be
//! allowed. Later, what was last heard stays in force, and the view says so.

mod backoff;
mod follow;
mod read;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use outrider_proto::Fault;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout_at};

use super::{Diagnostic, InForce, Severity, View};
use crate::object::{AnyObject, Key, ObjectKind, Objects, Place};
use follow::{Follower, Update};
use read::Read;

/// What stands where a file has its name.
pub const SOURCE: &str = "kubernetes";
/// Updates that wait to be taken in; whoever has more to tell waits too.
const MAX_WAITING: usize = 256;
/// Updates that come within this time make one view.
const TOGETHER: Duration = Duration::from_millis(20);

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// After the first failure; doubles from there.
    pub first: Duration,
    /// After many failures.
    pub longest: Duration,
    /// Between two looks for a kind that is not served.
    pub discovery: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(250),
            longest: Duration::from_secs(30),
            discovery: Duration::from_secs(10),
        }
    }
}

/// Follows all kinds until every receiver is gone. The first view is empty and not complete.
#[must_use]
pub fn watch(client: &Client, pace: Pace) -> (watch::Receiver<View>, JoinHandle<()>) {
    let (sender, receiver) = watch::channel(View::default());
    let (updates, incoming) = mpsc::channel(MAX_WAITING);
    let mut followers = JoinSet::new();
    for kind in ObjectKind::ALL {
        followers.spawn(Follower::new(client.clone(), kind, updates.clone(), pace).run());
    }
    let task = tokio::spawn(async move {
        gather(incoming, sender).await;
        // Their channel is closed now; the set would end them in any case.
        drop(followers);
    });
    (receiver, task)
}

/// Puts updates together until nobody looks.
async fn gather(mut incoming: mpsc::Receiver<Update>, views: watch::Sender<View>) {
    let mut gathered = Gathered::default();
    loop {
        let first = tokio::select! {
            update = incoming.recv() => update,
            () = views.closed() => return,
        };
        let Some(first) = first else { return };
        let mut changed = gathered.take(first);
        let until = Instant::now() + TOGETHER;
        while let Ok(Some(update)) = timeout_at(until, incoming.recv()).await {
            changed |= gathered.take(update);
        }
        if changed {
            views.send_replace(gathered.view());
        }
    }
}

/// An object as it should not be.
#[derive(Debug)]
struct Bad {
    faults: Vec<Fault>,
    /// What holds in its place when there is no good version.
    closed: Option<AnyObject>,
}

/// What is known of all kinds.
#[derive(Debug, Default)]
struct Gathered {
    /// The good ones; of one that is bad now, its last good version.
    objects: Objects,
    bad: BTreeMap<Key, Bad>,
    /// The kinds of which it is known what there is, and why that may be old.
    kinds: BTreeMap<ObjectKind, Option<String>>,
    /// Why a kind is not known yet.
    unknown: BTreeMap<ObjectKind, String>,
}

impl Gathered {
    /// Takes an update in; whether that changes anything.
    fn take(&mut self, update: Update) -> bool {
        match update {
            Update::All(kind, all) => self.replace(kind, all),
            Update::NotServed(kind) => self.replace(kind, Vec::new()),
            Update::One(read) => self.one(read),
            Update::Gone(key) => self.gone(&key),
            Update::Stale(kind, reason) => match self.kinds.get_mut(&kind) {
                Some(stale) if stale.as_deref() == Some(&reason) => false,
                Some(stale) => {
                    *stale = Some(reason);
                    true
                }
                None => self.unknown.insert(kind, reason.clone()) != Some(reason),
            },
            Update::Fresh(kind) => {
                self.kinds.get_mut(&kind).is_some_and(|stale| std::mem::take(stale).is_some())
            }
        }
    }

    /// All of a kind, in place of what was known.
    fn replace(&mut self, kind: ObjectKind, all: Vec<Read>) -> bool {
        let mut changed = self.unknown.remove(&kind).is_some();
        changed |= self.kinds.insert(kind, None).is_none_or(|stale| stale.is_some());
        let known: Vec<Key> = self.objects.all().map(|object| object.key().clone()).collect();
        let mut gone: std::collections::BTreeSet<Key> =
            known.into_iter().chain(self.bad.keys().cloned()).filter(|key| key.kind == kind).collect();
        for read in all {
            if let Read::Good(_) | Read::Bad(..) = &read {
                gone.remove(read.key());
            }
            changed |= self.one(read);
        }
        for key in &gone {
            changed |= self.gone(key);
        }
        changed
    }

    fn one(&mut self, read: Read) -> bool {
        match read {
            Read::Good(object) => {
                let healed = self.bad.remove(object.key()).is_some();
                let before = self.objects.object(object.key());
                if before.is_some_and(|before| before.digest() == object.digest()) {
                    return healed;
                }
                self.objects.insert(object);
                true
            }
            Read::Bad(key, closed, faults) => {
                let digest = |one: &Option<AnyObject>| one.as_ref().map(|one| *one.digest());
                let same = |bad: &Bad| bad.faults == faults && digest(&bad.closed) == digest(&closed);
                let differs = !self.bad.get(&key).is_some_and(same);
                self.bad.insert(key, Bad { faults, closed });
                differs
            }
            Read::Over(key) => self.gone(&key),
        }
    }

    fn gone(&mut self, key: &Key) -> bool {
        let (bad, good) = (self.bad.remove(key).is_some(), self.objects.remove(key));
        bad || good
    }

    fn view(&self) -> View {
        let place = Place { file: Arc::from(SOURCE), ..Place::default() };
        let mut diagnostics = Vec::new();
        let reasons = self.kinds.iter().filter_map(|(kind, stale)| Some((*kind, stale.as_ref()?, true)));
        let reasons = reasons.chain(self.unknown.iter().map(|(kind, reason)| (*kind, reason, false)));
        for (kind, reason, kept) in reasons {
            diagnostics.push(Diagnostic {
                place: place.clone(),
                object: None,
                fault: Fault::new(kind.plural(), reason.clone()),
                severity: Severity::Error,
                in_force: if kept { InForce::LastGood } else { InForce::Nothing },
                rule: "unreadable",
            });
        }
        let (mut objects, mut denials) = (self.objects.clone(), 0);
        for (key, bad) in &self.bad {
            let in_force = match (self.objects.object(key), &bad.closed) {
                (Some(_), _) => InForce::LastGood,
                (None, Some(closed)) => {
                    objects.insert(closed.clone());
                    denials += 1;
                    InForce::Denial
                }
                (None, None) => InForce::Nothing,
            };
            diagnostics.extend(bad.faults.iter().map(|fault| Diagnostic {
                place: place.clone(),
                object: Some(key.clone()),
                fault: fault.clone(),
                severity: Severity::Error,
                in_force,
                rule: "invalid-object",
            }));
        }
        View {
            objects: Arc::new(objects),
            diagnostics: Arc::new(diagnostics),
            complete: self.kinds.len() == ObjectKind::ALL.len(),
            denials,
        }
    }
}

#[cfg(test)]
mod tests;

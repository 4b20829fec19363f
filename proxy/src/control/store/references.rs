//! What resources refer to: which names are to be asked for, and what is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{MISSING_AFTER, UNRESOLVED_AFTER};
use crate::control::change::Kind;

/// Names of resources that others refer to, each with the turn in which it came to be wanted. What was let go of is
/// wanted in another turn when it comes back, so that whoever asks for it knows to ask again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted(BTreeMap<Kind, BTreeMap<Arc<str>, u64>>);

impl Wanted {
    /// The names of a kind, with their turns.
    #[must_use]
    pub fn of(&self, kind: Kind) -> Option<&BTreeMap<Arc<str>, u64>> {
        self.0.get(&kind)
    }

    /// Whether this is wanted.
    #[must_use]
    pub fn has(&self, kind: Kind, name: &str) -> bool {
        self.of(kind).is_some_and(|names| names.contains_key(name))
    }

    /// These names are wanted now, and no others of their kinds; those that are new are wanted from this turn on.
    pub fn set(&mut self, names: BTreeSet<(Kind, Arc<str>)>, turn: u64) {
        let before = std::mem::take(&mut self.0);
        for (kind, name) in names {
            let since = before.get(&kind).and_then(|names| names.get(&name)).copied().unwrap_or(turn);
            self.0.entry(kind).or_default().insert(name, since);
        }
    }

    fn all(&self) -> impl Iterator<Item = (Kind, &Arc<str>)> {
        self.0.iter().flat_map(|(kind, names)| names.keys().map(|name| (*kind, name)))
    }
}

/// Why something that is referred to is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absence {
    /// It is waited for since then.
    Waiting(Instant),
    /// It did not come in time, or was taken away.
    GivenUp,
    /// Its TTL has run out: unlike what a server took away too early, it is not used any longer.
    Lapsed,
}

/// What is referred to, and what of it is missing: of a cluster, the addresses of its names.
#[derive(Debug, Default)]
pub(super) struct References {
    wanted: Wanted,
    turn: u64,
    missing: BTreeMap<(Kind, Arc<str>), Absence>,
}

impl References {
    /// Takes note of what is referred to, of clusters whose names have no addresses yet, and of what is there.
    pub(super) fn follow(
        &mut self,
        names: BTreeSet<(Kind, Arc<str>)>,
        unresolved: BTreeSet<Arc<str>>,
        is_there: impl Fn(Kind, &str) -> bool,
    ) {
        self.turn += 1;
        self.wanted.set(names, self.turn);
        let waited_for = self.wanted.all().filter(|(kind, _)| matches!(kind, Kind::Routes | Kind::Endpoints));
        let mut missing: BTreeSet<(Kind, Arc<str>)> = waited_for
            .filter(|(kind, name)| !is_there(*kind, name))
            .map(|(kind, name)| (kind, Arc::clone(name)))
            .collect();
        missing.extend(unresolved.into_iter().map(|name| (Kind::Cluster, name)));
        self.missing.retain(|what, _| missing.contains(what));
        let now = Instant::now();
        for what in missing {
            self.missing.entry(what).or_insert(Absence::Waiting(now));
        }
    }

    /// What is referred to.
    pub(super) const fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// Nobody waits for it: it was taken away.
    pub(super) fn give_up(&mut self, kind: Kind, name: &Arc<str>) {
        self.missing.insert((kind, Arc::clone(name)), Absence::GivenUp);
    }

    /// Nobody waits for it, and what it was is not used any longer: its TTL has run out.
    pub(super) fn lapse(&mut self, kind: Kind, name: &Arc<str>) {
        self.missing.insert((kind, Arc::clone(name)), Absence::Lapsed);
    }

    /// Stops waiting for what did not come in time; whether there was any.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let mut any = false;
        for ((kind, name), absence) in &mut self.missing {
            if let Absence::Waiting(since) = absence
                && now.saturating_duration_since(*since) >= patience(*kind)
            {
                tracing::warn!(?kind, %name, "it did not come, and is not waited for any longer");
                *absence = Absence::GivenUp;
                any = true;
            }
        }
        any
    }

    /// Whether it is missing and not waited for.
    pub(super) fn is_given_up(&self, kind: Kind, name: &Arc<str>) -> bool {
        let absence = self.missing.get(&(kind, Arc::clone(name)));
        matches!(absence, Some(Absence::GivenUp | Absence::Lapsed))
    }

    /// Whether it is missing because its TTL has run out.
    pub(super) fn has_lapsed(&self, kind: Kind, name: &Arc<str>) -> bool {
        matches!(self.missing.get(&(kind, Arc::clone(name))), Some(Absence::Lapsed))
    }

    /// Whether nothing is waited for.
    pub(super) fn is_settled(&self) -> bool {
        !self.missing.values().any(|absence| matches!(absence, Absence::Waiting(_)))
    }
}

/// How long something of this kind is waited for.
const fn patience(kind: Kind) -> Duration {
    match kind {
        Kind::Cluster => UNRESOLVED_AFTER,
        Kind::Endpoints
        | Kind::Listener
        | Kind::Routes
        | Kind::Secret
        | Kind::Revocations
        | Kind::Faults
        | Kind::Destination => MISSING_AFTER,
    }
}

//! Which faults run, since when and for how long: what objects alone do not say.
//!
//! A run begins when a `FaultInjection` is first seen, or seen changed, and ends with its duration, by a stop, or with the
//! object. A stop of all holds until it is lifted, over restarts too. Faults that were applied by hand live in memory
//! only: a control server that restarts has none of them.

mod kept;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use self::kept::Kept;
use crate::ca::state::{StateDir, StateError};
use crate::compile::faults::InForce;
use crate::object::fault_injection::FaultInjection;
use crate::object::{AnyObject, Key, Object, Objects};

/// Faults that are applied by hand, at a time.
const MAX_APPLIED: usize = 64;

/// Why a fault cannot be applied by hand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The operator's files have one of this name.
    #[error("{0} is in the operator's files; change it there")]
    InSource(Key),
    /// As many as there may be are applied by hand already.
    #[error("more than {MAX_APPLIED} faults applied by hand; stop some first")]
    TooMany,
    /// Nothing may begin now.
    #[error("all faults are stopped; lift that with `outrider fault resume` first")]
    Stopped,
}

/// All runs.
#[derive(Debug, Default)]
pub struct Experiments {
    state: Mutex<State>,
    /// Where it is kept; nowhere in tests.
    file: Option<StateDir>,
}

#[derive(Debug, Default)]
struct State {
    stopped: bool,
    applied: BTreeMap<Key, Arc<Object<FaultInjection>>>,
    runs: BTreeMap<Key, Run>,
}

/// A run of an object as it is now.
#[derive(Clone, Debug)]
struct Run {
    digest: [u8; 32],
    /// By the calendar, which counts over a restart only.
    since: SystemTime,
    lasts: Duration,
    ends: Instant,
    stopped: bool,
}

/// How a fault stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Proxies have it.
    Running {
        /// What is left of its duration.
        left: Duration,
    },
    /// Its duration is over.
    Over,
    /// Somebody stopped it, or all of them.
    Stopped,
}

impl Experiments {
    /// With what was kept over a restart.
    ///
    /// # Errors
    /// When what was kept cannot be read: a stop may be in it, which must not be forgotten.
    pub fn open(file: StateDir) -> Result<Self, StateError> {
        let kept = kept::read(&file)?;
        let now = (SystemTime::now(), Instant::now());
        let runs = kept.runs.into_iter().map(|one| one.run(now)).collect();
        let state = State { stopped: kept.stopped, applied: BTreeMap::new(), runs };
        Ok(Self { state: Mutex::new(state), file: Some(file) })
    }

    /// The objects of the source together with those that were applied by hand; the same `Arc` where there are none.
    #[must_use]
    pub fn with_applied(&self, objects: &Arc<Objects>) -> Arc<Objects> {
        let state = self.lock();
        let new: Vec<_> =
            state.applied.values().filter(|one| !objects.faults.contains_key(&one.key)).collect();
        if new.is_empty() {
            return Arc::clone(objects);
        }
        let mut all = Objects::clone(objects);
        for object in new {
            all.insert(AnyObject::FaultInjection(Arc::clone(object)));
        }
        Arc::new(all)
    }

    /// Begins the runs of objects that are new or changed, and lets go of those whose object is gone, if the objects are
    /// `complete`.
    pub fn observe(&self, objects: &Objects, complete: bool) {
        let mut state = self.lock();
        let now = Instant::now();
        let mut changed = false;
        for object in objects.faults.values() {
            let known = state.runs.get(&object.key).is_some_and(|run| run.digest == object.digest);
            if !known {
                state.runs.insert(object.key.clone(), Run::new(object, now));
                changed = true;
            }
        }
        if complete {
            let before = state.runs.len();
            state.runs.retain(|key, _| objects.faults.contains_key(key));
            changed |= state.runs.len() != before;
        }
        if changed && let Err(error) = self.keep(&state) {
            tracing::error!(%error, "the runs of faults cannot be kept over a restart");
        }
    }

    /// What proxies are to be told of.
    #[must_use]
    pub fn in_force(&self) -> InForce {
        let (state, now) = (self.lock(), Instant::now());
        let over: BTreeSet<Key> =
            state.runs.iter().filter(|(_, run)| run.is_over(now)).map(|(key, _)| key.clone()).collect();
        InForce { stopped: state.stopped, over }
    }

    /// When the next run ends by itself.
    #[must_use]
    pub fn next_end(&self) -> Option<Instant> {
        let (state, now) = (self.lock(), Instant::now());
        state.runs.values().filter(|run| !run.is_over(now)).map(|run| run.ends).min()
    }

    /// How a fault stands; `None` for one that has not been seen yet.
    #[must_use]
    pub fn phase(&self, key: &Key) -> Option<Phase> {
        let (state, now) = (self.lock(), Instant::now());
        let run = state.runs.get(key)?;
        Some(match run {
            run if state.stopped || run.stopped => Phase::Stopped,
            run if run.is_over(now) => Phase::Over,
            run => Phase::Running { left: run.ends - now },
        })
    }

    /// Whether all faults are stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Stops all faults, or lets them go on. It holds in any case.
    ///
    /// # Errors
    /// When it cannot be kept over a restart.
    pub fn stop_all(&self, stopped: bool) -> Result<(), StateError> {
        let mut state = self.lock();
        state.stopped = stopped;
        if stopped {
            // They were wanted then; whoever wants them now says so again.
            state.applied.clear();
        }
        self.keep(&state)
    }

    /// Stops one, until its object changes; whether there is one. It holds in any case.
    ///
    /// # Errors
    /// When it cannot be kept over a restart.
    pub fn stop(&self, key: &Key) -> Result<bool, StateError> {
        let mut state = self.lock();
        let applied = state.applied.remove(key).is_some();
        let Some(run) = state.runs.get_mut(key) else { return Ok(applied) };
        run.stopped = true;
        self.keep(&state).map(|()| true)
    }

    /// Applies these by hand, in place of those of the same names that were; their runs begin anew.
    ///
    /// # Errors
    /// When one of them may not be; none of them is applied then.
    pub fn apply(&self, all: Vec<Arc<Object<FaultInjection>>>, source: &Objects) -> Result<(), ApplyError> {
        let mut state = self.lock();
        if state.stopped {
            return Err(ApplyError::Stopped);
        }
        let new: BTreeSet<&Key> =
            all.iter().map(|one| &one.key).filter(|key| !state.applied.contains_key(key)).collect();
        if let Some(key) = new.iter().find(|key| source.faults.contains_key(key)) {
            return Err(ApplyError::InSource(Key::clone(key)));
        }
        if state.applied.len() + new.len() > MAX_APPLIED {
            return Err(ApplyError::TooMany);
        }
        let now = Instant::now();
        for object in all {
            state.runs.insert(object.key.clone(), Run::new(&object, now));
            state.applied.insert(object.key.clone(), object);
        }
        Ok(())
    }

    fn keep(&self, state: &State) -> Result<(), StateError> {
        let Some(file) = &self.file else { return Ok(()) };
        kept::write(file, &Kept::new(state.stopped, state.runs.iter()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Run {
    fn new(object: &Object<FaultInjection>, now: Instant) -> Self {
        let lasts = object.spec.duration();
        let (digest, since, ends) = (object.digest, SystemTime::now(), now + lasts);
        Self { digest, since, lasts, ends, stopped: false }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.stopped || self.ends <= now
    }
}

#[cfg(test)]
mod tests;

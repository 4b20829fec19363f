//! Faults on leases: kept no longer than their time, and not at all where they are not wanted.

use std::sync::Arc;

use outrider_proto::Fault;
use outrider_proto::outrider::fault::v1 as pb;
use tokio::time::Instant;

use super::kept::{Resources, lapsed, put};
use crate::control::change::Kind;
use crate::fault::{FaultSet, Guard, Leased, Tally};
use crate::model::injection::{Injection, MAX_LEASE};

/// Faults at a time; each request looks at all of them.
const MAX_FAULTS: usize = 100;

/// All faults and guards.
#[derive(Debug, Default)]
pub(super) struct Faults {
    all: Resources<pb::FaultInjection, Injection>,
    tally: Arc<Tally>,
    opted_out: bool,
}

impl Faults {
    /// None from now on.
    pub(super) const fn opt_out(&mut self) {
        self.opted_out = true;
    }

    /// Takes one over. A guard that stops faults ends them here and now, before anybody is told.
    pub(super) fn set(
        &mut self,
        message: &pb::FaultInjection,
        compiled: Injection,
        expires: Option<Instant>,
    ) -> Result<(), Vec<Fault>> {
        let name: Arc<str> = message.name.as_str().into();
        let refused = |at: &str, reason: String| Err(vec![Fault::new(at, reason)]);
        check_lease(&compiled, expires)?;
        if let Injection::Fault(_) = &compiled {
            if self.opted_out {
                return refused("", "the workload has opted out of faults (OUTRIDER_FAULTS=off)".into());
            }
            if self.guard().silent {
                return refused("", "a guard stops all faults".into());
            }
            if self.all.len() >= MAX_FAULTS && !self.all.contains_key(&name) {
                return refused("", format!("more than {MAX_FAULTS} faults and guards"));
            }
        }
        let before = self.all.get(&name).map(|kept| Arc::clone(&kept.compiled));
        put(&mut self.all, Arc::clone(&name), message, compiled, (expires, false));
        if let Some(kept) = self.all.get(&name) {
            kept.compiled.extend(expires);
            if let Some(before) = before.filter(|before| !Arc::ptr_eq(before, &kept.compiled)) {
                before.end();
            }
        }
        if self.guard().silent {
            tracing::warn!(guard = %name, "all faults are stopped");
            self.all.retain(|_, kept| {
                kept.compiled.end();
                matches!(*kept.compiled, Injection::Guard(_))
            });
        }
        Ok(())
    }

    /// A heartbeat: the lease goes on without a new configuration. One that is too long changes nothing.
    pub(super) fn extend(&mut self, name: &str, expires: Option<Instant>) -> Result<(), Vec<Fault>> {
        if let Some(kept) = self.all.get_mut(name) {
            check_lease(&kept.compiled, expires)?;
            kept.compiled.extend(expires);
            kept.expires = expires;
        }
        Ok(())
    }

    /// Ends one.
    pub(super) fn remove(&mut self, name: &str) {
        if let Some(kept) = self.all.remove(name) {
            kept.compiled.end();
        }
    }

    /// Those whose time has run out.
    pub(super) fn lapsed(&self, now: Instant) -> Vec<(Kind, Arc<str>)> {
        lapsed(Kind::Faults, &self.all, now)
    }

    /// What the workers are to look at.
    pub(super) fn in_force(&self) -> Option<Arc<FaultSet>> {
        let mut guard = self.guard();
        guard.silent |= self.opted_out;
        let faults: Vec<Arc<Leased>> = self
            .all
            .values()
            .filter_map(|kept| match &*kept.compiled {
                Injection::Fault(fault) => Some(Arc::clone(fault)),
                Injection::Guard(_) => None,
            })
            .collect();
        FaultSet::new(faults, guard, &self.tally).map(Arc::new)
    }

    fn guard(&self) -> Guard {
        let mut all = Guard::default();
        for kept in self.all.values() {
            if let Injection::Guard(guard) = &*kept.compiled {
                all.add(guard);
            }
        }
        all
    }
}

/// A fault has a lease, and not too long a one; what holds faults back needs none.
fn check_lease(injection: &Injection, expires: Option<Instant>) -> Result<(), Vec<Fault>> {
    let reason = match (injection, expires) {
        (Injection::Guard(_), _) => return Ok(()),
        (Injection::Fault(_), None) => "missing; a fault needs a lease".to_owned(),
        (Injection::Fault(_), Some(expires)) if expires > Instant::now() + MAX_LEASE => {
            format!("longer than {} s", MAX_LEASE.as_secs())
        }
        (Injection::Fault(_), Some(_)) => return Ok(()),
    };
    Err(vec![Fault::new("ttl", reason)])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outrider_proto::json;

    use super::*;
    use crate::model::injection::compile;

    fn set(faults: &mut Faults, yaml: &str, ttl_s: Option<u64>) -> Result<(), Vec<Fault>> {
        let message: pb::FaultInjection = json::from_yaml(yaml).unwrap();
        let compiled = compile(&message).unwrap();
        faults.set(&message, compiled, ttl_s.map(|ttl| Instant::now() + Duration::from_secs(ttl)))
    }

    fn one(faults: &Faults, name: &str) -> Arc<Leased> {
        match &*faults.all[name].compiled {
            Injection::Fault(fault) => Arc::clone(fault),
            Injection::Guard(_) => panic!("a fault"),
        }
    }

    const A: &str = "{name: a, fault: {place: INBOUND, blackhole: {}}}";

    #[tokio::test(start_paused = true)]
    async fn a_fault_lives_as_long_as_its_lease() {
        let mut faults = Faults::default();
        assert!(faults.in_force().is_none());
        assert_eq!(set(&mut faults, A, None).unwrap_err()[0].path, "ttl");
        assert_eq!(set(&mut faults, A, Some(601)).unwrap_err()[0].path, "ttl");
        set(&mut faults, A, Some(2)).unwrap();
        let fault = one(&faults, "a");
        assert!(fault.lease.is_live() && faults.in_force().is_some());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(faults.lapsed(Instant::now()).is_empty());
        let beat = |faults: &mut Faults, ttl_s: Option<u64>| {
            faults.extend("a", ttl_s.map(|ttl| Instant::now() + Duration::from_secs(ttl)))
        };
        beat(&mut faults, Some(2)).unwrap();
        for refused in [None, Some(601)] {
            assert_eq!(beat(&mut faults, refused).unwrap_err()[0].path, "ttl", "and the lease is as it was");
        }
        tokio::time::advance(Duration::from_millis(1999)).await;
        assert!(fault.lease.is_live());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!fault.lease.is_live(), "before anybody has looked for what has lapsed");
        assert_eq!(faults.lapsed(Instant::now()).len(), 1);
        set(&mut faults, A, Some(2)).unwrap();
        assert!(Arc::ptr_eq(&fault, &one(&faults, "a")) && fault.lease.is_live());
        set(&mut faults, "{name: a, fault: {place: INBOUND, refuse: {}}}", Some(2)).unwrap();
        assert!(!fault.lease.is_live() && one(&faults, "a").lease.is_live());
        let second = one(&faults, "a");
        faults.remove("a");
        assert!(!second.lease.is_live() && faults.in_force().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_all_and_lets_none_begin() {
        for guard in ["{name: g, guard: {stop: true}}", "{name: g, guard: {opt_out: true}}"] {
            let mut faults = Faults::default();
            set(&mut faults, A, Some(60)).unwrap();
            let fault = one(&faults, "a");
            set(&mut faults, "{name: g, guard: {max_active: 1}}", None).unwrap();
            assert!(fault.lease.is_live());
            set(&mut faults, guard, None).unwrap();
            assert!(!fault.lease.is_live());
            assert!(faults.in_force().is_some_and(|set| set.is_silent()));
            assert!(set(&mut faults, A, Some(60)).is_err());
            faults.remove("g");
            assert!(faults.in_force().is_none());
            faults.extend("a", Some(Instant::now() + Duration::from_secs(9))).unwrap();
            assert!(faults.in_force().is_none(), "a heartbeat brings nothing back");
            set(&mut faults, A, Some(60)).unwrap();
            assert!(!fault.lease.is_live() && one(&faults, "a").lease.is_live());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_opted_out_has_none() {
        let mut faults = Faults::default();
        faults.opt_out();
        assert!(set(&mut faults, A, Some(60)).is_err());
        assert!(faults.in_force().is_some_and(|set| set.is_silent()));
    }
}

//! All leased faults of a proxy, and what they do to one request, attempt or connection.

use std::sync::Arc;

use super::guard::{Guard, Tally};
use super::injected::{Injected, Slot};
use super::leased::{Action, Leased, Moment, Place, Side, Subject};
use super::shape::{Pace, Shaper};
use crate::observe::Flags;
use crate::observe::metrics::GaugeGuard;

/// What is in force.
#[derive(Debug)]
pub struct FaultSet {
    /// In the order of their names.
    faults: Vec<Arc<Leased>>,
    guard: Guard,
    tally: Arc<Tally>,
}

/// How far a subject has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A client's connection was accepted, and not a byte of it was looked at for good.
    Accepted,
    /// A request, or an opaque connection.
    Whole,
    /// An attempt at an endpoint.
    Attempt,
}

/// What happens to one request, attempt or connection; of several faults of a kind the first.
#[derive(Debug, Default)]
pub struct Plan {
    /// The faults, with their places.
    pub hits: Vec<(Arc<Leased>, Slot)>,
    /// Before the request.
    pub wait: Option<Pause>,
    /// Before the response.
    pub hold: Option<Pause>,
    /// What ends it.
    pub end: Option<Arc<Leased>>,
    /// How bytes from the client go.
    pub request: Option<Box<Shaper>>,
    /// How bytes to the client go.
    pub response: Option<Box<Shaper>>,
}

/// A delay that lasts no longer than its lease.
#[derive(Debug)]
pub struct Pause {
    /// Whose it is.
    pub fault: Arc<Leased>,
    /// How long.
    pub delay: std::time::Duration,
}

impl Pause {
    /// Waits. Cancel-safe.
    pub async fn over(&self) {
        self.fault.lease.wait(self.delay).await;
    }
}

impl FaultSet {
    /// `None` where there is nothing to be looked at.
    #[must_use]
    pub fn new(faults: Vec<Arc<Leased>>, guard: Guard, tally: &Arc<Tally>) -> Option<Self> {
        let faults = if guard.silent { Vec::new() } else { faults };
        let something = guard.silent || !faults.is_empty();
        something.then(|| Self { faults, guard, tally: Arc::clone(tally) })
    }

    /// Whether no fault of any kind may happen.
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        self.guard.silent
    }

    /// The number of the next connection.
    #[must_use]
    pub fn next_connection(&self) -> u64 {
        self.tally.next_connection()
    }

    /// Whether any fault is about this one, however its draw may go. What most requests pay while there are faults for others.
    #[must_use]
    pub fn concerns(&self, (place, stage): (Place, Stage), subject: &Subject<'_>) -> bool {
        self.faults.iter().any(|fault| fault.concerns((place, stage), subject))
    }

    /// What happens to this one. `held_back` hears of each fault that would have been and that a cap forbids.
    #[must_use]
    pub fn choose(
        &self,
        (place, stage): (Place, Stage),
        subject: &Subject<'_>,
        connection: u64,
        mut held_back: impl FnMut(&Leased),
    ) -> Option<Box<Plan>> {
        let concerns = |fault: &&Arc<Leased>| fault.concerns((place, stage), subject);
        let mut concerning = self.faults.iter().filter(concerns).peekable();
        concerning.peek()?;
        if self.guard.spares(subject) {
            return None;
        }
        self.tally.pass(&self.guard);
        let mut plan: Option<Box<Plan>> = None;
        let mut place_of_all = None;
        for fault in concerning {
            let Some(draw) = fault.strikes(connection) else { continue };
            // One place among those of the proxy for all faults of a subject.
            if place_of_all.is_none() {
                place_of_all = self.tally.take_slot(&self.guard);
            }
            let slot = place_of_all.as_ref().and_then(|_| Slot::take(&fault.active, fault.max_active));
            let Some(slot) = slot else {
                held_back(fault);
                continue;
            };
            let plan = plan.get_or_insert_default();
            plan.add(fault, draw);
            plan.hits.push((Arc::clone(fault), slot));
        }
        let mut plan = plan?;
        if let (Some((first, _)), Some(slot)) = (plan.hits.first(), place_of_all) {
            let first = Arc::clone(first);
            plan.hits.push((first, slot));
        }
        Some(plan)
    }
}

impl Leased {
    fn concerns(&self, (place, stage): (Place, Stage), subject: &Subject<'_>) -> bool {
        let in_time = stage == Stage::Attempt || self.action.is_before_all() == (stage == Stage::Accepted);
        // A look at the clock costs more than all the rest: most faults are about somebody else.
        self.place == place
            && in_time
            && self.action.suits(subject)
            && self.rule.matches(subject)
            && self.lease.is_live()
    }
}

impl Plan {
    /// The response flags of what is planned, apart from an end, which has its own.
    #[must_use]
    pub const fn flags(&self) -> Flags {
        let delayed = self.wait.is_some() || self.hold.is_some();
        let shaped = self.request.is_some() || self.response.is_some();
        let flags = if delayed { Flags::DI } else { Flags::NONE };
        if shaped { flags.with(Flags::FS) } else { flags }
    }

    /// The names of the faults, until they are handed over.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.hits.iter().map(|(fault, _)| &fault.name)
    }

    /// Hands the marks and places over and counts the faults; `count` gives what shows that one is at work.
    pub fn note(&mut self, injected: &mut Injected, count: impl Fn(&Leased) -> GaugeGuard) {
        let last = self.hits.len().saturating_sub(1);
        for (index, (fault, slot)) in self.hits.drain(..).enumerate() {
            // The last one is the place in the proxy, which stands under the name of the first.
            if index < last {
                injected.show(count(&fault));
            }
            injected.add(&fault.name, Some(slot));
        }
    }

    fn add(&mut self, fault: &Arc<Leased>, draw: u64) {
        let own = || Some(Arc::clone(fault));
        match &fault.action {
            Action::Delay(Moment::Chunk, distribution) => {
                let pace = Pace::Chunks(*distribution, draw);
                self.side(Side::Response).set_pace(pace, own());
            }
            Action::Delay(moment, distribution) => {
                let pause = Pause { fault: Arc::clone(fault), delay: distribution.sample(draw) };
                let place = if *moment == Moment::Request { &mut self.wait } else { &mut self.hold };
                place.get_or_insert(pause);
            }
            Action::Abort(_)
            | Action::Blackhole
            | Action::Refuse
            | Action::TlsFailure(_)
            | Action::ExpiredCertificate => {
                self.end.get_or_insert_with(|| Arc::clone(fault));
            }
            Action::Bandwidth(request, response) => {
                for (side, rate) in [(Side::Request, *request), (Side::Response, *response)] {
                    if rate > 0 {
                        self.side(side).set_pace(Pace::Rate(rate), own());
                    }
                }
            }
            Action::Drip(side, bytes, interval) => {
                self.side(*side).set_pace(Pace::Drip(*bytes, *interval), own());
            }
            Action::Truncate(side, bytes) => self.side(*side).set_cut(*bytes, own()),
            Action::Corrupt(side, one_in) => self.side(*side).set_corruption(*one_in, draw, own()),
        }
    }

    fn side(&mut self, side: Side) -> &mut Shaper {
        let place = match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.response,
        };
        place.get_or_insert_with(|| Box::new(Shaper::new(None)))
    }
}

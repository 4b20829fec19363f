//! Which endpoint an attempt goes to.
//!
//! [`levels`] narrows a set of endpoints down to a group: a priority, and a locality where those have shares. A group
//! has a picker, which is built when the endpoints or their health change and picks without allocating. Workers
//! pick independently of each other; each begins its turn at a random place, so that together they are even.

mod draw;
pub mod ewma;
mod hash;
pub mod levels;
mod schedule;
pub mod zone;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::time::Instant;

use self::draw::Draw;
use self::hash::{Maglev, Ring};
use self::levels::Member;
use self::schedule::Schedule;
use crate::model::balancing::{PeakEwma, SlowStart};
use crate::model::{Balancer, Balancing};
use crate::upstream::EndpointState;

/// How often an endpoint that is still at its slow start is passed over; then it is taken all the same.
const MAX_PASSED_OVER: usize = 16;

/// What an attempt wishes of the choice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// The hash of the request, where it has one.
    pub hash: Option<u64>,
    /// How often a choice was made for this attempt before.
    pub again: u32,
}

/// Endpoints among which one policy chooses.
#[derive(Debug)]
pub struct Group {
    endpoints: Box<[Rc<EndpointState>]>,
    picker: Picker,
    slow_start: Option<SlowStart>,
    /// Until when somebody here is at a slow start.
    warming: Cell<bool>,
}

/// The choice within a group.
#[derive(Debug)]
enum Picker {
    /// In turn; all weights are the same.
    InTurn(Cell<usize>),
    /// In turn, more often where the weight is larger.
    Weighted(RefCell<Schedule>),
    /// By chance.
    Random(Draw),
    /// The least busy of several drawn by chance.
    LeastRequest(Draw, u32),
    /// In turn, more often where the weight is larger, less often where more is under way.
    LeastLoaded(RefCell<Schedule>, f64),
    /// The cheaper of two drawn by chance.
    PeakEwma(Draw, PeakEwma),
    /// By a hash.
    Ring(Ring),
    /// By a hash.
    Maglev(Maglev),
}

impl Group {
    /// These endpoints; `shares` are their weights, of any scale.
    #[must_use]
    pub fn new(members: &[&Member], shares: Vec<f64>, balancing: &Balancing) -> Self {
        let weights: Vec<u32> = members.iter().map(|member| member.weight).collect();
        let even = weights.windows(2).all(|pair| pair.first() == pair.last());
        let sum: f64 = shares.iter().sum();
        let named = || -> Vec<(String, f64)> {
            let names = members.iter().map(|member| member.state.address().to_string());
            names.zip(shares.iter().map(|share| if sum > 0.0 { share / sum } else { 0.0 })).collect()
        };
        let picker = match balancing.balancer {
            Balancer::RoundRobin if even => Picker::InTurn(Cell::new(fastrand::usize(..))),
            Balancer::RoundRobin => Picker::Weighted(RefCell::new(Schedule::new(&weights))),
            Balancer::Random | Balancer::OriginalDst => Picker::Random(Draw::new(&weights)),
            Balancer::LeastRequest { choices, .. } if even => {
                Picker::LeastRequest(Draw::new(&weights), choices)
            }
            Balancer::LeastRequest { bias, .. } => {
                Picker::LeastLoaded(RefCell::new(Schedule::new(&weights)), bias)
            }
            Balancer::PeakEwma(parameters) => Picker::PeakEwma(Draw::new(&weights), parameters),
            Balancer::RingHash { min, max } => Picker::Ring(Ring::new(&named(), min, max)),
            Balancer::Maglev(size) => Picker::Maglev(Maglev::new(&named(), size)),
        };
        Self {
            endpoints: members.iter().map(|member| Rc::clone(&member.state)).collect(),
            picker,
            slow_start: balancing.slow_start,
            warming: Cell::new(true),
        }
    }

    /// One of the endpoints; `None` when there are none.
    #[must_use]
    pub fn pick(&self, wish: &Wish, random: &mut fastrand::Rng) -> Option<&Rc<EndpointState>> {
        let Some(slow_start) = self.slow_start.filter(|_| self.warming.get() && self.endpoints.len() > 1)
        else {
            return self.any(wish, random);
        };
        let now = Instant::now();
        let begun = |endpoint: &Rc<EndpointState>| now.saturating_duration_since(endpoint.since());
        if self.endpoints.iter().all(|endpoint| begun(endpoint) >= slow_start.window) {
            self.warming.set(false);
        }
        let mut picked = self.any(wish, random)?;
        for _ in 0..MAX_PASSED_OVER {
            let part = begun(picked).as_secs_f64() / slow_start.window.as_secs_f64();
            if part >= 1.0 || random.f64() < part.powf(1.0 / slow_start.aggression).max(slow_start.least) {
                break;
            }
            picked = self.any(wish, random)?;
        }
        Some(picked)
    }

    fn any(&self, wish: &Wish, random: &mut fastrand::Rng) -> Option<&Rc<EndpointState>> {
        let index = match &self.picker {
            Picker::InTurn(next) => {
                let turn = next.get();
                next.set(turn.wrapping_add(1));
                turn.checked_rem(self.endpoints.len())?
            }
            Picker::Weighted(schedule) => schedule.borrow_mut().next()?,
            Picker::Random(draw) => draw.next(random)?,
            Picker::LeastRequest(draw, choices) => self.least_busy(draw, *choices, random)?,
            Picker::LeastLoaded(schedule, bias) => {
                let slowed = |index: usize| (f64::from(self.active(index)) + 1.0).powf(*bias);
                schedule.borrow_mut().next_slowed(slowed)?
            }
            Picker::PeakEwma(draw, parameters) => self.cheaper(draw, parameters, random)?,
            Picker::Ring(ring) => ring.owner(wish.hash.unwrap_or_else(|| random.u64(..)), wish.again)?,
            Picker::Maglev(table) => table.owner(wish.hash.unwrap_or_else(|| random.u64(..)), wish.again)?,
        };
        self.endpoints.get(index)
    }

    fn active(&self, index: usize) -> u32 {
        self.endpoints.get(index).map_or(u32::MAX, |endpoint| endpoint.active())
    }

    fn least_busy(&self, draw: &Draw, choices: u32, random: &mut fastrand::Rng) -> Option<usize> {
        let (mut best, second) = draw.pair(random)?;
        let mut consider = |other: usize| {
            if self.active(other) < self.active(best) {
                best = other;
            }
        };
        consider(second);
        for _ in 2..choices {
            consider(draw.next(random)?);
        }
        Some(best)
    }

    fn cheaper(&self, draw: &Draw, parameters: &PeakEwma, random: &mut fastrand::Rng) -> Option<usize> {
        let (first, second) = draw.pair(random)?;
        if first == second {
            return Some(first);
        }
        let now = Instant::now();
        let cost = |index: usize| {
            let endpoint = self.endpoints.get(index)?;
            Some(endpoint.latency.cost(parameters, endpoint.active(), now))
        };
        Some(if cost(second)? < cost(first)? { second } else { first })
    }
}

#[cfg(test)]
mod tests;

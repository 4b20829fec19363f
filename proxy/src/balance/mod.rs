//! Which endpoint an attempt goes to.
//!
//! A picker is built when the endpoints change and picks without allocating. Workers pick independently of each
//! other; each begins its turn at a random place, so that together they are even.

mod schedule;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use schedule::Schedule;

use crate::model::Balancer;
use crate::upstream::EndpointState;

/// The choice among the available endpoints of a cluster.
#[derive(Debug)]
pub enum Picker {
    /// In turn; all weights are the same.
    InTurn(Cell<usize>),
    /// In turn, more often where the weight is larger.
    Weighted(RefCell<Schedule>),
    /// By chance.
    Random(Cumulative),
    /// The least busy of several drawn by chance.
    LeastRequest(Cumulative, u32),
}

/// Sums of weights, for a draw in logarithmic time.
#[derive(Debug)]
pub struct Cumulative(Vec<u64>);

impl Picker {
    /// A picker over endpoints with these weights.
    #[must_use]
    pub fn new(balancer: Balancer, weights: &[u32]) -> Self {
        match balancer {
            Balancer::RoundRobin if weights.windows(2).all(|pair| pair.first() == pair.last()) => {
                Self::InTurn(Cell::new(fastrand::usize(..)))
            }
            Balancer::RoundRobin => Self::Weighted(RefCell::new(Schedule::new(weights))),
            Balancer::Random | Balancer::OriginalDst => Self::Random(Cumulative::new(weights)),
            Balancer::LeastRequest(choices) => Self::LeastRequest(Cumulative::new(weights), choices),
        }
    }

    /// One of the endpoints, which are those that the picker was made for; `None` when there are none.
    #[must_use]
    pub fn pick(
        &self,
        endpoints: &[Rc<EndpointState>],
        random: &mut fastrand::Rng,
    ) -> Option<Rc<EndpointState>> {
        let index = match self {
            Self::InTurn(next) => {
                let turn = next.get();
                next.set(turn.wrapping_add(1));
                turn.checked_rem(endpoints.len())?
            }
            Self::Weighted(schedule) => schedule.borrow_mut().next()?,
            Self::Random(cumulative) => cumulative.draw(random)?,
            Self::LeastRequest(cumulative, choices) => {
                let busy = |index: usize| endpoints.get(index).map_or(u32::MAX, |endpoint| endpoint.active());
                let mut best = cumulative.draw(random)?;
                for _ in 1..*choices {
                    let other = cumulative.draw(random)?;
                    if busy(other) < busy(best) {
                        best = other;
                    }
                }
                best
            }
        };
        endpoints.get(index).map(Rc::clone)
    }
}

impl Cumulative {
    fn new(weights: &[u32]) -> Self {
        let mut sum = 0_u64;
        let sums = weights.iter().map(|weight| {
            sum += u64::from(*weight);
            sum
        });
        Self(sums.collect())
    }

    fn draw(&self, random: &mut fastrand::Rng) -> Option<usize> {
        let total = *self.0.last()?;
        let draw = random.u64(..total.max(1));
        Some(self.0.partition_point(|sum| *sum <= draw))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::SocketAddr;

    use super::*;

    fn endpoints(count: u16) -> Vec<Rc<EndpointState>> {
        (0..count).map(|n| Rc::new(EndpointState::new(SocketAddr::from(([127, 0, 0, 1], n)), None))).collect()
    }

    fn shares(balancer: Balancer, weights: &[u32], picks: usize) -> Vec<usize> {
        let endpoints = endpoints(u16::try_from(weights.len()).unwrap());
        let picker = Picker::new(balancer, weights);
        let mut random = fastrand::Rng::with_seed(7);
        let mut counts: HashMap<u16, usize> = HashMap::new();
        for _ in 0..picks {
            *counts.entry(picker.pick(&endpoints, &mut random).unwrap().address().port()).or_default() += 1;
        }
        (0..weights.len()).map(|n| counts.get(&u16::try_from(n).unwrap()).copied().unwrap_or(0)).collect()
    }

    #[test]
    fn round_robin_is_exact() {
        assert_eq!(shares(Balancer::RoundRobin, &[1, 1, 1], 300), [100, 100, 100]);
        assert_eq!(shares(Balancer::RoundRobin, &[5, 1, 2], 800), [500, 100, 200]);
    }

    #[test]
    fn random_follows_the_weights() {
        for balancer in [Balancer::Random, Balancer::LeastRequest(2)] {
            let found = shares(balancer, &[1, 3], 10_000);
            let least = if balancer == Balancer::Random { 2300..2700 } else { 2000..3000 };
            assert!(least.contains(&found[0]), "{balancer:?} {found:?}");
        }
    }

    #[test]
    fn least_request_avoids_the_busy_one() {
        let endpoints = endpoints(2);
        let _busy = endpoints[0].begin();
        let picker = Picker::new(Balancer::LeastRequest(8), &[1, 1]);
        let mut random = fastrand::Rng::with_seed(7);
        let chosen =
            (0..100).filter(|_| picker.pick(&endpoints, &mut random).unwrap().address().port() == 1).count();
        assert!(chosen > 90, "{chosen}");
    }

    #[test]
    fn nobody_is_picked_from_nobody() {
        for balancer in [Balancer::RoundRobin, Balancer::Random, Balancer::LeastRequest(2)] {
            assert!(Picker::new(balancer, &[]).pick(&[], &mut fastrand::Rng::new()).is_none());
        }
    }
}

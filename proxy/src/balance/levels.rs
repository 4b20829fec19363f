//! Which endpoints of a set are used at all: priorities, localities and the share of those that are well.
//!
//! The rules are Envoy's: a priority whose well endpoints, counted `overprovisioning_factor` times over, cannot carry
//! everything leaves the rest to the next one, and where too few are well of all that there are, all are used
//! (`healthy_panic_threshold`).

use std::rc::Rc;

use super::draw::Draw;
use super::zone::Home;
use super::{Group, Wish};
use crate::model::Balancing;
use crate::model::balancing::ZoneAware;
use crate::model::endpoint::{Health, Locality};
use crate::upstream::EndpointState;

/// An endpoint with what the choice goes by.
#[derive(Clone, Debug)]
pub struct Member {
    /// The endpoint.
    pub state: Rc<EndpointState>,
    /// Its share.
    pub weight: u32,
    /// What is known of it, from all sources.
    pub health: Health,
    /// Where it stands.
    pub locality: std::sync::Arc<Locality>,
}

/// The endpoints of a set in the order of their priorities.
#[derive(Debug, Default)]
pub struct Levels {
    /// With the share of each in percent, added up.
    levels: Vec<(u32, Level)>,
}

/// The endpoints of one priority that are used.
#[derive(Debug)]
struct Level {
    groups: Vec<Group>,
    draw: Draw,
}

/// How many endpoints a priority or locality has, and of what kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    well: u32,
    total: u32,
    overprovisioning: u32,
}

impl Levels {
    /// Over these endpoints.
    #[must_use]
    pub fn new(members: &[Member], balancing: &Balancing, home: Option<&Home>) -> Self {
        let last = members.iter().map(|member| member.locality.priority).max().unwrap_or(0);
        let of = |priority: u32| members.iter().filter(move |member| member.locality.priority == priority);
        let counts: Vec<Counts> = (0..=last).map(|priority| Counts::of(of(priority))).collect();
        let mut sum = 0;
        let mut levels = Vec::new();
        for (priority, (load, panic)) in (0..=last).zip(loads(&counts, balancing.panic_percent)) {
            // Zones count in the first priority only, as in Envoy.
            let home = home.filter(|_| priority == 0);
            let level = Level::new(of(priority), panic, balancing, home);
            if load > 0 && !level.groups.is_empty() {
                sum += load;
                levels.push((sum, level));
            }
        }
        Self { levels }
    }

    /// One of the endpoints.
    #[must_use]
    pub fn pick(&self, wish: &Wish, random: &mut fastrand::Rng) -> Option<&Rc<EndpointState>> {
        let level = match self.levels.as_slice() {
            [] => return None,
            [(_, only)] => only,
            several => {
                let sum = several.last().map_or(1, |(sum, _)| *sum);
                let draw = wish.hash.unwrap_or_else(|| random.u64(..)) % u64::from(sum);
                &several.iter().find(|(sum, _)| draw < u64::from(*sum))?.1
            }
        };
        let group = match level.groups.as_slice() {
            [only] => only,
            several => several.get(level.draw.next(random)?)?,
        };
        group.pick(wish, random)
    }
}

impl Counts {
    fn of<'a>(members: impl Iterator<Item = &'a Member>) -> Self {
        let mut counts = Self::default();
        for member in members {
            counts.overprovisioning = member.locality.overprovisioning;
            match member.health {
                Health::Well => counts.well += 1,
                Health::Unwell | Health::Draining => {}
            }
            counts.total += 1;
        }
        counts
    }

    /// How much of its load it can carry, in percent.
    fn availability(self) -> u32 {
        let carried = u64::from(self.overprovisioning) * u64::from(self.well);
        let percent = carried.checked_div(u64::from(self.total)).unwrap_or(0);
        u32::try_from(percent.min(100)).unwrap_or(100)
    }

    fn is_in_panic(self, threshold: f64) -> bool {
        self.total == 0 || f64::from(self.well) * 100.0 / f64::from(self.total) < threshold
    }
}

/// What each priority gets, in percent, and whether it uses the unwell too.
fn loads(counts: &[Counts], threshold: f64) -> Vec<(u32, bool)> {
    let available: Vec<u32> = counts.iter().map(|counts| counts.availability()).collect();
    let together = available.iter().sum::<u32>().min(100);
    let mut panic: Vec<bool> =
        counts.iter().map(|counts| together < 100 && counts.is_in_panic(threshold)).collect();
    if threshold > 0.0 && together == 0 {
        panic.fill(true);
    }
    let total_panic = panic.iter().all(|panic| *panic);
    let shares: Vec<u32> =
        if total_panic { counts.iter().map(|counts| counts.total).collect() } else { available };
    let whole = if total_panic { shares.iter().sum() } else { together };
    let mut left = 100;
    let mut loads: Vec<u32> = shares
        .iter()
        .map(|share| {
            let load = (share * 100).checked_div(whole).unwrap_or(0).min(left);
            left -= load;
            load
        })
        .collect();
    // What rounding has left goes to the first that gets anything.
    if whole > 0
        && let Some(first) = loads.iter_mut().find(|load| **load > 0)
    {
        *first += left;
    }
    loads.into_iter().zip(panic).collect()
}

impl Level {
    fn new<'a>(
        members: impl Iterator<Item = &'a Member>,
        panic: bool,
        balancing: &Balancing,
        home: Option<&Home>,
    ) -> Self {
        if panic && balancing.fail_on_panic {
            return Self { groups: Vec::new(), draw: Draw::new(&[1]) };
        }
        let members: Vec<&Member> = members.collect();
        let used: Vec<&Member> = members
            .iter()
            .filter(|member| match member.health {
                Health::Well => true,
                Health::Unwell => panic,
                Health::Draining => false,
            })
            .copied()
            .collect();
        if let (false, Some(zones), Some(home)) = (panic, &balancing.zone_aware, home)
            && let Some(level) = Self::zonal(&members, &used, (home, zones), balancing)
        {
            return level;
        }
        if panic || !balancing.locality_weighted {
            let shares = used.iter().map(|member| f64::from(member.weight)).collect();
            let groups =
                if used.is_empty() { Vec::new() } else { vec![Group::new(&used, shares, balancing)] };
            return Self { groups, draw: Draw::new(&[1]) };
        }
        let localities = localities(&members, &used);
        if balancing.balancer.by_hash() {
            // One table for all: an endpoint's share is its locality's, divided by the weights in it.
            let shares = used.iter().map(|member| share(member, &used, &localities)).collect();
            let groups =
                if used.is_empty() { Vec::new() } else { vec![Group::new(&used, shares, balancing)] };
            return Self { groups, draw: Draw::new(&[1]) };
        }
        let (mut groups, mut weights) = (Vec::new(), Vec::new());
        for (locality, weight) in localities.iter().filter(|(_, weight)| *weight > 0) {
            let of: Vec<&Member> =
                used.iter().filter(|member| member.locality.is_same(locality)).copied().collect();
            let shares = of.iter().map(|member| f64::from(member.weight)).collect();
            groups.push(Group::new(&of, shares, balancing));
            weights.push(*weight);
        }
        Self { groups, draw: Draw::new(&weights) }
    }

    /// With a group for each zone that gets requests of its own, and one for those that go anywhere.
    fn zonal(
        members: &[&Member],
        used: &[&Member],
        (home, zones): (&Home, &ZoneAware),
        balancing: &Balancing,
    ) -> Option<Self> {
        let mut counted: Vec<(&Locality, usize)> = Vec::new();
        for member in members {
            let locality: &Locality = &member.locality;
            if !counted.iter().any(|(known, _)| known.is_same(locality)) {
                let here = used.iter().filter(|other| other.locality.is_same(locality));
                counted.push((locality, here.count()));
            }
        }
        let (anywhere, shares) = home.shares(&counted, zones, balancing.panic_percent)?;
        let (mut groups, mut weights) = (Vec::new(), Vec::new());
        let mut add = |of: &[&Member], weight: u32| {
            if weight > 0 && !of.is_empty() {
                let shares = of.iter().map(|member| f64::from(member.weight)).collect();
                groups.push(Group::new(of, shares, balancing));
                weights.push(weight);
            }
        };
        add(used, anywhere);
        for ((zone, _), share) in counted.iter().zip(shares) {
            let here: Vec<&Member> =
                used.iter().filter(|member| member.locality.is_same(zone)).copied().collect();
            add(&here, share);
        }
        Some(Self { groups, draw: Draw::new(&weights) })
    }
}

fn share(member: &Member, used: &[&Member], localities: &[(&Locality, u32)]) -> f64 {
    let here = |other: &&&Member| other.locality.is_same(&member.locality);
    let sum: u64 = used.iter().filter(here).map(|other| u64::from(other.weight)).sum();
    let weight = localities.iter().find(|(locality, _)| member.locality.is_same(locality));
    #[expect(clippy::cast_precision_loss, reason = "sums of weights are small")]
    let part = f64::from(member.weight) / sum.max(1) as f64;
    weight.map_or(0.0, |(_, weight)| f64::from(*weight) * part)
}

/// Scale of the weights of localities, so that what is lost for their unwell endpoints is not lost in rounding.
const SCALE: f64 = 1000.0;

/// The localities with their weights, less what their unwell endpoints cannot carry.
fn localities<'a>(members: &[&'a Member], used: &[&Member]) -> Vec<(&'a Locality, u32)> {
    let mut found: Vec<(&Locality, u32)> = Vec::new();
    for member in members {
        let locality: &Locality = &member.locality;
        if found.iter().any(|(known, _)| known.is_same(locality)) {
            continue;
        }
        let of = |all: &[&Member]| all.iter().filter(|other| other.locality.is_same(locality)).count();
        #[expect(clippy::cast_precision_loss, reason = "counts of endpoints are small")]
        let well = of(used) as f64 / of(members) as f64;
        let carried = (f64::from(locality.overprovisioning) / 100.0 * well).min(1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, never negative"
        )]
        let weight = (f64::from(locality.weight) * carried * SCALE) as u32;
        found.push((locality, weight));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(all: &[(u32, u32)]) -> Vec<Counts> {
        all.iter().map(|(well, total)| Counts { well: *well, total: *total, overprovisioning: 140 }).collect()
    }

    #[test]
    fn priorities_carry_what_they_can() {
        for (given, threshold, expected) in [
            (&[(10, 10), (10, 10)][..], 50.0, &[(100, false), (0, false)][..]),
            // 72 % of 10 are enough, counted 1.4 times over.
            (&[(8, 10), (10, 10)], 50.0, &[(100, false), (0, false)]),
            (&[(5, 10), (10, 10)], 50.0, &[(70, false), (30, false)]),
            // The second can carry the rest, so the first does not panic.
            (&[(2, 10), (10, 10)], 50.0, &[(28, false), (72, false)]),
            (&[(0, 10), (10, 10)], 50.0, &[(0, false), (100, false)]),
            // Together less than everything: 28 + 42 of 100.
            (&[(2, 10), (3, 10)], 50.0, &[(50, true), (50, true)]),
            (&[(2, 10), (3, 10)], 0.0, &[(40, false), (60, false)]),
            (&[(2, 10), (6, 10)], 50.0, &[(28, false), (72, false)]),
            (&[(1, 3)], 50.0, &[(100, true)]),
            (&[(2, 3)], 50.0, &[(100, false)]),
            (&[(0, 3)], 50.0, &[(100, true)]),
            (&[(0, 3)], 0.0, &[(0, false)]),
            (&[(0, 3), (0, 1)], 50.0, &[(75, true), (25, true)]),
            (&[(0, 0)], 50.0, &[(0, true)]),
        ] {
            assert_eq!(loads(&counts(given), threshold), expected, "{given:?} {threshold}");
        }
    }
}

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::levels::Levels;
use super::*;
use crate::model::endpoint::{Health, Locality};
use crate::upstream::host::Host;

fn endpoint(number: u16) -> Rc<EndpointState> {
    let address = SocketAddr::from(([127, 0, 0, 1], number));
    Rc::new(EndpointState::new(address, None, Arc::new(Host::default())))
}

fn member(number: usize, weight: u32) -> Member {
    let state = endpoint(u16::try_from(number).unwrap());
    Member { state, weight, health: Health::Well, locality: Arc::default() }
}

fn members(weights: &[u32]) -> Vec<Member> {
    weights.iter().enumerate().map(|(number, weight)| member(number, *weight)).collect()
}

fn balancing(balancer: Balancer) -> Balancing {
    Balancing { balancer, ..Balancing::default() }
}

/// How often each was picked.
fn counted(levels: &Levels, count: usize, picks: usize) -> Vec<usize> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut counts: HashMap<u16, usize> = HashMap::new();
    for _ in 0..picks {
        let picked = levels.pick(&Wish::default(), &mut random).unwrap();
        *counts.entry(picked.address().port()).or_default() += 1;
    }
    (0..count).map(|number| counts.get(&u16::try_from(number).unwrap()).copied().unwrap_or(0)).collect()
}

fn shares(balancer: Balancer, weights: &[u32], picks: usize) -> Vec<usize> {
    let levels = Levels::new(&members(weights), &balancing(balancer), None);
    counted(&levels, weights.len(), picks)
}

const LEAST: Balancer = Balancer::LeastRequest { choices: 2, bias: 1.0 };
const EWMA: Balancer = Balancer::PeakEwma(PeakEwma {
    decay: Duration::from_secs(10),
    default_latency: Duration::from_millis(30),
    failure_penalty: Duration::from_secs(1),
});

fn is_about(found: usize, wanted: usize) -> bool {
    found.abs_diff(wanted) * 20 <= wanted
}

#[test]
fn round_robin_is_exact() {
    assert_eq!(shares(Balancer::RoundRobin, &[1, 1, 1], 300), [100, 100, 100]);
    assert_eq!(shares(Balancer::RoundRobin, &[5, 1, 2], 800), [500, 100, 200]);
}

#[test]
fn weighted_turns_are_smooth() {
    let levels = Levels::new(&members(&[5, 1, 1]), &balancing(Balancer::RoundRobin), None);
    let mut random = fastrand::Rng::with_seed(7);
    let turns: Vec<u16> =
        (0..70).map(|_| levels.pick(&Wish::default(), &mut random).unwrap().address().port()).collect();
    for window in turns.windows(7) {
        assert_eq!(window.iter().filter(|port| **port == 0).count(), 5, "{window:?}");
    }
    // The light ones do not come one after the other's turn only at the end of a round.
    assert!(turns.windows(6).all(|window| window.iter().any(|port| *port != 0)), "{turns:?}");
}

#[test]
fn draws_follow_the_weights() {
    for balancer in [
        Balancer::Random,
        LEAST,
        EWMA,
        Balancer::Maglev(65_537),
        Balancer::RingHash { min: 65_536, max: 1 << 20 },
    ] {
        let found = shares(balancer, &[1, 3, 4], 80_000);
        if balancer != EWMA {
            for (found, wanted) in found.iter().zip([10_000, 30_000, 40_000]) {
                assert!(is_about(*found, wanted), "{balancer:?} {found}");
            }
        }
        let even = shares(balancer, &[2, 2, 2, 2], 80_000);
        assert!(even.iter().all(|found| is_about(*found, 20_000)), "{balancer:?} {even:?}");
    }
}

#[test]
fn the_busy_are_avoided() {
    for balancer in [Balancer::LeastRequest { choices: 4, bias: 1.0 }, EWMA] {
        let members = members(&[1, 1]);
        let _busy = members[0].state.begin();
        let found = counted(&Levels::new(&members, &balancing(balancer), None), 2, 100);
        assert_eq!(found, [0, 100], "{balancer:?}");
    }
    for (bias, wanted) in [(0.0, 7500), (1.0, 4286), (2.0, 1579)] {
        // Weights 3 and 1, three under way at the heavy one: 3 / 4^bias to 1.
        let members = members(&[3, 1]);
        let _busy = (members[0].state.begin(), members[0].state.begin(), members[0].state.begin());
        let balancer = Balancer::LeastRequest { choices: 2, bias };
        let found = counted(&Levels::new(&members, &balancing(balancer), None), 2, 10_000)[0];
        assert!(found.abs_diff(wanted) < 20, "{bias}: {found} instead of {wanted}");
    }
}

#[test]
fn the_slow_are_avoided_until_it_is_forgotten() {
    let members = members(&[1, 1, 1]);
    let now = Instant::now();
    let parameters = PeakEwma::default();
    for (member, latency) in members.iter().zip([5, 5, 500]) {
        member.state.latency.observe(&parameters, Duration::from_millis(latency), now);
    }
    let found = counted(&Levels::new(&members, &balancing(EWMA), None), 3, 1000);
    assert_eq!(found[2], 0);
    assert!(is_about(found[0], 500) || found[0] > 400, "{found:?}");
}

#[test]
fn a_hash_sticks() {
    for balancer in [Balancer::Maglev(997), Balancer::RingHash { min: 1024, max: 4096 }] {
        let levels = Levels::new(&members(&[1; 20]), &balancing(balancer), None);
        let mut random = fastrand::Rng::with_seed(7);
        for hash in [0, 7, u64::MAX, 0x1234_5678_9abc_def0] {
            let mut pick = |again| {
                let wish = Wish { hash: Some(hash), again };
                levels.pick(&wish, &mut random).unwrap().address()
            };
            let first = pick(0);
            assert!((0..50).all(|_| pick(0) == first));
            assert!((1..20).any(|again| pick(again) != first), "{balancer:?} {hash}");
        }
    }
}

#[test]
fn a_slow_start_is_slow() {
    let mut balancing = balancing(Balancer::RoundRobin);
    balancing.slow_start = Some(SlowStart { window: Duration::from_secs(100), aggression: 1.0, least: 0.1 });
    let members = members(&[1, 1]);
    // Both at their beginning: as ever.
    let even = counted(&Levels::new(&members, &balancing, None), 2, 10_000);
    assert!(is_about(even[0], 5000), "{even:?}");
    members[0].state.backdate(Duration::from_secs(200));
    let found = counted(&Levels::new(&members, &balancing, None), 2, 10_000);
    // One to a tenth.
    assert!((700..1150).contains(&found[1]), "{found:?}");
    members[1].state.backdate(Duration::from_secs(50));
    let found = counted(&Levels::new(&members, &balancing, None), 2, 9_000);
    assert!((2700..3300).contains(&found[1]), "{found:?}");
}

fn placed(number: usize, zone: &str, (priority, weight): (u32, u32), health: Health) -> Member {
    let locality = Locality { zone: zone.into(), priority, weight, ..Locality::default() };
    Member { locality: Arc::new(locality), health, ..member(number, 1) }
}

#[test]
fn localities_have_their_share() {
    let well = Health::Well;
    let mut members: Vec<Member> = (0..2).map(|n| placed(n, "a", (0, 3), well)).collect();
    members.extend((2..6).map(|n| placed(n, "b", (0, 1), well)));
    let mut weighted = balancing(Balancer::RoundRobin);
    weighted.locality_weighted = true;
    for balancer in [Balancer::RoundRobin, Balancer::Maglev(65_537)] {
        weighted.balancer = balancer;
        let found = counted(&Levels::new(&members, &weighted, None), 6, 80_000);
        assert!(is_about(found[0], 30_000) && is_about(found[5], 5_000), "{found:?}");
    }
    // Half of "a" is gone: 1.4 times a half of its share is left, 2.1 to 1.
    members[0].health = Health::Unwell;
    let found = counted(&Levels::new(&members, &weighted, None), 6, 31_000);
    assert!(found[0] == 0 && is_about(found[1], 21_000), "{found:?}");
    // Without shares all are the same.
    let found = counted(&Levels::new(&members, &balancing(Balancer::RoundRobin), None), 6, 5_000);
    assert_eq!(found, [0, 1000, 1000, 1000, 1000, 1000]);
}

#[test]
fn priorities_spill_over_and_panic() {
    let mut members: Vec<Member> = (0..4).map(|n| placed(n, "a", (0, 0), Health::Well)).collect();
    members.extend((4..8).map(|n| placed(n, "b", (1, 0), Health::Well)));
    let count =
        |members: &[Member]| counted(&Levels::new(members, &balancing(Balancer::RoundRobin), None), 8, 8_000);
    assert_eq!(count(&members), [2000, 2000, 2000, 2000, 0, 0, 0, 0]);
    members[0].health = Health::Unwell;
    members[1].health = Health::Draining;
    // Two of four carry 70 %.
    let found = count(&members);
    assert!(
        found[0] == 0 && found[1] == 0 && is_about(found[2], 2800) && is_about(found[4], 600),
        "{found:?}"
    );
    for member in &mut members[2..] {
        member.health = Health::Unwell;
    }
    // Nobody is well: everybody is asked, but who is about to go.
    let found = count(&members);
    assert!(found[1] == 0 && found[0] > 1000 && found[7] > 800, "{found:?}");
    let mut never = balancing(Balancer::RoundRobin);
    never.panic_percent = 0.0;
    assert!(Levels::new(&members, &never, None).pick(&Wish::default(), &mut fastrand::Rng::new()).is_none());
}

#[test]
fn nobody_is_picked_from_nobody() {
    for balancer in [Balancer::RoundRobin, Balancer::Random, LEAST, EWMA, Balancer::Maglev(997)] {
        let levels = Levels::new(&[], &balancing(balancer), None);
        assert!(levels.pick(&Wish::default(), &mut fastrand::Rng::new()).is_none());
    }
}

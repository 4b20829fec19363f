//! How far requests stay in the proxy's own zone (Envoy's zone-aware routing).
//!
//! The proxies of a zone send to the endpoints there what those can carry if all zones' endpoints shall get the same:
//! a zone with a tenth of the proxies and a tenth of the endpoints keeps everything to itself, one with fewer
//! endpoints than proxies sends the rest to zones where it is the other way round.

use crate::model::balancing::ZoneAware;
use crate::model::endpoint::{EndpointSet, Health, LocalCluster, Locality};

/// Scale of shares: all requests.
const WHOLE: f64 = 1_000_000.0;

/// Where this proxy and its like stand.
#[derive(Clone, Debug, PartialEq)]
pub struct Home {
    own: Locality,
    /// Well proxies of each locality.
    proxies: Vec<(Locality, usize)>,
    well_percent: f64,
}

impl Home {
    /// From the endpoints of the cluster that this proxy is an endpoint of; `None` where no zone can be preferred:
    /// there is one only, or this proxy is not among them.
    #[must_use]
    pub fn new(local: &LocalCluster, endpoints: &EndpointSet) -> Option<Self> {
        let mut proxies: Vec<(Locality, usize)> = Vec::new();
        let (mut well, mut total) = (0_usize, 0_usize);
        for endpoint in &endpoints.endpoints {
            let counts = usize::from(endpoint.health == Health::Well);
            (well, total) = (well + counts, total + 1);
            match proxies.iter_mut().find(|(known, _)| known.is_same(&endpoint.locality)) {
                Some((_, count)) => *count += counts,
                None => proxies.push(((*endpoint.locality).clone(), counts)),
            }
        }
        let here = proxies.iter().any(|(known, count)| known.is_same(&local.locality) && *count > 0);
        #[expect(clippy::cast_precision_loss, reason = "counts of endpoints are small")]
        let well_percent = well as f64 * 100.0 / total.max(1) as f64;
        (here && proxies.len() > 1).then(|| Self { own: local.locality.clone(), proxies, well_percent })
    }

    /// What of all requests, of a million, goes to each of these localities, whose numbers of well endpoints are
    /// given; the first number is for all of them alike. `None` where no zone is preferred.
    #[must_use]
    pub fn shares(
        &self,
        zones: &[(&Locality, usize)],
        settings: &ZoneAware,
        panic_percent: f64,
    ) -> Option<(u32, Vec<u32>)> {
        let well: usize = zones.iter().map(|(_, count)| count).sum();
        let enough = u64::try_from(well).unwrap_or(u64::MAX) >= settings.min_endpoints;
        if zones.len() < 2 || !enough || well == 0 || self.well_percent < panic_percent {
            return None;
        }
        let proxies: usize = self.proxies.iter().map(|(_, count)| count).sum();
        #[expect(clippy::cast_precision_loss, reason = "counts of endpoints are small")]
        let part = |count: usize, of: usize| count as f64 / of.max(1) as f64;
        let of_proxies = |zone: &Locality| {
            let found = self.proxies.iter().find(|(known, _)| known.is_same(zone));
            part(found.map_or(0, |(_, count)| *count), proxies)
        };
        let is_own = |zone: &Locality| zone.is_same(&self.own);
        let own_proxies = of_proxies(&self.own);
        let own_endpoints =
            zones.iter().find(|(zone, _)| is_own(zone)).map_or(0.0, |(_, count)| part(*count, well));
        let kept = (own_endpoints / own_proxies).min(1.0);
        let room = |(zone, count): &(&Locality, usize)| {
            if is_own(zone) { 0.0 } else { (part(*count, well) - of_proxies(zone)).max(0.0) }
        };
        let rooms: Vec<f64> = zones.iter().map(room).collect();
        let all_room: f64 = rooms.iter().sum();
        let zonal = settings.percent / 100.0;
        let shares = zones.iter().zip(&rooms).map(|((zone, count), room)| {
            let share = match (is_own(zone), all_room > f64::EPSILON) {
                (true, _) => kept,
                (false, true) => (1.0 - kept) * room / all_room,
                (false, false) => (1.0 - kept) * part(*count, well),
            };
            millionths(share * zonal)
        });
        Some((millionths(1.0 - zonal), shares.collect()))
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share is from 0 to 1")]
fn millionths(share: f64) -> u32 {
    (share * WHOLE).round() as u32
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use super::*;
    use crate::model::endpoint::{CheckedAt, Endpoint};
    use crate::model::labels::Labels;

    fn zone(name: &str) -> Locality {
        Locality { zone: name.into(), ..Locality::default() }
    }

    /// So many endpoints in each zone.
    fn set(zones: &[(&str, u16, Health)]) -> EndpointSet {
        let mut port = 0;
        let mut endpoints = Vec::new();
        for (name, count, health) in zones {
            let locality = Arc::new(zone(name));
            for _ in 0..*count {
                port += 1;
                endpoints.push(Endpoint {
                    address: SocketAddr::from(([127, 0, 0, 1], port)),
                    more: Arc::default(),
                    hostname: None,
                    weight: 1,
                    health: *health,
                    locality: Arc::clone(&locality),
                    labels: Labels::default(),
                    checked: CheckedAt::default(),
                });
            }
        }
        EndpointSet { endpoints }
    }

    fn home(zones: &[(&str, u16, Health)]) -> Option<Home> {
        let local = LocalCluster { name: "us".into(), locality: zone("a") };
        Home::new(&local, &set(zones))
    }

    #[test]
    fn requests_stay_as_far_as_the_zone_carries_them() {
        const WELL: Health = Health::Well;
        let settings = ZoneAware { percent: 100.0, min_endpoints: 6 };
        for (proxies, endpoints, expected) in [
            // As many endpoints as proxies, or more: all of it stays.
            ([5, 5, 0], [3, 3, 0], Some([1_000_000, 0, 0])),
            ([1, 5, 0], [3, 3, 0], Some([1_000_000, 0, 0])),
            // Half of the proxies, a quarter of the endpoints: half of it stays.
            ([2, 2, 0], [2, 6, 0], Some([500_000, 500_000, 0])),
            // The rest goes where there is room, by how much there is.
            ([4, 2, 2], [2, 8, 6], Some([250_000, 500_000, 250_000])),
            ([2, 2, 0], [0, 6, 0], Some([0, 1_000_000, 0])),
            // Too few endpoints.
            ([2, 2, 0], [2, 3, 0], None),
        ] {
            let names = ["a", "b", "c"];
            let proxies: Vec<_> =
                names.iter().zip(proxies).map(|(name, count)| (*name, count, WELL)).collect();
            let home = home(&proxies).unwrap();
            let zones: Vec<Locality> = names.map(zone).into();
            let counted: Vec<_> = zones.iter().zip(endpoints).collect();
            let found = home.shares(&counted, &settings, 50.0);
            assert_eq!(found, expected.map(|shares| (0, shares.to_vec())), "{proxies:?} {endpoints:?}");
        }
    }

    #[test]
    fn part_of_the_requests_can_go_anywhere() {
        let home = home(&[("a", 1, Health::Well), ("b", 1, Health::Well)]).unwrap();
        let (a, b) = (zone("a"), zone("b"));
        let settings = ZoneAware { percent: 40.0, min_endpoints: 1 };
        let found = home.shares(&[(&a, 1), (&b, 1)], &settings, 50.0);
        assert_eq!(found, Some((600_000, vec![400_000, 0])));
    }

    #[test]
    fn there_is_no_home_where_nothing_is_known_of_it() {
        assert!(home(&[("a", 3, Health::Well)]).is_none());
        assert!(home(&[("b", 3, Health::Well), ("c", 1, Health::Well)]).is_none());
        assert!(home(&[("a", 3, Health::Unwell), ("c", 1, Health::Well)]).is_none());
        let ill = home(&[("a", 1, Health::Well), ("c", 3, Health::Unwell)]).unwrap();
        let (a, c) = (zone("a"), zone("c"));
        let settings = ZoneAware { percent: 100.0, min_endpoints: 1 };
        assert!(ill.shares(&[(&a, 5), (&c, 5)], &settings, 50.0).is_none());
        assert!(ill.shares(&[(&a, 5), (&c, 5)], &settings, 20.0).is_some());
        assert!(ill.shares(&[(&a, 10)], &settings, 20.0).is_none());
    }
}

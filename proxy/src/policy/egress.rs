//! What a workload may reach: a destination that nobody configured, or one that a breakout goes to next.
//!
//! It stands behind the choice of the endpoint and before a connection to it is borrowed or opened, so that no name,
//! no route and no answer of a resolver leads round it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use super::ip::IpRange;

/// The name in logs and metrics for what no configuration knows.
pub const UNKNOWN: &str = "unknown";
const METADATA: &str = "metadata";
const API_SERVER: &str = "api_server";
const KUBELET: &str = "kubelet";

/// Where links and clouds answer those who ask who they are: link-local addresses (RFC 3927, RFC 4291), and what AWS,
/// Google, Alibaba, Azure and Oracle use beside them.
const METADATA_RANGES: [(IpAddr, u32); 7] = [
    (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
    (IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), 32),
    (IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)), 32),
    (IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)), 32),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
    (IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0)), 32),
    (IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)), 128),
];
/// The kubelet's two, the controller manager's and the scheduler's.
const KUBELET_PORTS: [u16; 4] = [10_250, 10_255, 10_257, 10_259];
/// IPv4 behind a translator (RFC 6052).
const NAT64: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

/// What becomes of traffic; the stricter is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// It goes on.
    Pass,
    /// It goes on, with a security event.
    Record,
    /// It ends, with a security event.
    Refuse,
}

impl Mode {
    /// As a metric label and in events.
    #[must_use]
    pub const fn outcome(self) -> &'static str {
        match self {
            Self::Pass => "passed",
            Self::Record => "recorded",
            Self::Refuse => "refused",
        }
    }
}

/// Addresses and ports; a destination that is in both.
#[derive(Debug)]
pub struct Destinations {
    /// For logs and metrics.
    pub name: Arc<str>,
    /// Any when empty.
    pub addresses: Vec<IpRange>,
    /// Any when empty.
    pub ports: Vec<Range<u32>>,
}

impl Destinations {
    fn hold(&self, address: IpAddr, port: u16) -> bool {
        (self.addresses.is_empty() || self.addresses.iter().any(|range| range.holds(address)))
            && (self.ports.is_empty() || self.ports.iter().any(|ports| ports.contains(&u32::from(port))))
    }
}

/// `outrider.egress.v1.EgressGuard`.
#[derive(Debug)]
pub struct EgressGuard {
    /// For what no configuration knows.
    pub unknown: Mode,
    /// For what `refuse` and the built-in rules hold.
    pub protected: Mode,
    /// Let through, whatever else holds it.
    pub allow: Vec<Destinations>,
    /// Protected besides what is built in.
    pub refuse: Vec<Destinations>,
}

/// What the proxy knows of the place it runs in.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// The workload's name in security events.
    pub workload: Arc<str>,
    /// Where Kubernetes says that its API server is.
    pub api_server: Option<SocketAddr>,
}

/// Where traffic is about to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The endpoint.
    pub address: SocketAddr,
    /// Whether a cluster lists it or a resolver found it; otherwise it is only where the client was going.
    pub is_known: bool,
}

/// What the guard says about one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage<'a> {
    /// What becomes of it.
    pub mode: Mode,
    /// Which rule said so; `None` where none had to.
    pub rule: Option<&'a str>,
}

impl EgressGuard {
    /// For an outbound listener that says nothing: protected destinations are refused, unknown ones pass.
    #[must_use]
    pub const fn outbound() -> Self {
        Self { unknown: Mode::Pass, protected: Mode::Refuse, allow: Vec::new(), refuse: Vec::new() }
    }

    /// What becomes of traffic to a destination. Of two rules that hold it the stricter counts.
    #[must_use]
    pub fn decide(&self, surroundings: &Surroundings, to: Destination) -> Passage<'_> {
        let (address, port) = (effective(to.address.ip()), to.address.port());
        if self.allow.iter().any(|allowed| allowed.hold(address, port)) {
            return Passage { mode: Mode::Pass, rule: None };
        }
        let named = self.refuse.iter().find(|refused| refused.hold(address, port));
        let protected = named
            .map(|refused| &*refused.name)
            .or_else(|| built_in(surroundings, SocketAddr::new(address, port), to.is_known))
            .map(|rule| Passage { mode: self.protected, rule: Some(rule) });
        let unknown = (!to.is_known).then_some(Passage { mode: self.unknown, rule: Some(UNKNOWN) });
        match (protected, unknown) {
            (Some(protected), Some(unknown)) if unknown.mode > protected.mode => unknown,
            (Some(passage), _) | (None, Some(passage)) => passage,
            (None, None) => Passage { mode: Mode::Pass, rule: None },
        }
    }
}

fn built_in(surroundings: &Surroundings, to: SocketAddr, is_known: bool) -> Option<&'static str> {
    let metadata = |(address, length): &(IpAddr, u32)| {
        IpRange::new(*address, *length).is_some_and(|range| range.holds(to.ip()))
    };
    let api_server =
        surroundings.api_server.map(|server| SocketAddr::new(effective(server.ip()), server.port()));
    if METADATA_RANGES.iter().any(metadata) {
        Some(METADATA)
    } else if api_server == Some(to) {
        Some(API_SERVER)
    } else if !is_known && KUBELET_PORTS.contains(&to.port()) {
        Some(KUBELET)
    } else {
        None
    }
}

/// The address that packets reach in the end: IPv4 where it is written as IPv6.
fn effective(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if v6.segments().starts_with(&NAT64) => {
            let [.., a, b, c, d] = v6.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        address @ (IpAddr::V4(_) | IpAddr::V6(_)) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings() -> Surroundings {
        Surroundings { workload: "shop/cart".into(), api_server: Some("10.96.0.1:443".parse().unwrap()) }
    }

    fn destinations(name: &str, range: &str, length: u32, ports: Option<Range<u32>>) -> Destinations {
        let range = IpRange::new(range.parse().unwrap(), length).unwrap();
        Destinations { name: name.into(), addresses: vec![range], ports: ports.into_iter().collect() }
    }

    fn said(guard: &EgressGuard, address: &str, is_known: bool) -> (Mode, Option<String>) {
        let to = Destination { address: address.parse().unwrap(), is_known };
        let passage = guard.decide(&surroundings(), to);
        (passage.mode, passage.rule.map(str::to_owned))
    }

    #[test]
    fn what_a_breakout_goes_to_next_is_refused_however_it_is_written() {
        let guard = EgressGuard::outbound();
        for (address, rule) in [
            ("169.254.169.254:80", METADATA),
            ("[::ffff:169.254.169.254]:80", METADATA),
            ("[64:ff9b::a9fe:a9fe]:80", METADATA),
            ("169.254.170.2:80", METADATA),
            ("100.100.100.200:80", METADATA),
            ("168.63.129.16:80", METADATA),
            ("192.0.0.192:80", METADATA),
            ("[fe80::a9fe:a9fe]:80", METADATA),
            ("[fd00:ec2::254]:80", METADATA),
            ("[fd00:ec2::23]:80", METADATA),
            ("[fd20:ce::254]:80", METADATA),
            ("10.96.0.1:443", API_SERVER),
            ("[::ffff:10.96.0.1]:443", API_SERVER),
        ] {
            for is_known in [true, false] {
                assert_eq!(said(&guard, address, is_known), (Mode::Refuse, Some(rule.into())), "{address}");
            }
        }
        for port in KUBELET_PORTS {
            let address = format!("10.0.0.7:{port}");
            assert_eq!(said(&guard, &address, false), (Mode::Refuse, Some(KUBELET.into())));
            assert_eq!(said(&guard, &address, true), (Mode::Pass, None), "a service may use that port");
        }
        for address in ["10.96.0.1:80", "10.96.0.2:443", "169.253.255.255:80", "100.100.100.201:80"] {
            assert_eq!(said(&guard, address, true), (Mode::Pass, None), "{address}");
            assert_eq!(said(&guard, address, false), (Mode::Pass, Some(UNKNOWN.into())), "{address}");
        }
    }

    #[test]
    fn rules_come_before_what_is_built_in_and_allowing_before_both() {
        let guard = EgressGuard {
            unknown: Mode::Refuse,
            protected: Mode::Record,
            allow: vec![destinations("dns", "169.254.20.10", 32, Some(53..54))],
            refuse: vec![
                destinations("finance", "10.9.0.0", 16, None),
                destinations("db", "10.0.0.0", 8, Some(5432..5433)),
            ],
        };
        let recorded = |rule: &str| (Mode::Record, Some(rule.to_owned()));
        let refused = (Mode::Refuse, Some(UNKNOWN.to_owned()));
        for (address, is_known, expected) in [
            ("169.254.20.10:53", false, (Mode::Pass, None)),
            ("169.254.20.10:80", true, recorded(METADATA)),
            ("169.254.20.10:80", false, refused.clone()),
            ("10.9.1.1:5432", true, recorded("finance")),
            ("10.8.1.1:5432", true, recorded("db")),
            ("10.8.1.1:80", true, (Mode::Pass, None)),
            ("10.8.1.1:80", false, refused),
        ] {
            assert_eq!(said(&guard, address, is_known), expected, "{address} {is_known}");
        }
    }
}

//! What is redirected and what is not, checked.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The port of the proxy's outbound listener.
pub const OUTBOUND_PORT: u16 = 15001;
/// The port of its inbound listener.
pub const INBOUND_PORT: u16 = 15006;
/// The user and the group that the proxy runs as.
pub const PROXY_ID: u32 = 1502;
/// Ports of the sidecar itself, which are reached without it: operator's endpoints, metrics, readiness.
pub const OWN_PORTS: [u16; 3] = [15000, 15020, 15021];
/// Most entries of one list of exclusions.
const MAX_EXCLUSIONS: usize = 256;

/// Which families of addresses are redirected. The others are left as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// Both.
    #[default]
    Dual,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

impl Families {
    /// Whether one of them is redirected.
    #[must_use]
    pub const fn has(self, v4: bool) -> bool {
        matches!((self, v4), (Self::Dual, _) | (Self::Ipv4, true) | (Self::Ipv6, false))
    }
}

/// Everything that the rules are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Families that are redirected.
    pub families: Families,
    /// The user that the proxy runs as. Never 0: most of a pod may run as root.
    pub uid: u32,
    /// Its group. Never 0.
    pub gid: u32,
    /// Where connections of the pod go.
    pub outbound_port: u16,
    /// Where connections to the pod go.
    pub inbound_port: u16,
    /// Ports of the pod that are reached without the proxy, those of the sidecar among them.
    pub skip_inbound_ports: Vec<PortRange>,
    /// Ports elsewhere that are reached without the proxy.
    pub skip_outbound_ports: Vec<PortRange>,
    /// Destinations that are reached without the proxy.
    pub skip_subnets: Vec<Subnet>,
}

/// Why a plan cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Not a port or a range of ports.
    #[error("\"{0}\" is not a port from 1 to 65535 or a range such as 8000-8100")]
    Ports(String),
    /// Not a block of addresses.
    #[error("\"{0}\" is not a block of addresses such as 10.0.0.0/8 or fd00::/8")]
    Subnet(String),
    /// The proxy as root could not be told from the workload.
    #[error("the proxy's user and group must not be 0: whatever runs as root would be taken for the proxy")]
    Root,
    /// One listener cannot be both.
    #[error("the inbound and the outbound port must be two different ones, and neither may be 0")]
    RedirectPorts,
    /// A list is too long.
    #[error("{0} entries to leave out, more than {MAX_EXCLUSIONS}")]
    TooMany(usize),
}

impl Default for Plan {
    /// The usual ports, and nothing left out but the sidecar's own.
    fn default() -> Self {
        Self {
            families: Families::Dual,
            uid: PROXY_ID,
            gid: PROXY_ID,
            outbound_port: OUTBOUND_PORT,
            inbound_port: INBOUND_PORT,
            skip_inbound_ports: OWN_PORTS.map(PortRange::one).to_vec(),
            skip_outbound_ports: Vec::new(),
            skip_subnets: Vec::new(),
        }
    }
}

impl Plan {
    /// Sorts what is left out, joins what overlaps, and checks the rest; the rules are the same for the same plan.
    ///
    /// # Errors
    /// What would make a loop or let the workload past the proxy.
    pub fn check(mut self) -> Result<Self, PlanError> {
        if self.uid == 0 || self.gid == 0 {
            return Err(PlanError::Root);
        }
        if self.inbound_port == self.outbound_port || self.inbound_port == 0 || self.outbound_port == 0 {
            return Err(PlanError::RedirectPorts);
        }
        self.skip_inbound_ports = joined(self.skip_inbound_ports);
        self.skip_outbound_ports = joined(self.skip_outbound_ports);
        self.skip_subnets.sort_unstable();
        self.skip_subnets.dedup();
        // Sets of nftables refuse blocks that overlap.
        let all = self.skip_subnets.clone();
        self.skip_subnets.retain(|one| !all.iter().any(|other| other != one && other.covers(one)));
        let longest =
            self.skip_inbound_ports.len().max(self.skip_outbound_ports.len()).max(self.skip_subnets.len());
        if longest > MAX_EXCLUSIONS {
            return Err(PlanError::TooMany(longest));
        }
        Ok(self)
    }

    /// The destinations of one family that are left out.
    pub fn subnets(&self, v4: bool) -> impl Iterator<Item = &Subnet> {
        self.skip_subnets.iter().filter(move |subnet| subnet.address.is_ipv4() == v4)
    }
}

fn joined(mut ranges: Vec<PortRange>) -> Vec<PortRange> {
    ranges.sort_unstable();
    let mut joined: Vec<PortRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.first <= last.last.saturating_add(1) => last.last = last.last.max(range.last),
            Some(_) | None => joined.push(range),
        }
    }
    joined
}

/// Ports from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// One port.
    #[must_use]
    pub const fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// As a tool wants it, with its own sign between the two ends.
    #[must_use]
    pub fn text(self, to: char) -> String {
        if self.first == self.last {
            self.first.to_string()
        } else {
            format!("{}{to}{}", self.first, self.last)
        }
    }
}

impl FromStr for PortRange {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let wrong = || PlanError::Ports(text.to_owned());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong);
        let range = Self { first: port(first)?, last: port(last)? };
        if range.first > range.last { Err(wrong()) } else { Ok(range) }
    }
}

/// A block of addresses, the bits after its length being 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnet {
    address: IpAddr,
    length: u8,
}

impl Subnet {
    fn covers(&self, other: &Self) -> bool {
        self.address.is_ipv4() == other.address.is_ipv4()
            && self.length <= other.length
            && masked(other.address, self.length) == self.address
    }
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let kept = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::from((address.to_bits() & kept).to_be_bytes())
        }
        IpAddr::V6(address) => {
            let kept = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::from((address.to_bits() & kept).to_be_bytes())
        }
    }
}

impl FromStr for Subnet {
    type Err = PlanError;

    /// A block, or an address alone, which is a block of one.
    fn from_str(text: &str) -> Result<Self, PlanError> {
        let wrong = || PlanError::Subnet(text.to_owned());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.trim().parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            Some(length) => length.parse().ok().filter(|length| *length <= longest).ok_or_else(wrong)?,
            None => longest,
        };
        Ok(Self { address: masked(address, length), length })
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

//! Pieces of messages that several resources share.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use outrider_proto::Path;
use outrider_proto::envoy::config::core::v3 as core;
use outrider_proto::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};

/// Longest duration that is accepted: more is surely a slip of the pen, and clocks could overflow.
const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A duration that is not negative; the default when it is not set.
pub(super) fn duration(
    value: Option<&prost_types::Duration>,
    default: Duration,
    name: &str,
    path: &mut Path,
) -> Duration {
    let Some(value) = value else { return default };
    match Duration::try_from(*value) {
        Ok(duration) if duration <= MAX_DURATION => duration,
        Ok(_) => {
            path.fault_at(name, "longer than ten years");
            default
        }
        Err(_) => {
            path.fault_at(name, "must not be negative");
            default
        }
    }
}

/// A duration of which 0 means "no limit".
pub(super) fn limit(
    value: Option<&prost_types::Duration>,
    default: Option<Duration>,
    name: &str,
    path: &mut Path,
) -> Option<Duration> {
    match value {
        None => default,
        Some(_) => Some(duration(value, Duration::ZERO, name, path)).filter(|limit| !limit.is_zero()),
    }
}

/// The address of a listener or an endpoint.
pub(super) fn socket_address(address: Option<&core::Address>, path: &mut Path) -> Option<SocketAddr> {
    let (host, port) = host_and_port(address, path)?;
    match host.parse::<IpAddr>() {
        Ok(ip) => Some(SocketAddr::new(ip, port)),
        Err(_) => path.field("address.socket_address.address", |path| {
            path.refuse(format!("\"{host}\" is not an IP address; host names need a STRICT_DNS cluster"))
        }),
    }
}

/// An address whose host may be a name.
pub(super) fn host_and_port(address: Option<&core::Address>, path: &mut Path) -> Option<(String, u16)> {
    let Some(core::address::Address::SocketAddress(socket)) =
        address.and_then(|address| address.address.as_ref())
    else {
        return path.field("address", |path| path.refuse("missing; a socket_address is needed"));
    };
    path.field("address.socket_address", |path| {
        let Some(core::socket_address::PortSpecifier::PortValue(port)) = socket.port_specifier else {
            return path.field("port_value", |path| path.refuse("missing"));
        };
        if socket.address.is_empty() {
            return path.field("address", |path| path.refuse("missing"));
        }
        match u16::try_from(port) {
            Ok(port) => Some((socket.address.clone(), port)),
            Err(_) => path.field("port_value", |path| path.refuse(format!("{port} is larger than 65535"))),
        }
    })
}

/// A name that must be there.
pub(super) fn required(value: &str, name: &str, path: &mut Path) -> Option<std::sync::Arc<str>> {
    if value.is_empty() {
        return path.field(name, |path| path.refuse("missing"));
    }
    Some(value.into())
}

/// A share of all, as parts of a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    const ALL: u32 = 1_000_000;

    /// From the message; more than all is a fault.
    pub(super) fn from_proto(value: &FractionalPercent, path: &mut Path) -> Option<Self> {
        let scale = match value.denominator() {
            DenominatorType::Hundred => 10_000,
            DenominatorType::TenThousand => 100,
            DenominatorType::Million => 1,
        };
        match value.numerator.checked_mul(scale) {
            Some(parts) if parts <= Self::ALL => Some(Self(parts)),
            Some(_) | None => path.refuse("more than the whole"),
        }
    }

    /// From a runtime fraction; a missing default value is a fault.
    pub(super) fn from_runtime(value: &core::RuntimeFractionalPercent, path: &mut Path) -> Option<Self> {
        path.field("default_value", |path| match &value.default_value {
            Some(value) => Self::from_proto(value, path),
            None => path.refuse("missing"),
        })
    }

    /// Whether a draw, evenly distributed over all numbers, falls into the share.
    #[must_use]
    pub const fn covers(self, random: u64) -> bool {
        random % (Self::ALL as u64) < self.0 as u64
    }
}

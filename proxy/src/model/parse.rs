//! Pieces of messages that several resources share.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use outrider_proto::Path;
use outrider_proto::envoy::config::core::v3 as core;
use outrider_proto::envoy::r#type::v3::{FractionalPercent, Int32Range, fractional_percent::DenominatorType};

use crate::http::h1::field::is_token;
use crate::policy::IpRange;

/// Longest duration that is accepted: more is surely a slip of the pen, and clocks could overflow.
const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Envoy's default of `ConfigSource.initial_fetch_timeout`, after which a resource counts as missing.
const FETCH_TIMEOUT: Duration = Duration::from_secs(15);

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

/// A block of addresses.
pub(super) fn ip_range(value: &core::CidrRange, path: &mut Path) -> Option<IpRange> {
    let Ok(address) = value.address_prefix.parse() else {
        return path.field("address_prefix", |path| path.refuse("not an IP address"));
    };
    let range = IpRange::new(address, value.prefix_len.unwrap_or(0));
    range.or_else(|| path.field("prefix_len", |path| path.refuse("more bits than an address has")))
}

/// Ports from the start up to but without the end.
pub(super) fn ports(range: Int32Range, path: &mut Path) -> Option<Range<u32>> {
    match (u32::try_from(range.start), u32::try_from(range.end)) {
        (Ok(start), Ok(end)) if start < end && end <= 65_536 => Some(start..end),
        _ => path.refuse("start must be less than end, and both from 0 to 65536"),
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

/// Refuses what only a listener's address may say.
pub(super) fn plain_address(address: Option<&core::Address>, path: &mut Path) {
    if let Some(core::address::Address::SocketAddress(socket)) =
        address.and_then(|address| address.address.as_ref())
        && socket.ipv4_compat
    {
        path.fault_at("address.socket_address.ipv4_compat", "only for the address of a listener");
    }
}

/// Checks that a resource comes over ADS, in the one way that we fetch it.
pub(super) fn over_ads(source: Option<&core::ConfigSource>, name: &str, path: &mut Path) {
    use core::config_source::ConfigSourceSpecifier;
    path.field(name, |path| {
        let Some(source) = source else { return path.fault("missing; must be \"ads: {}\"") };
        match &source.config_source_specifier {
            Some(ConfigSourceSpecifier::Ads(_)) => {}
            None => path.fault("must be \"ads: {}\""),
        }
        let fetch =
            duration(source.initial_fetch_timeout.as_ref(), FETCH_TIMEOUT, "initial_fetch_timeout", path);
        if fetch != FETCH_TIMEOUT {
            path.fault_at("initial_fetch_timeout", "only 15s, the default, is supported");
        }
    });
}

/// Upgrades that are allowed or forbidden, by name; one of them twice is a fault, as in Envoy.
pub(super) fn upgrades<'a>(
    configs: impl Iterator<Item = (&'a str, Option<bool>)>,
    path: &mut Path,
) -> Vec<(Box<str>, bool)> {
    let mut all: Vec<(Box<str>, bool)> = Vec::new();
    for (index, (name, enabled)) in configs.enumerate() {
        path.item("upgrade_configs", index, |path| {
            if all.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
                path.fault_at("upgrade_type", format!("\"{name}\" is there twice"));
            } else if name.eq_ignore_ascii_case("connect") || name.eq_ignore_ascii_case("connect-udp") {
                path.fault_at("upgrade_type", format!("\"{name}\" is not supported: CONNECT is not routed"));
            } else if !is_token(name.as_bytes()) {
                path.fault_at("upgrade_type", "must be the name of a protocol, such as \"websocket\"");
            }
            all.push((name.into(), enabled.unwrap_or(true)));
        });
    }
    all
}

/// The bytes of a data source, from the configuration itself or from a file.
pub(super) fn data_source(source: &core::DataSource, max_bytes: usize, path: &mut Path) -> Option<Vec<u8>> {
    use core::data_source::Specifier;
    let bytes = match &source.specifier {
        Some(Specifier::InlineString(text)) => text.as_bytes().to_vec(),
        Some(Specifier::InlineBytes(bytes)) => bytes.clone(),
        Some(Specifier::Filename(name)) => match read_file(name, max_bytes) {
            Ok(bytes) => bytes,
            Err(error) => return path.field("filename", |path| path.refuse(format!("\"{name}\": {error}"))),
        },
        None => return path.refuse("one of filename, inline_bytes and inline_string is needed"),
    };
    if bytes.len() > max_bytes {
        return path.refuse(format!("more than {max_bytes} bytes"));
    }
    Some(bytes)
}

/// At most one byte more than allowed of a regular file: the name may be that of a device or a pipe without an end.
fn read_file(name: &str, max_bytes: usize) -> std::io::Result<Vec<u8>> {
    if !std::fs::metadata(name)?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    let most = u64::try_from(max_bytes).unwrap_or(u64::MAX).saturating_add(1);
    std::fs::File::open(name)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
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

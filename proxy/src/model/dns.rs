//! How the names of a cluster are looked up.

use std::net::SocketAddr;
use std::time::Duration;

use outrider_proto::envoy::config::cluster::v3 as pb;
use outrider_proto::envoy::config::core::v3 as core;
use outrider_proto::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use outrider_proto::{Path, unpack};
use pb::cluster::DnsLookupFamily;

use super::parse;

/// Envoy's default of `dns_refresh_rate`.
pub const DNS_REFRESH: Duration = Duration::from_secs(5);
/// Fewest time between two look-ups, and least that Envoy takes for the fields here.
const LEAST: Duration = Duration::from_millis(1);
/// A record that is said to hold for longer is asked for once a day all the same.
const LONGEST_TTL: Duration = Duration::from_secs(24 * 3600);
/// Most name servers.
const MAX_SERVERS: usize = 8;

/// How the names of a cluster are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSettings {
    /// Which addresses are taken.
    pub family: DnsFamily,
    /// Between two look-ups.
    pub refresh: Duration,
    /// Whether the records say how long that is.
    pub respects_ttl: bool,
    /// Up to as much is added to it, at random.
    pub jitter: Duration,
    /// After a failure: random up to the first, which doubles with every further one, up to the second.
    pub after_failure: Option<(Duration, Duration)>,
    /// Who is asked; the system's name servers where it is empty.
    pub servers: Vec<SocketAddr>,
    /// They are asked over TCP only.
    pub tcp: bool,
    /// Names are taken as they are, without the system's search list.
    pub exact: bool,
    /// All addresses are those of one endpoint (Envoy's LOGICAL_DNS).
    pub one_endpoint: bool,
}

/// Which addresses of a name are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsFamily {
    /// IPv6, or IPv4 if there is none (Envoy's AUTO).
    V6Preferred,
    /// IPv4, or IPv6 if there is none.
    V4Preferred,
    /// IPv4 only.
    V4Only,
    /// IPv6 only.
    V6Only,
    /// Both.
    All,
}

impl DnsSettings {
    pub(super) fn from_proto(value: &pb::Cluster, one_endpoint: bool, path: &mut Path) -> Self {
        let refresh = parse::duration(value.dns_refresh_rate.as_ref(), DNS_REFRESH, "dns_refresh_rate", path);
        if refresh < LEAST {
            path.fault_at("dns_refresh_rate", "must be at least 1ms");
        }
        let after_failure = value.dns_failure_refresh_rate.as_ref().map(|rate| {
            path.field("dns_failure_refresh_rate", |path| {
                let base =
                    parse::duration(rate.base_interval.as_ref(), Duration::ZERO, "base_interval", path);
                let longest = base.saturating_mul(10);
                let max = parse::duration(rate.max_interval.as_ref(), longest, "max_interval", path);
                if base < LEAST {
                    path.fault_at("base_interval", "must be at least 1ms");
                }
                if max < base {
                    path.fault_at("max_interval", "shorter than base_interval");
                }
                (base, max)
            })
        });
        let family = match value.dns_lookup_family() {
            DnsLookupFamily::Auto => DnsFamily::V6Preferred,
            DnsLookupFamily::V4Only => DnsFamily::V4Only,
            DnsLookupFamily::V6Only => DnsFamily::V6Only,
            DnsLookupFamily::V4Preferred => DnsFamily::V4Preferred,
            DnsLookupFamily::All => DnsFamily::All,
        };
        let resolver = value.typed_dns_resolver_config.as_ref();
        let resolver =
            resolver.and_then(|config| path.field("typed_dns_resolver_config", |path| cares(config, path)));
        let resolver = resolver.unwrap_or_default();
        let options = resolver.dns_resolver_options.unwrap_or_default();
        Self {
            family,
            refresh,
            respects_ttl: value.respect_dns_ttl,
            jitter: parse::duration(value.dns_jitter.as_ref(), Duration::ZERO, "dns_jitter", path),
            after_failure,
            servers: servers(&resolver.resolvers, path),
            tcp: options.use_tcp_for_dns_lookups,
            exact: options.no_default_search_domain,
            one_endpoint,
        }
    }

    /// How long to wait before the next look-up: after so many failures in a row, or after an answer whose records
    /// hold for this long.
    #[must_use]
    pub fn pause(&self, ttl: Option<Duration>, failures: u32, random: u64) -> Duration {
        let up_to = |longest: Duration| {
            let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
            Duration::from_micros(random % micros.max(1))
        };
        match self.after_failure {
            Some((first, longest)) if failures > 0 => {
                let factor = 1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX);
                up_to(first.saturating_mul(factor).min(longest)).max(LEAST)
            }
            Some(_) | None => {
                let said = ttl.filter(|ttl| failures == 0 && self.respects_ttl && !ttl.is_zero());
                said.map_or(self.refresh, |ttl| ttl.min(LONGEST_TTL)) + up_to(self.jitter)
            }
        }
    }
}

fn cares(value: &core::TypedExtensionConfig, path: &mut Path) -> Option<CaresDnsResolverConfig> {
    if value.name.is_empty() {
        path.fault_at("name", "missing");
    }
    let found = value.typed_config.as_ref().and_then(unpack::<CaresDnsResolverConfig>);
    if found.is_none() {
        path.fault_at("typed_config", "must be a CaresDnsResolverConfig");
    }
    found
}

fn servers(values: &[core::Address], path: &mut Path) -> Vec<SocketAddr> {
    if values.len() > MAX_SERVERS {
        path.fault_at("typed_dns_resolver_config", format!("more than {MAX_SERVERS} resolvers"));
    }
    let values = values.iter().enumerate();
    values
        .filter_map(|(index, value)| {
            path.item("typed_dns_resolver_config.resolvers", index, |path| {
                parse::plain_address(Some(value), path);
                parse::socket_address(Some(value), path)
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_is_what_records_and_failures_say() {
        let seconds = Duration::from_secs;
        let settings = DnsSettings {
            family: DnsFamily::All,
            refresh: seconds(5),
            respects_ttl: true,
            jitter: Duration::ZERO,
            after_failure: None,
            servers: Vec::new(),
            tcp: false,
            exact: false,
            one_endpoint: false,
        };
        let backs_off = DnsSettings { after_failure: Some((seconds(1), seconds(6))), ..settings.clone() };
        let deaf = DnsSettings { respects_ttl: false, ..settings.clone() };
        let jittery = DnsSettings { jitter: seconds(2), ..settings.clone() };
        // The largest draw, but for 1 microsecond.
        let draw = 24_000_000 - 1;
        for (settings, ttl, failures, expected_ms) in [
            (&settings, Some(seconds(30)), 0, 30_000),
            (&settings, Some(seconds(30)), 1, 5000),
            (&settings, Some(seconds(0)), 0, 5000),
            (&settings, Some(seconds(10_000_000)), 0, 86_400_000),
            (&settings, None, 0, 5000),
            (&deaf, Some(seconds(30)), 0, 5000),
            (&jittery, Some(seconds(30)), 0, 32_000),
            (&backs_off, None, 1, 1000),
            (&backs_off, None, 3, 4000),
            (&backs_off, None, 4, 6000),
            (&backs_off, None, 90, 6000),
            (&backs_off, Some(seconds(30)), 0, 30_000),
        ] {
            let found = settings.pause(ttl, failures, draw).as_millis();
            assert_eq!(found.next_multiple_of(10), expected_ms, "{settings:?} {ttl:?} {failures}");
        }
    }
}

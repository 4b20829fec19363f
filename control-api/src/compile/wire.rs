//! Small helpers for building messages, and the gate that every resource passes before it is let out.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use outrider_proto::envoy::config::core::v3 as core;
use outrider_proto::envoy::r#type::matcher::v3 as matcher;
use outrider_proto::{Fault, strict, type_url};
use prost::{Message, Name};
use prost_types::Any;

use crate::digest;
use crate::snapshot::{Origin, Resource};

/// Encodes a resource and reads it back as a proxy does: strictly.
///
/// # Errors
/// What a proxy would refuse, with the paths of the fields.
pub(super) fn resource<M: Message + Name + Default>(
    message: &M,
    origin: &Origin,
) -> Result<Resource, Vec<Fault>> {
    let body = message.encode_to_vec();
    strict::decode::<M>(&body)?;
    Ok(unchecked(body, origin))
}

/// A resource in a dialect that our own decoder does not know.
pub(super) fn unchecked(body: Vec<u8>, origin: &Origin) -> Resource {
    Resource { version: digest::short(&body).into(), body: Bytes::from(body), origin: origin.clone() }
}

/// A message in an `Any`.
pub(super) fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: format!("{}{}", type_url::PREFIX, M::full_name()), value: message.encode_to_vec() }
}

/// As protobuf has it. Durations of objects are below 2^53 ms by their form.
pub(super) fn duration(value: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or_default(),
    }
}

pub(super) fn address(value: SocketAddr, ipv4_compat: bool) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            protocol: 0,
            address: value.ip().to_string(),
            ipv4_compat,
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(value.port().into())),
        })),
    }
}

pub(super) fn cidr(address: IpAddr, bits: u8) -> core::CidrRange {
    core::CidrRange { address_prefix: address.to_string(), prefix_len: Some(bits.into()) }
}

/// One address.
pub(super) fn host(address: IpAddr) -> core::CidrRange {
    cidr(address, if address.is_ipv4() { 32 } else { 128 })
}

/// What comes over the stream that this came over.
pub(super) fn ads() -> core::ConfigSource {
    core::ConfigSource {
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource {},
        )),
        initial_fetch_timeout: None,
        resource_api_version: core::ApiVersion::V3.into(),
    }
}

pub(super) fn string(pattern: matcher::string_matcher::MatchPattern) -> matcher::StringMatcher {
    matcher::StringMatcher { match_pattern: Some(pattern), ignore_case: false }
}

pub(super) fn exact(text: &str) -> matcher::StringMatcher {
    string(matcher::string_matcher::MatchPattern::Exact(text.to_owned()))
}

pub(super) fn prefix(text: &str) -> matcher::StringMatcher {
    string(matcher::string_matcher::MatchPattern::Prefix(text.to_owned()))
}

pub(super) fn regex(text: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher { engine_type: None, regex: text.to_owned() }
}

/// `*` at the beginning or the end stands for anything; alone, for anything that is there.
pub(super) fn pattern(text: &str) -> matcher::StringMatcher {
    use matcher::string_matcher::MatchPattern as Pattern;
    match (text.strip_prefix('*'), text.strip_suffix('*')) {
        (Some(""), _) => string(Pattern::SafeRegex(regex(".*"))),
        (Some(suffix), _) => string(Pattern::Suffix(suffix.to_owned())),
        (None, Some(front)) => prefix(front),
        (None, None) => exact(text),
    }
}

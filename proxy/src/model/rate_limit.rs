//! Limits on the rate of requests and of connections (Envoy's `LocalRateLimit` filters).

use std::sync::Arc;

use http::StatusCode;
use outrider_proto::envoy::config::route::v3 as route;
use outrider_proto::envoy::extensions::common::ratelimit::v3 as common;
use outrider_proto::envoy::extensions::filters::http::local_ratelimit::v3 as http_filter;
use outrider_proto::envoy::extensions::filters::network::local_ratelimit::v3 as network_filter;
use outrider_proto::envoy::r#type::v3 as kinds;
use outrider_proto::outrider::rate_limit::v1::PeerIdentity;
use outrider_proto::{Path, unpack};
use route::rate_limit::Action;
use route::rate_limit::action::ActionSpecifier;

use super::headers::HeaderChanges;
use super::matcher::HeaderMatcher;
use super::parse::{self, Share};
use crate::limit::descriptor::{MAX_PARTS, Part, Source};
use crate::limit::rate::{Kind, KindTokens, Tokens};
use crate::limit::{Bucket, Keyed, Rate, RateLimit};

/// Values with tokens of their own, where it is not said how many; Envoy has 20, and forgets tokens with each more.
const DYNAMIC: u32 = 1024;
/// Most values with tokens of their own; each costs 16 bytes.
const MAX_DYNAMIC: u32 = 1024 * 1024;
/// Most descriptors, and rules for them.
const MAX_DESCRIPTORS: usize = 256;

/// A limit on requests under the name of its filter.
#[derive(Debug)]
pub struct HttpLimit {
    /// What routes call it by.
    pub name: Arc<str>,
    /// What holds where a route does not say otherwise.
    pub limit: RateLimit,
}

/// A limit on connections.
#[derive(Debug)]
pub struct ConnectionLimit {
    /// The name in metrics.
    pub name: Arc<str>,
    /// One for each connection.
    pub tokens: Tokens,
}

/// The limit on connections.
pub(super) fn connections(
    value: &network_filter::LocalRateLimit,
    path: &mut Path,
) -> Option<ConnectionLimit> {
    let name = parse::required(&value.stat_prefix, "stat_prefix", path);
    let Some(bucket) = &value.token_bucket else {
        return path.field("token_bucket", |path| path.refuse("missing"));
    };
    let tokens = tokens(bucket, path)?;
    Some(ConnectionLimit { name: name?, tokens })
}

/// The limit on requests.
pub(super) fn requests(value: &http_filter::LocalRateLimit, path: &mut Path) -> Option<RateLimit> {
    let name = parse::required(&value.stat_prefix, "stat_prefix", path);
    let mut share = |value: &Option<_>, name: &str| {
        path.field(name, |path| value.as_ref().and_then(|value| Share::from_runtime(value, path)))
    };
    let enabled = share(&value.filter_enabled, "filter_enabled");
    let enforced = share(&value.filter_enforced, "filter_enforced");
    let all = value.token_bucket.as_ref().and_then(|bucket| tokens(bucket, path));
    if value.token_bucket.is_none() && value.descriptors.is_empty() && enabled.is_some() {
        path.fault_at("token_bucket", "missing, and there are no descriptors");
    }
    let code = value.status.as_ref().map_or(0, |status| status.code);
    let status = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.filter(|status| status.as_u16() >= 400).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
    let dynamic = value.max_dynamic_descriptors.unwrap_or(DYNAMIC);
    if !(1..=MAX_DYNAMIC).contains(&dynamic) {
        path.fault_at("max_dynamic_descriptors", format!("must be from 1 to {MAX_DYNAMIC}"));
    }
    if value.descriptors.len().max(value.rate_limits.len()) > MAX_DESCRIPTORS {
        path.fault(format!("more than {MAX_DESCRIPTORS} descriptors or rate_limits"));
    }
    if value.descriptors.is_empty() != value.rate_limits.is_empty() {
        path.fault("descriptors have an effect with rate_limits only, and the other way round");
    }
    let descriptors = value.descriptors.iter().enumerate();
    let kinds = descriptors.filter_map(|(index, value)| {
        path.item("descriptors", index, |path| kind(value, dynamic.min(MAX_DYNAMIC), path))
    });
    let kinds = RateLimit::sorted(kinds.collect());
    let rules = value.rate_limits.iter().enumerate();
    let rules = rules.filter_map(|(index, value)| path.item("rate_limits", index, |path| rule(value, path)));
    let rules = rules.collect();
    let response_headers = HeaderChanges::from_proto(&value.response_headers_to_add, &[], "response", path);
    Some(RateLimit {
        name: name?,
        enabled,
        enforced,
        status,
        response_headers,
        grpc_exhausted: value.rate_limited_as_resource_exhausted,
        retry_after: value.enable_retry_after_header,
        tells: value.enable_x_ratelimit_headers() == common::XRateLimitHeadersRfcVersion::DraftVersion03,
        all,
        all_always: value.always_consume_default_token_bucket.unwrap_or(true),
        rules,
        kinds,
    })
}

fn tokens(value: &kinds::TokenBucket, path: &mut Path) -> Option<Tokens> {
    Some(Tokens { rate: rate(value, path)?, bucket: Bucket::new() })
}

fn rate(value: &kinds::TokenBucket, path: &mut Path) -> Option<Rate> {
    path.field("token_bucket", |path| {
        let zero = std::time::Duration::ZERO;
        let interval = parse::duration(value.fill_interval.as_ref(), zero, "fill_interval", path);
        let per_fill = value.tokens_per_fill.unwrap_or(1);
        if interval.is_zero() {
            return path.field("fill_interval", |path| path.refuse("must be longer than 0"));
        }
        if per_fill == 0 {
            return path.field("tokens_per_fill", |path| path.refuse("must be at least 1"));
        }
        // They come one after the other, not all at once.
        Some(Rate { interval: interval / per_fill, burst: value.max_tokens })
    })
}

fn kind(value: &common::LocalRateLimitDescriptor, dynamic: u32, path: &mut Path) -> Option<Kind> {
    if value.entries.is_empty() || value.entries.len() > MAX_PARTS {
        path.fault_at("entries", format!("must be from 1 to {MAX_PARTS}"));
    }
    let parts = value.entries.iter().enumerate().filter_map(|(index, entry)| {
        path.item("entries", index, |path| {
            parse::required(&entry.key, "key", path)?;
            let any = entry.value.is_empty();
            Some((entry.key.as_str().into(), (!any).then(|| entry.value.as_str().into())))
        })
    });
    let parts: Vec<(_, Option<_>)> = parts.collect();
    let Some(bucket) = &value.token_bucket else {
        return path.field("token_bucket", |path| path.refuse("missing"));
    };
    let rate = rate(bucket, path)?;
    let tokens = if parts.iter().any(|(_, value)| value.is_none()) {
        KindTokens::Each(rate, Keyed::new(dynamic as usize))
    } else {
        KindTokens::Together(Tokens { rate, bucket: Bucket::new() })
    };
    Some(Kind { parts, tokens })
}

fn rule(value: &route::RateLimit, path: &mut Path) -> Option<Vec<Part>> {
    if value.actions.is_empty() || value.actions.len() > MAX_PARTS {
        return path.field("actions", |path| path.refuse(format!("must be from 1 to {MAX_PARTS}")));
    }
    let actions = value.actions.iter().enumerate();
    Some(actions.filter_map(|(index, value)| path.item("actions", index, |path| part(value, path))).collect())
}

/// The keys that are not said are Envoy's.
fn part(value: &Action, path: &mut Path) -> Option<Part> {
    let named = |key: &str, default: &str| if key.is_empty() { default.into() } else { key.into() };
    let Some(action) = &value.action_specifier else {
        return path.refuse("no action is set");
    };
    let (key, source) = match action {
        ActionSpecifier::DestinationCluster(_) => ("destination_cluster".into(), Source::Cluster),
        ActionSpecifier::RemoteAddress(_) => ("remote_address".into(), Source::Remote),
        ActionSpecifier::RequestHeaders(value) => path.field("request_headers", |path| {
            let name = parse::required(&value.header_name, "header_name", path)?.to_ascii_lowercase().into();
            let key = parse::required(&value.descriptor_key, "descriptor_key", path)?;
            Some((Box::from(&*key), Source::Header { name, may_miss: value.skip_if_absent }))
        })?,
        ActionSpecifier::QueryParameters(value) => path.field("query_parameters", |path| {
            let name = parse::required(&value.query_parameter_name, "query_parameter_name", path)?;
            let key = parse::required(&value.descriptor_key, "descriptor_key", path)?;
            let name = Box::from(&*name);
            Some((Box::from(&*key), Source::Query { name, may_miss: value.skip_if_absent }))
        })?,
        ActionSpecifier::MaskedRemoteAddress(value) => path.field("masked_remote_address", |path| {
            let mut bits = |value: Option<u32>, most: u8, name: &str| match value.map(u8::try_from) {
                None => most,
                Some(Ok(bits)) if bits <= most => bits,
                Some(_) => {
                    path.fault_at(name, format!("must be from 0 to {most}"));
                    most
                }
            };
            let v4 = bits(value.v4_prefix_mask_len, 32, "v4_prefix_mask_len");
            let v6 = bits(value.v6_prefix_mask_len, 128, "v6_prefix_mask_len");
            ("masked_remote_address".into(), Source::Network(v4, v6))
        }),
        ActionSpecifier::GenericKey(value) => path.field("generic_key", |path| {
            let fixed = parse::required(&value.descriptor_value, "descriptor_value", path)?;
            Some((named(&value.descriptor_key, "generic_key"), Source::Fixed(Box::from(&*fixed))))
        })?,
        ActionSpecifier::HeaderValueMatch(value) => path.field("header_value_match", |path| {
            matched(value, path).map(|source| (named(&value.descriptor_key, "header_match"), source))
        })?,
        ActionSpecifier::Extension(value) => path.field("extension", |path| {
            let any = value.typed_config.as_ref();
            match any.and_then(unpack::<PeerIdentity>) {
                Some(peer) => Some((named(&peer.descriptor_key, "peer_identity"), Source::Peer)),
                None => path.refuse("must be an outrider.rate_limit.v1.PeerIdentity"),
            }
        })?,
    };
    Some(Part { key, source })
}

fn matched(value: &route::rate_limit::action::HeaderValueMatch, path: &mut Path) -> Option<Source> {
    let fixed = parse::required(&value.descriptor_value, "descriptor_value", path)?;
    if value.headers.is_empty() {
        path.fault_at("headers", "missing");
    }
    let headers = value.headers.iter().enumerate();
    let headers = headers.filter_map(|(index, value)| {
        path.item("headers", index, |path| HeaderMatcher::from_proto(value, path))
    });
    Some(Source::Matched(Box::from(&*fixed), headers.collect(), value.expect_match.unwrap_or(true)))
}

#[cfg(test)]
mod tests;

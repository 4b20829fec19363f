//! The dialect of gRPC clients without a proxy (`xds:///HOST:PORT`), made from the resources of a proxy.
//!
//! Such a client wants an `api_listener` whose name is its target, weights of localities, and certificates by the names
//! of providers in its own bootstrap; it knows fewer kinds of matches. Those fields are outside of our proxy's subset,
//! so the messages that hold them are written down here.

use std::time::Duration;

use outrider_proto::envoy::config::cluster::v3 as cluster;
use outrider_proto::envoy::config::core::v3 as core;
use outrider_proto::envoy::config::endpoint::v3 as endpoint;
use outrider_proto::envoy::config::listener::v3::filter::ConfigType;
use outrider_proto::envoy::config::route::v3 as route;
use outrider_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use outrider_proto::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use outrider_proto::{type_url, unpack};
use prost::Message;
use prost_types::Any;

use super::{Settings, chain, wire};
use crate::object::Key;
use crate::snapshot::{Origin, Resource};

/// The name of the provider of certificates in a client's bootstrap.
const PROVIDER: &str = "default";
const UPSTREAM_TLS: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

#[derive(Clone, PartialEq, Message)]
struct Listener {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "19")]
    api_listener: Option<ApiListener>,
}

#[derive(Clone, PartialEq, Message)]
struct ApiListener {
    #[prost(message, optional, tag = "1")]
    api_listener: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Assignment {
    #[prost(string, tag = "1")]
    cluster_name: String,
    #[prost(message, repeated, tag = "2")]
    endpoints: Vec<Locality>,
}

#[derive(Clone, PartialEq, Message)]
struct Locality {
    #[prost(message, optional, tag = "1")]
    locality: Option<core::Locality>,
    #[prost(message, repeated, tag = "2")]
    lb_endpoints: Vec<endpoint::LbEndpoint>,
    /// `google.protobuf.UInt32Value`
    #[prost(message, optional, tag = "3")]
    load_balancing_weight: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct UpstreamTlsContext {
    #[prost(message, optional, tag = "1")]
    common_tls_context: Option<CommonTlsContext>,
}

#[derive(Clone, PartialEq, Message)]
struct CommonTlsContext {
    #[prost(message, optional, tag = "3")]
    validation_context: Option<ValidationContext>,
    #[prost(message, optional, tag = "14")]
    tls_certificate_provider_instance: Option<ProviderInstance>,
}

#[derive(Clone, PartialEq, Message)]
struct ValidationContext {
    /// Deprecated, and the only one that gRPC reads.
    #[prost(message, repeated, tag = "9")]
    match_subject_alt_names: Vec<StringMatcher>,
    #[prost(message, optional, tag = "13")]
    ca_certificate_provider_instance: Option<ProviderInstance>,
}

#[derive(Clone, PartialEq, Message)]
struct ProviderInstance {
    #[prost(string, tag = "1")]
    instance_name: String,
}

/// The targets that mean a port of a service.
pub(super) fn targets(service: &Key, port: u16, settings: &Settings) -> [String; 3] {
    let Key { namespace, name, .. } = service;
    [
        format!("{name}.{namespace}:{port}"),
        format!("{name}.{namespace}.svc:{port}"),
        format!("{name}.{namespace}.svc.{}:{port}", settings.cluster_domain),
    ]
}

/// The listener of a target, with these routes.
pub(super) fn listener(target: &str, routes: &str, origin: &Origin) -> Resource {
    let manager = chain::outbound_http(routes, None).config_type.map(|ConfigType::TypedConfig(any)| any);
    let listener =
        Listener { name: target.to_owned(), api_listener: Some(ApiListener { api_listener: manager }) };
    wire::unchecked(listener.encode_to_vec(), origin)
}

/// A cluster.
pub(super) fn cluster(value: &Resource) -> Option<Resource> {
    let original = cluster::Cluster::decode(value.body.clone()).ok()?;
    let transport_socket = original.transport_socket.and_then(|socket| {
        let context = unpack::<tls::UpstreamTlsContext>(&socket.typed_config?)?;
        Some(core::TransportSocket { name: socket.name, typed_config: Some(secured(&context)) })
    });
    let built = cluster::Cluster {
        name: original.name,
        cluster_discovery_type: original.cluster_discovery_type,
        eds_cluster_config: original.eds_cluster_config,
        // The others are refused, or depend on switches of the client.
        lb_policy: cluster::cluster::LbPolicy::RoundRobin.into(),
        circuit_breakers: original.circuit_breakers,
        transport_socket,
        ..Default::default()
    };
    Some(wire::unchecked(built.encode_to_vec(), &value.origin))
}

fn secured(context: &tls::UpstreamTlsContext) -> Any {
    use tls::common_tls_context::ValidationContextType as Validation;
    let common = context.common_tls_context.as_ref();
    let expected = match common.and_then(|common| common.validation_context_type.as_ref()) {
        Some(Validation::CombinedValidationContext(combined)) => combined
            .default_validation_context
            .as_ref()
            .map(|one| one.match_typed_subject_alt_names.as_slice()),
        Some(Validation::ValidationContext(_) | Validation::ValidationContextSdsSecretConfig(_)) | None => {
            None
        }
    };
    let names = expected.unwrap_or_default().iter().filter_map(|one| one.matcher.clone());
    let provider = || Some(ProviderInstance { instance_name: PROVIDER.to_owned() });
    let context = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            validation_context: Some(ValidationContext {
                match_subject_alt_names: names.collect(),
                ca_certificate_provider_instance: provider(),
            }),
            tls_certificate_provider_instance: provider(),
        }),
    };
    Any { type_url: format!("{}{UPSTREAM_TLS}", type_url::PREFIX), value: context.encode_to_vec() }
}

/// Endpoints: every locality has a weight, the sum of what is in it.
pub(super) fn endpoints(value: &Resource) -> Option<Resource> {
    let original = endpoint::ClusterLoadAssignment::decode(value.body.clone()).ok()?;
    let endpoints = original.endpoints.into_iter().map(|locality| {
        let weights = locality.lb_endpoints.iter().map(|one| one.load_balancing_weight.unwrap_or(1));
        let weight = weights.fold(0_u32, u32::saturating_add).max(1);
        Locality {
            locality: locality.locality,
            lb_endpoints: locality.lb_endpoints,
            load_balancing_weight: Some(weight),
        }
    });
    let built = Assignment { cluster_name: original.cluster_name, endpoints: endpoints.collect() };
    Some(wire::unchecked(built.encode_to_vec(), &value.origin))
}

/// Routes: only matches that gRPC knows. A rule that no call can match is left out.
pub(super) fn routes(value: &Resource) -> Option<Resource> {
    let mut table = route::RouteConfiguration::decode(value.body.clone()).ok()?;
    for host in &mut table.virtual_hosts {
        host.routes = std::mem::take(&mut host.routes).into_iter().flat_map(adapted).collect();
    }
    table.validate_clusters = None;
    Some(wire::unchecked(table.encode_to_vec(), &value.origin))
}

fn adapted(mut value: route::Route) -> Vec<route::Route> {
    use route::route_match::PathSpecifier;
    let Some(rule) = &mut value.r#match else { return Vec::new() };
    // A call is a POST without query parameters.
    if !rule.query_parameters.is_empty() || !rule.headers.iter().all(is_possible) {
        return Vec::new();
    }
    rule.headers.retain(|header| header.name != ":method");
    let separated = match &rule.path_specifier {
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => Some(prefix.clone()),
        Some(PathSpecifier::Prefix(_) | PathSpecifier::Path(_) | PathSpecifier::SafeRegex(_)) | None => None,
    };
    if let Some(route::route::Action::Route(action)) = &mut value.action {
        limit(action);
    }
    let Some(prefix) = separated else { return vec![value] };
    let mut below = value.clone();
    if let (Some(exact), Some(below)) = (&mut value.r#match, &mut below.r#match) {
        exact.path_specifier = Some(PathSpecifier::Path(prefix.clone()));
        below.path_specifier = Some(PathSpecifier::Prefix(format!("{prefix}/")));
    }
    vec![value, below]
}

fn is_possible(header: &route::HeaderMatcher) -> bool {
    use route::header_matcher::HeaderMatchSpecifier as Specifier;
    if header.name != ":method" {
        return true;
    }
    match &header.header_match_specifier {
        Some(Specifier::StringMatch(matcher)) => {
            matcher.match_pattern == Some(MatchPattern::Exact("POST".to_owned()))
        }
        Some(Specifier::RangeMatch(_) | Specifier::PresentMatch(_)) | None => false,
    }
}

/// Timeouts as gRPC reads them.
fn limit(action: &mut route::RouteAction) {
    let timeout = action.timeout.take().and_then(|timeout| Duration::try_from(timeout).ok());
    action.max_stream_duration =
        timeout.filter(|timeout| !timeout.is_zero()).map(|timeout| route::route_action::MaxStreamDuration {
            max_stream_duration: Some(wire::duration(timeout)),
            ..route::route_action::MaxStreamDuration::default()
        });
}

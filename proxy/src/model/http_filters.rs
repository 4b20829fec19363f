//! The filters of an HTTP chain.

use outrider_proto::envoy::extensions::filters::http::adaptive_concurrency::v3::AdaptiveConcurrency;
use outrider_proto::envoy::extensions::filters::http::fault::v3::HttpFault;
use outrider_proto::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use outrider_proto::envoy::extensions::filters::http::rbac::v3::Rbac;
use outrider_proto::envoy::extensions::filters::http::router::v3::Router;
use outrider_proto::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use outrider_proto::{Path, unpack};

use super::rate_limit::{self, HttpLimit};
use super::rbac::{self, HttpPolicies};
use super::{concurrency, fault, parse};
use crate::fault::HttpFaults;
use crate::limit::gradient::Gradient;

/// What stands before the router.
#[derive(Default)]
pub(super) struct Filters {
    /// Authorization.
    pub(super) policies: Vec<HttpPolicies>,
    /// Faults, each of which knows how many policies stand before it.
    pub(super) faults: Vec<HttpFaults>,
    /// Limits on rates.
    pub(super) limits: Vec<HttpLimit>,
    /// A limit on requests at a time.
    pub(super) concurrency: Option<Gradient>,
}

/// The filters before the router, which must be the last.
pub(super) fn filters(filters: &[pb::HttpFilter], path: &mut Path) -> Filters {
    let mut found = Filters::default();
    for (index, filter) in filters.iter().enumerate() {
        path.item("http_filters", index, |path| {
            let name = parse::required(&filter.name, "name", path);
            let Some(pb::http_filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
                path.fault_at("typed_config", "missing");
                return;
            };
            let is_last = index + 1 == filters.len();
            if let Some(value) = unpack::<Rbac>(any) {
                let filter = path.field("typed_config", |path| rbac::http_filter(&value, path));
                found.policies.extend(name.map(|name| HttpPolicies { name, filter }));
                if is_last {
                    path.fault("the router must be the last filter");
                }
            } else if let Some(value) = unpack::<HttpFault>(any) {
                let filter = path.field("typed_config", |path| fault::http_filter(&value, path));
                found.faults.extend(name.map(|name| HttpFaults::new(name, filter, found.policies.len())));
                if is_last {
                    path.fault("the router must be the last filter");
                }
            } else if let Some(value) = unpack::<LocalRateLimit>(any) {
                let limit = path.field("typed_config", |path| rate_limit::requests(&value, path));
                found.limits.extend(name.zip(limit).map(|(name, limit)| HttpLimit { name, limit }));
                if is_last {
                    path.fault("the router must be the last filter");
                }
            } else if let Some(value) = unpack::<AdaptiveConcurrency>(any) {
                let limit = path.field("typed_config", |path| concurrency::compile(&value, path));
                if is_last || found.concurrency.is_some() {
                    path.fault("must stand before the router, and only once");
                }
                found.concurrency = limit;
            } else if unpack::<Router>(any).is_none() {
                path.fault_at("typed_config", format!("\"{}\" is not an HTTP filter", any.type_url));
            } else if !is_last {
                path.fault("the router must be the last filter");
            }
        });
    }
    if filters.is_empty() {
        path.fault_at("http_filters", "missing; the last filter must be the router");
    }
    found
}

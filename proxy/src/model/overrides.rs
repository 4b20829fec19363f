//! What a route, a virtual host, a route configuration or a weighted cluster says to single filters.

use std::collections::HashMap;

use outrider_proto::envoy::extensions::filters::http::fault::v3::HttpFault;
use outrider_proto::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use outrider_proto::envoy::extensions::filters::http::rbac::v3::RbacPerRoute;
use outrider_proto::{Path, unpack};
use prost_types::Any;

use super::{fault, rate_limit, rbac};
use crate::limit::RateLimit;
use crate::{fault as faults, policy};

/// Settings of filters, by filter name.
#[derive(Debug, Default)]
pub struct FilterOverrides(Vec<(Box<str>, Override)>);

/// What is said to one filter, in the place of its own settings.
#[derive(Debug)]
pub enum Override {
    /// To one that authorizes.
    Policies(policy::Filter),
    /// To one that injects faults.
    Faults(faults::Filter),
    /// To one that limits rates.
    Limit(Box<RateLimit>),
}

/// What kind of filter something is said to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FilterKind {
    /// One that authorizes.
    Policies,
    /// One that injects faults.
    Faults,
    /// One that limits rates.
    Limit,
}

impl Override {
    fn from_proto(any: &Any, path: &mut Path) -> Option<Self> {
        if let Some(value) = unpack::<RbacPerRoute>(any) {
            return Some(Self::Policies(rbac::per_route(&value, path)));
        }
        if let Some(value) = unpack::<HttpFault>(any) {
            return Some(Self::Faults(fault::http_filter(&value, path)));
        }
        if let Some(value) = unpack::<LocalRateLimit>(any) {
            return rate_limit::requests(&value, path).map(|limit| Self::Limit(Box::new(limit)));
        }
        path.refuse(format!(
            "\"{}\" is not what a route can say to a filter; for authorization it is RBACPerRoute, for faults HTTPFault, \
             for a rate limit LocalRateLimit",
            any.type_url
        ))
    }

    const fn kind(&self) -> FilterKind {
        match self {
            Self::Policies(_) => FilterKind::Policies,
            Self::Faults(_) => FilterKind::Faults,
            Self::Limit(_) => FilterKind::Limit,
        }
    }
}

impl FilterOverrides {
    pub(super) fn from_proto(value: &HashMap<String, Any>, path: &mut Path) -> Self {
        let mut sorted: Vec<_> = value.iter().collect();
        sorted.sort_by_key(|(name, _)| *name);
        let overrides = sorted.into_iter().filter_map(|(name, any)| {
            path.field("typed_per_filter_config", |path| {
                path.key(name, |path| Some((name.as_str().into(), Override::from_proto(any, path)?)))
            })
        });
        Self(overrides.collect())
    }

    /// What is said to the authorization filter of this name.
    #[must_use]
    pub fn policies(&self, name: &str) -> Option<&policy::Filter> {
        self.0.iter().find_map(|(known, said)| match said {
            Override::Policies(filter) if **known == *name => Some(filter),
            Override::Policies(_) | Override::Faults(_) | Override::Limit(_) => None,
        })
    }

    /// What is said to the fault filter of this name.
    #[must_use]
    pub fn faults(&self, name: &str) -> Option<&faults::Filter> {
        self.0.iter().find_map(|(known, said)| match said {
            Override::Faults(filter) if **known == *name => Some(filter),
            Override::Policies(_) | Override::Faults(_) | Override::Limit(_) => None,
        })
    }

    /// What is said to the rate limit of this name.
    #[must_use]
    pub fn limit(&self, name: &str) -> Option<&RateLimit> {
        self.0.iter().find_map(|(known, said)| match said {
            Override::Limit(limit) if **known == *name => Some(&**limit),
            Override::Policies(_) | Override::Faults(_) | Override::Limit(_) => None,
        })
    }

    /// The names of the filters that something is said to, and which kind hears it.
    pub fn names(&self) -> impl Iterator<Item = (&str, FilterKind)> {
        self.0.iter().map(|(name, said)| (&**name, said.kind()))
    }
}

//! The hash by which requests of the same client come to the same endpoint, and the cookie that makes it so.

use super::report::Report;
use crate::http::message::{RequestHead, ResponseHead};
use crate::model::ForwardAction;
use crate::model::route::hash::{HashPolicy, HashSource, cookie, xxhash};
use crate::upstream::ClusterState;

/// What a request is held to an endpoint by.
#[derive(Debug, Default)]
pub struct Sticky {
    /// Its hash; `None` where the cluster does not ask for one or the request has nothing to make it of.
    pub hash: Option<u64>,
    /// A cookie for the client, as a `set-cookie` value.
    cookie: Option<String>,
}

impl Sticky {
    /// What the route's `hash_policy` makes of a request.
    #[must_use]
    pub fn new(
        action: &ForwardAction,
        cluster: &ClusterState,
        request: &RequestHead,
        report: &Report,
        draw: impl Fn() -> u64,
    ) -> Self {
        if !cluster.config().balancing.balancer.by_hash() {
            return Self::default();
        }
        let mut made = Self::default();
        let hash = HashPolicy::hash(&action.hash, |source| match source {
            HashSource::Cookie { name, ttl: Some(ttl), path } if cookie(request, name).is_none() => {
                let value = format!("{:016x}", draw());
                let hash = xxhash(value.as_bytes());
                let age = match ttl.as_secs() {
                    0 => String::new(),
                    seconds => format!("; Max-Age={seconds}"),
                };
                let path = if path.is_empty() { String::new() } else { format!("; Path={path}") };
                made.cookie = Some(format!("{name}=\"{value}\"{age}{path}; HttpOnly"));
                Some(hash)
            }
            HashSource::Cookie { .. }
            | HashSource::Header(_)
            | HashSource::SourceIp
            | HashSource::Query(_) => source.hash(request, report.client()),
        });
        made.hash = hash;
        made
    }

    /// Gives the client its cookie.
    pub fn answer(&self, response: &mut ResponseHead) {
        if let Some(cookie) = &self.cookie {
            response.headers.append(b"set-cookie", cookie.as_bytes());
        }
    }
}

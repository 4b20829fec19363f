//! How an endpoint is chosen: the part of `TrafficPolicy` about balancing.

use outrider_proto::Path;
use schemars::JsonSchema;
use serde::Deserialize;

use super::scalar::Span;

/// Most endpoints that are drawn to choose from: the proxy's own limit.
const MAX_CHOICES: u32 = 32;
/// Most parts of a hash.
const MAX_PARTS: usize = 8;

/// How an endpoint is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LoadBalancer {
    /// The way.
    pub policy: LbPolicy,
    /// `LeastRequest`: how many are drawn to choose from; 2 when it is not said.
    #[serde(default)]
    #[schemars(range(min = 2, max = 32))]
    pub choices: Option<u32>,
    /// `RingHash` and `Maglev`: what stays with one endpoint, all of it together. Without it the endpoint is chosen by
    /// chance.
    #[serde(default)]
    #[schemars(length(max = 8))]
    pub hash: Vec<HashOn>,
    /// `RoundRobin` and `LeastRequest`: how long a new endpoint gets less than its share.
    #[serde(default)]
    pub slow_start: Option<Span>,
    /// All endpoints are used when fewer than so many percent are well; 50 when it is not said, 0 is never.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub panic_threshold: Option<u32>,
}

/// Ways to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum LbPolicy {
    /// In turn, by weight.
    RoundRobin,
    /// The least busy of some drawn by chance.
    LeastRequest,
    /// By chance, by weight.
    Random,
    /// The cheaper of two by observed latency and what is under way; in Envoy and gRPC the least busy one.
    PeakEwma,
    /// By a hash, on a ring.
    RingHash,
    /// By a hash, in a table.
    Maglev,
}

/// A part of a hash: exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HashOn {
    /// The value of a header.
    #[serde(default)]
    pub header: Option<String>,
    /// The value of a cookie.
    #[serde(default)]
    pub cookie: Option<String>,
    /// The value of a query parameter.
    #[serde(default)]
    pub query_parameter: Option<String>,
    /// The client's address.
    #[serde(default)]
    pub source_address: bool,
}

impl LoadBalancer {
    pub(super) fn check(&self, path: &mut Path) {
        if let Some(choices) = self.choices {
            if self.policy != LbPolicy::LeastRequest {
                path.fault_at("choices", "goes with LeastRequest only");
            } else if !(2..=MAX_CHOICES).contains(&choices) {
                path.fault_at("choices", format!("must be from 2 to {MAX_CHOICES}"));
            }
        }
        if !self.hash.is_empty() && !matches!(self.policy, LbPolicy::RingHash | LbPolicy::Maglev) {
            path.fault_at("hash", "goes with RingHash and Maglev only");
        }
        if self.hash.len() > MAX_PARTS {
            path.fault_at("hash", format!("more than {MAX_PARTS}"));
        }
        for (index, part) in self.hash.iter().enumerate() {
            path.item("hash", index, |path| part.check(path));
        }
        if let Some(time) = self.slow_start {
            if !matches!(self.policy, LbPolicy::RoundRobin | LbPolicy::LeastRequest) {
                path.fault_at("slowStart", "goes with RoundRobin and LeastRequest only");
            } else if time.0.is_zero() {
                path.fault_at("slowStart", "must be longer than 0");
            }
        }
        if self.panic_threshold.is_some_and(|percent| percent > 100) {
            path.fault_at("panicThreshold", "must be from 0 to 100");
        }
    }
}

impl HashOn {
    fn check(&self, path: &mut Path) {
        let named = [
            ("header", &self.header, true),
            ("cookie", &self.cookie, true),
            ("queryParameter", &self.query_parameter, false),
        ];
        let said = named.iter().filter(|(_, name, _)| name.is_some()).count();
        if said + usize::from(self.source_address) != 1 {
            path.fault("exactly one of header, cookie, queryParameter and sourceAddress is needed");
        }
        for (kind, name, token) in named {
            let Some(name) = name else { continue };
            if name.is_empty() {
                path.fault_at(kind, "must not be empty");
            } else if token && !name.bytes().all(is_token) {
                path.fault_at(kind, "must be a token of letters, digits and !#$%&'*+-.^_`|~");
            }
        }
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

//! `FaultInjection`: faults on purpose, for a limited time.

use std::time::Duration;

use outrider_proto::Path;
use schemars::JsonSchema;
use serde::Deserialize;

use super::scalar::Span;
use super::workload::Selector;
use super::{ObjectKind, Spec};

/// The longest life of a fault.
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// Faults in the traffic of the workloads that it selects. They end by themselves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FaultInjection {
    /// Workloads of the policy's namespace; all of them when it is not said.
    #[serde(default)]
    pub selector: Option<Selector>,
    /// Where on the way.
    pub direction: Direction,
    /// How long it lasts, renewed as long as the object is there; the proxy keeps to it by itself.
    pub ttl: Span,
    /// Of a hundred requests or connections.
    #[schemars(range(min = 0, max = 100))]
    pub percent: u32,
    /// It takes longer.
    #[serde(default)]
    pub delay: Option<Span>,
    /// It fails.
    #[serde(default)]
    pub abort: Option<Abort>,
}

/// Where on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Direction {
    /// Before the workload.
    Inbound,
    /// Before an endpoint is chosen.
    Outbound,
    /// After it was chosen, for each attempt.
    Attempt,
}

/// How it fails: exactly one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Abort {
    /// With this status.
    #[serde(default)]
    #[schemars(range(min = 200, max = 599))]
    pub http_status: Option<u16>,
    /// With this gRPC status.
    #[serde(default)]
    #[schemars(range(min = 1, max = 16))]
    pub grpc_status: Option<u8>,
    /// The connection is reset.
    #[serde(default)]
    pub reset: bool,
}

impl Spec for FaultInjection {
    const KIND: ObjectKind = ObjectKind::FaultInjection;

    fn check(&self, path: &mut Path) {
        if self.ttl.0.is_zero() || self.ttl.0 > MAX_TTL {
            path.fault_at("ttl", "must be more than 0 and 24h at most");
        }
        if self.percent > 100 {
            path.fault_at("percent", "must be from 0 to 100");
        }
        if self.delay.is_none() && self.abort.is_none() {
            path.fault("delay or abort is needed");
        }
        if let Some(abort) = &self.abort {
            let said = [abort.http_status.is_some(), abort.grpc_status.is_some(), abort.reset];
            if said.iter().filter(|said| **said).count() != 1 {
                path.fault_at("abort", "exactly one of httpStatus, grpcStatus and reset is needed");
            }
            if abort.http_status.is_some_and(|status| !(200..600).contains(&status)) {
                path.fault_at("abort.httpStatus", "must be from 200 to 599");
            }
            if abort.grpc_status.is_some_and(|status| !(1..=16).contains(&status)) {
                path.fault_at("abort.grpcStatus", "must be from 1 to 16");
            }
        }
    }
}

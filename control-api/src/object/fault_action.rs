//! What a `FaultInjection` does: exactly one thing.

use std::time::Duration;

use outrider_proto::Path;
use schemars::JsonSchema;
use serde::Deserialize;

use super::scalar::Span;

/// Longest delay: the proxy's own limit.
const MAX_DELAY: Duration = Duration::from_secs(3600);

/// Something that happens, of which there is nothing more to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plain {}

/// It takes longer: exactly one of the amounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Delay {
    /// Always the same.
    #[serde(default)]
    pub fixed: Option<Span>,
    /// Anything between, equally often.
    #[serde(default)]
    pub uniform: Option<Uniform>,
    /// Around a mean; what would be negative is 0.
    #[serde(default)]
    pub normal: Option<Normal>,
    /// The shorter the rarer the longer: a heavy tail.
    #[serde(default)]
    pub pareto: Option<Pareto>,
    /// What comes later.
    #[serde(default)]
    pub moment: Moment,
}

/// Anything between, equally often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Uniform {
    /// The shortest.
    pub min: Span,
    /// The longest.
    pub max: Span,
}

/// Around a mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Normal {
    /// In the middle.
    pub mean: Span,
    /// Two thirds are not further than this from the mean.
    pub deviation: Span,
}

/// A heavy tail.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pareto {
    /// The shortest.
    pub scale: Span,
    /// Above 0; the smaller the heavier the tail. The mean is finite above 1.
    pub shape: f64,
    /// The longest; an hour when it is not said.
    #[serde(default)]
    pub max: Option<Span>,
}

/// What comes later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Moment {
    /// The request, or the connection.
    #[default]
    BeforeRequest,
    /// The response.
    BeforeResponse,
    /// Each piece of the response's body.
    PerChunk,
}

/// It fails: exactly one of the ways.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Abort {
    /// With this status.
    #[serde(default)]
    #[schemars(range(min = 200, max = 599))]
    pub http_status: Option<u16>,
    /// With this gRPC status.
    #[serde(default)]
    pub grpc: Option<GrpcAbort>,
    /// The connection is reset; on HTTP/2 the stream.
    #[serde(default)]
    pub reset: Option<Plain>,
    /// An HTTP/2 stream is reset with this code; an HTTP/1 connection is reset.
    #[serde(default)]
    pub stream_code: Option<u32>,
    /// An HTTP/2 connection is ended with this code; an HTTP/1 connection is reset.
    #[serde(default)]
    pub go_away_code: Option<u32>,
    /// The connection is closed in order.
    #[serde(default)]
    pub close: Option<Plain>,
}

/// A status of gRPC.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrpcAbort {
    /// Its number.
    #[schemars(range(min = 1, max = 16))]
    pub status: u8,
    /// Printable ASCII without `%`.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub message: String,
}

/// A direction of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Side {
    /// To the client.
    #[default]
    Response,
    /// From the client.
    Request,
}

/// How fast bytes go at most; one of both at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Bandwidth {
    /// From the client.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub request_bytes_per_second: Option<u64>,
    /// To the client.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub response_bytes_per_second: Option<u64>,
}

/// A body, or what comes over an opaque connection, ends before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Truncate {
    /// Which one.
    #[serde(default)]
    pub side: Side,
    /// After so many bytes.
    pub after_bytes: u64,
}

/// Single bytes are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Corrupt {
    /// Of which body.
    #[serde(default)]
    pub side: Side,
    /// One of so many on average.
    #[schemars(range(min = 1))]
    pub one_in_bytes: u32,
}

/// A few bytes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Drip {
    /// Of which body.
    #[serde(default)]
    pub side: Side,
    /// So many.
    #[schemars(range(min = 1))]
    pub chunk_bytes: u32,
    /// And so long between.
    pub interval: Span,
}

/// Handshakes fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsFailure {
    /// With this alert (RFC 8446 section 6.2), for example 45 for an expired certificate; 40, `handshake_failure`, when
    /// it is not said.
    #[serde(default)]
    pub alert: Option<u8>,
}

impl Delay {
    pub(super) fn check(&self, path: &mut Path) {
        let said =
            [self.fixed.is_some(), self.uniform.is_some(), self.normal.is_some(), self.pareto.is_some()];
        if said.iter().filter(|said| **said).count() != 1 {
            path.fault("exactly one of fixed, uniform, normal and pareto is needed");
        }
        let spans = [
            ("fixed", self.fixed),
            ("uniform.min", self.uniform.map(|uniform| uniform.min)),
            ("uniform.max", self.uniform.map(|uniform| uniform.max)),
            ("normal.mean", self.normal.map(|normal| normal.mean)),
            ("normal.deviation", self.normal.map(|normal| normal.deviation)),
            ("pareto.scale", self.pareto.map(|pareto| pareto.scale)),
            ("pareto.max", self.pareto.and_then(|pareto| pareto.max)),
        ];
        for (name, _) in spans.iter().filter(|(_, span)| span.is_some_and(|span| span.0 > MAX_DELAY)) {
            path.fault_at(name, "longer than an hour");
        }
        if self.uniform.is_some_and(|uniform| uniform.min > uniform.max) {
            path.fault_at("uniform", "min is more than max");
        }
        if let Some(pareto) = &self.pareto {
            let sound = pareto.shape > 0.0 && pareto.shape.is_finite() && !pareto.scale.0.is_zero();
            if !sound || pareto.max.is_some_and(|max| max < pareto.scale) {
                path.fault_at("pareto", "scale and shape must be more than 0, and max not less than scale");
            }
        }
    }
}

impl Abort {
    pub(super) fn check(&self, path: &mut Path) {
        let said = [
            self.http_status.is_some(),
            self.grpc.is_some(),
            self.reset.is_some(),
            self.stream_code.is_some(),
            self.go_away_code.is_some(),
            self.close.is_some(),
        ];
        if said.iter().filter(|said| **said).count() != 1 {
            path.fault("exactly one of httpStatus, grpc, reset, streamCode, goAwayCode and close is needed");
        }
        if self.http_status.is_some_and(|status| !(200..600).contains(&status)) {
            path.fault_at("httpStatus", "must be from 200 to 599");
        }
        if let Some(grpc) = &self.grpc {
            if !(1..=16).contains(&grpc.status) {
                path.fault_at("grpc.status", "must be from 1 to 16");
            }
            let plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'%';
            if grpc.message.len() > 256 || !grpc.message.bytes().all(plain) {
                path.fault_at("grpc.message", "must be printable ASCII without \"%\", 256 bytes at most");
            }
        }
    }
}

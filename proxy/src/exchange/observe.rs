//! What an attempt says about the endpoint that it went to: for ejection, and for balancing by latency.

use tokio::time::Instant;

use super::attempt::Attempts;
use super::failed::Failed;
use crate::http::message::{RequestHead, ResponseHead};
use crate::observe::Reason;
use crate::observe::metrics::Labels;
use crate::observe::series::EJECTIONS;
use crate::retry::Failure;
use crate::upstream::EndpointState;
use crate::upstream::outlier::Outcome;

impl Attempts<'_> {
    /// Takes note of how an attempt ended, where that says something about its endpoint.
    pub(super) fn observe(
        &self,
        endpoint: &EndpointState,
        begun: Option<Instant>,
        request: &RequestHead,
        ended: Result<&ResponseHead, &Failed>,
    ) {
        let config = self.cluster.config();
        if begun.is_none() && config.outliers.is_none() {
            return;
        }
        let outcome = match ended {
            Ok(response) => Some(Outcome::Status(status(request, response))),
            Err(failed) => failure(failed),
        };
        let Some(outcome) = outcome else { return };
        let worker = &self.origin.worker;
        let ejected = self.cluster.attempted(endpoint, (outcome, begun), &mut worker.random.borrow_mut());
        if let Some(cause) = ejected {
            let labels = Labels::none().with("destination_service", &config.name).with("cause", cause.code());
            worker.metrics.counter(EJECTIONS, &labels).add(1);
        }
    }
}

/// The status of an answer; that of a gRPC answer which is only a head stands for its code.
fn status(request: &RequestHead, response: &ResponseHead) -> u16 {
    let grpc = response.headers.first(b"grpc-status").filter(|_| request.is_grpc());
    grpc.map_or_else(|| response.status.as_u16(), grpc_to_http)
}

/// As in Envoy, which follows the mapping of Google's `google.rpc.Code`.
fn grpc_to_http(code: &[u8]) -> u16 {
    match code {
        b"0" => 200,
        b"1" => 499,
        b"3" | b"9" | b"11" => 400,
        b"4" => 504,
        b"5" => 404,
        b"6" | b"10" => 409,
        b"7" => 403,
        b"8" => 429,
        b"12" => 501,
        b"14" => 503,
        b"16" => 401,
        _ => 500,
    }
}

/// `None` where it was not the endpoint's doing.
const fn failure(failed: &Failed) -> Option<Outcome> {
    match failed {
        Failed::Attempt(failure, reason, _) => match (failure, reason) {
            (Failure::Connect, Reason::UpstreamConnectTimeout) | (Failure::PerTryTimeout, _) => {
                Some(Outcome::TimedOut)
            }
            (Failure::Connect, _) => Some(Outcome::ConnectFailed),
            (Failure::Reset | Failure::Refused, _) => Some(Outcome::Reset),
            // What it said was an answer, if a bad one.
            (Failure::Invalid, _) => Some(Outcome::Status(502)),
            (Failure::StaleConnection, _) => None,
        },
        Failed::Answer(Reason::RouteTimeout, _) => Some(Outcome::TimedOut),
        Failed::Answer(..) | Failed::Gone(_) | Failed::Overtaken(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_held_against_whose_they_are() {
        let failed = |kind, reason| failure(&Failed::Attempt(kind, reason, String::new()));
        for (kind, reason, expected) in [
            (Failure::Connect, Reason::UpstreamConnectFailure, Some(Outcome::ConnectFailed)),
            (Failure::Connect, Reason::UpstreamConnectTimeout, Some(Outcome::TimedOut)),
            (Failure::PerTryTimeout, Reason::PerTryIdle, Some(Outcome::TimedOut)),
            (Failure::Reset, Reason::UpstreamReset, Some(Outcome::Reset)),
            (Failure::StaleConnection, Reason::UpstreamReset, None),
        ] {
            assert_eq!(failed(kind, reason), expected, "{kind:?}");
        }
        let answer = |reason| failure(&Failed::Answer(reason, String::new()));
        assert_eq!(answer(Reason::RouteTimeout), Some(Outcome::TimedOut));
        assert_eq!(answer(Reason::BadRequest), None);
        assert_eq!(failure(&Failed::Gone(Reason::DownstreamGone)), None);
    }

    #[test]
    fn grpc_codes_count_as_their_statuses() {
        let mut request = RequestHead::default();
        request.headers.set(b"content-type", b"application/grpc");
        let mut response = ResponseHead::default();
        response.headers.set(b"grpc-status", b"14");
        assert_eq!(status(&request, &response), 503);
        response.headers.set(b"grpc-status", b"5");
        assert_eq!(status(&request, &response), 404);
        assert_eq!(status(&RequestHead::default(), &response), response.status.as_u16());
    }
}

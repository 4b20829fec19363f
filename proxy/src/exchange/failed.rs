//! How an attempt ends that has no response to pass on, and whose doing it was.

use super::hedge::Winner;
use crate::http::body::SourceError;
use crate::observe::Reason;
use crate::retry::Failure;
use crate::upstream::UpstreamError;

/// How one attempt ended, when not with a response.
pub(super) enum Failed {
    /// It may be worth another.
    Attempt(Failure, Reason, String),
    /// Another attempt would end the same: the client is answered with this.
    Answer(Reason, String),
    /// There is nobody left to answer.
    Gone(Reason),
    /// An attempt that was late has an answer now.
    Overtaken(Winner),
}

impl Failed {
    /// A deadline has passed, or policies no longer allow the request.
    pub(super) const fn late(reason: Reason) -> Self {
        if matches!(reason, Reason::PerTryTimeout | Reason::PerTryIdle) {
            Self::Attempt(Failure::PerTryTimeout, reason, String::new())
        } else {
            Self::Answer(reason, String::new())
        }
    }

    /// The client's body could not be read.
    pub(super) fn body(error: &SourceError) -> Self {
        match error {
            SourceError::Malformed(_) => Self::Answer(Reason::BadRequest, error.to_string()),
            SourceError::Injected => Self::Gone(Reason::FaultInjected),
            SourceError::Truncated | SourceError::Reset(_) | SourceError::Io(_) => {
                Self::Gone(Reason::DownstreamGone)
            }
        }
    }

    /// The upstream gave no answer, or a wrong one.
    pub(super) fn of(error: UpstreamError) -> Self {
        let detail = error.to_string();
        let (failure, reason) = match error {
            UpstreamError::ClosedBeforeResponse { reused: true } => {
                (Failure::StaleConnection, Reason::UpstreamReset)
            }
            UpstreamError::ClosedBeforeResponse { reused: false } => (Failure::Reset, Reason::UpstreamReset),
            UpstreamError::Refused => (Failure::Refused, Reason::UpstreamRefused),
            UpstreamError::Reset(_) => (Failure::Reset, Reason::UpstreamRefused),
            UpstreamError::Protocol(_) => (Failure::Invalid, Reason::UpstreamProtocolError),
            UpstreamError::Unsayable(_) => return Self::Answer(Reason::NotSayable, detail),
        };
        Self::Attempt(failure, reason, detail)
    }

    /// Whether nobody was asked: what speaks against this attempt says nothing about one that is under way.
    pub(super) const fn is_not_made(&self) -> bool {
        matches!(
            self,
            Self::Answer(
                Reason::NoHealthyUpstream
                    | Reason::OverflowConnections
                    | Reason::OverflowPending
                    | Reason::OverflowRequests
                    | Reason::OverflowRetries
                    | Reason::EgressRefused
                    | Reason::NoOriginalDestination,
                _
            )
        )
    }
}

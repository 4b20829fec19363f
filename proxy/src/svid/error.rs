//! Why there is no SVID, and whose fault that is.

use std::error::Error;
use std::path::{Path, PathBuf};

use tonic::{Code, Status};

use super::check::Invalid;

/// Characters of another's message that are shown.
const MAX_SHOWN_CHARS: usize = 256;

/// Why an attempt to get an SVID failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A file of ours cannot be used.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A key or a request could not be made.
    #[error("cannot make a key or a certificate request: {0}")]
    Key(#[from] rcgen::Error),
    /// Nobody answered, or not in time.
    #[error("cannot reach {peer}: {reason}")]
    Unreachable {
        /// Who was asked.
        peer: String,
        /// Why not.
        reason: String,
    },
    /// The answer was no.
    #[error("{peer} refused: {code:?}: {message}")]
    Refused {
        /// Who was asked.
        peer: String,
        /// What kind of no.
        code: Code,
        /// Why.
        message: String,
    },
    /// What came is not a usable SVID.
    #[error("not a usable SVID: {0}")]
    Invalid(#[from] Invalid),
}

impl FetchError {
    /// What is wrong with a file.
    pub fn file(path: &Path, reason: impl ToString) -> Self {
        Self::File { path: path.to_owned(), reason: reason.to_string() }
    }

    /// Nobody answered.
    pub fn unreachable(peer: impl Into<String>, error: &dyn Error) -> Self {
        Self::Unreachable { peer: peer.into(), reason: with_sources(error) }
    }

    /// What a status says: a refusal, or that nobody who could answer was reached.
    pub fn status(peer: impl Into<String>, status: &Status) -> Self {
        let (peer, message) = (peer.into(), shown(status.message()));
        let is_refusal = matches!(
            status.code(),
            Code::InvalidArgument
                | Code::Unauthenticated
                | Code::PermissionDenied
                | Code::NotFound
                | Code::FailedPrecondition
                | Code::Unimplemented
        );
        if is_refusal {
            Self::Refused { peer, code: status.code(), message }
        } else {
            Self::Unreachable { peer, reason: format!("{:?}: {message}", status.code()) }
        }
    }

    /// The kind, as a label of a metric.
    #[must_use]
    pub const fn outcome(&self) -> &'static str {
        match self {
            Self::File { .. } | Self::Key(_) => "local",
            Self::Unreachable { .. } => "unreachable",
            Self::Refused { .. } => "refused",
            Self::Invalid(_) => "invalid",
        }
    }
}

/// What others say, in one line of bounded length.
fn shown(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(MAX_SHOWN_CHARS).collect()
}

/// An error with what caused it: the outermost of a connection says only "transport error".
fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    shown(&text)
}

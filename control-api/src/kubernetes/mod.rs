//! The Kubernetes API: how it is reached, and what it said when it did not do what it was asked.
//!
//! Who uses it: the source of objects ([`crate::source::kubernetes`]), the check of callers' tokens
//! ([`crate::auth::token_review`]), the one who writes ([`lease`]), what is written ([`status`]) what is remembered ([`memory`])
//! and what replicas count together ([`counts`]).

pub mod counts;
pub mod discovery;
pub mod lease;
pub mod memory;
#[cfg(test)]
pub(crate) mod stand_in;
pub mod status;
pub mod write;

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// For a connection to the API server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For an answer, except of a watch.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// What an answer's words may take of a line, in characters.
const MAX_REASON_CHARS: usize = 500;

/// Why the Kubernetes API did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// It is not known where it is, or who we are to it.
    #[error("no way to the Kubernetes API: {0}")]
    Config(String),
    /// No answer in time.
    #[error("the Kubernetes API has not answered in {} s", CALL_TIMEOUT.as_secs())]
    Late,
    /// It has refused.
    #[error("the Kubernetes API answers {code}: {reason}")]
    Refused {
        /// The HTTP status code.
        code: u16,
        /// Its words.
        reason: String,
    },
    /// Nothing that could be understood came back.
    #[error("the Kubernetes API cannot be spoken to: {0}")]
    Broken(String),
}

impl KubeError {
    /// The HTTP status code of a refusal.
    #[must_use]
    pub const fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Config(_) | Self::Late | Self::Broken(_) => None,
        }
    }
}

impl From<kube::Error> for KubeError {
    fn from(error: kube::Error) -> Self {
        let kube::Error::Api(status) = error else { return Self::Broken(words(&causes(&error))) };
        let reason = if status.message.is_empty() { &status.reason } else { &status.message };
        Self::Refused { code: status.code, reason: words(reason) }
    }
}

/// A client for the API server that a file names, or else `KUBECONFIG`, or else the cluster that this runs in.
///
/// # Errors
/// When none is named. Whether it answers is not tried.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, KubeError> {
    let failed = |error: &dyn std::error::Error| KubeError::Config(words(&causes(error)));
    let mut config = match kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path).map_err(|error| failed(&error))?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(read, &options).await.map_err(|error| failed(&error))?
        }
        None => Config::infer().await.map_err(|error| failed(&error))?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // Whoever calls knows best when to try again.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| failed(&error))
}

/// Waits for an answer, and not for ever.
///
/// # Errors
/// As the call's, and when there is no answer in time.
pub async fn call<T>(answer: impl Future<Output = Result<T, kube::Error>>) -> Result<T, KubeError> {
    match tokio::time::timeout(CALL_TIMEOUT, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(KubeError::Late),
    }
}

/// An error and all that it comes from; libraries tell the cause in the last one.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Of what somebody else wrote: one line, not too long.
fn words(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(MAX_REASON_CHARS).collect()
}

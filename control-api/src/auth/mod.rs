//! Who calls: by the certificate of its connection, or by a bearer token.

mod caller;
pub mod join;
pub mod operator;
mod spiffe;
pub mod token_review;
mod tokens;

pub use caller::{Access, Caller, Peer, Place};
pub use spiffe::{check_segment, check_trust_domain, parse, trust_domain_of};
pub use tokens::Tokens;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::proxy_info::Identity;

/// Largest token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// What a token proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The identity that its holder has.
    pub identity: Identity,
    /// The holder as the issuer knows it, for logs and limits.
    pub holder: Arc<str>,
    /// When the token ends.
    pub expires: Option<SystemTime>,
}

/// Why a caller is turned away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No valid token, and no certificate either.
    #[error("{0}")]
    Unauthenticated(String),
    /// Its holder gets no identity.
    #[error("{0}")]
    Denied(String),
    /// It cannot be checked now.
    #[error("{0}")]
    Unavailable(String),
}

impl From<AuthError> for tonic::Status {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Unauthenticated(reason) => Self::unauthenticated(reason),
            AuthError::Denied(reason) => Self::permission_denied(reason),
            AuthError::Unavailable(reason) => Self::unavailable(reason),
        }
    }
}

/// Checks tokens. What is not certainly good is refused.
#[tonic::async_trait]
pub trait Authenticator: Send + Sync + fmt::Debug {
    /// Whose token this is.
    ///
    /// # Errors
    /// Why it is not taken. The token itself is never part of the reason.
    async fn authenticate(&self, token: &str) -> Result<Proven, AuthError>;
}

//! The identity service: certificates for those who prove with a token who they are.
//!
//! A certificate alone renews nothing: whoever steals a key has it until the certificate ends, and no longer.

mod limit;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrider_proto::outrider::identity::v1 as pb;
use outrider_proto::outrider::identity::v1::identity_service_server::{
    IdentityService, IdentityServiceServer,
};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::auth::{AuthError, Authenticator, MAX_TOKEN_BYTES, Proven};
use crate::ca::{self, Authority, CaError, MAX_REQUEST_BYTES};
use crate::revoked::Revocations;
use limit::Limit;

/// Largest message, in bytes: a request, a token, and a little.
const MAX_MESSAGE_BYTES: usize = MAX_REQUEST_BYTES + MAX_TOKEN_BYTES + 1024;
/// The shortest life that can be asked for.
const SHORTEST: Duration = Duration::from_secs(1);

/// The service.
#[derive(Debug)]
pub struct Identities {
    authority: Arc<Authority>,
    tokens: Arc<dyn Authenticator>,
    revocations: Revocations,
    limit: Mutex<Limit>,
}

impl Identities {
    /// Ready to be added to a server.
    #[must_use]
    pub fn service(
        authority: Arc<Authority>,
        tokens: Arc<dyn Authenticator>,
        revocations: Revocations,
    ) -> IdentityServiceServer<Self> {
        let service = Self { authority, tokens, revocations, limit: Mutex::default() };
        IdentityServiceServer::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    async fn issue(&self, request: &pb::IssueSvidRequest) -> Result<pb::IssueSvidResponse, Status> {
        let Proven { identity, holder, .. } = self.proven(&request.token).await?;
        if !self.limit.lock().unwrap_or_else(PoisonError::into_inner).allows(&holder, Instant::now()) {
            return Err(Status::resource_exhausted("too many certificates for this holder; later"));
        }
        let csr = ca::Request::read(&request.csr_der);
        let csr = csr.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let ttl = ttl(request)?;
        let spiffe_id = identity.to_string();
        if csr.wish.as_ref().is_some_and(|wish| *wish != spiffe_id) {
            return Err(Status::permission_denied(format!("the token proves {spiffe_id} and nothing else")));
        }
        let issued = self.authority.svid(&csr.key, &identity, ttl, SystemTime::now())?;
        let not_after_s = issued.not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // The line of the audit log. Neither token nor key is in it.
        tracing::info!(
            target: "outrider_control::audit",
            spiffe_id,
            holder = &*holder,
            serial = serial(&issued),
            not_after_s,
            "identity issued"
        );
        metrics::counter!("outrider_control_identities_issued_total").increment(1);
        let der = |all: Vec<rustls::pki_types::CertificateDer<'static>>| {
            all.into_iter().map(|one| one.to_vec()).collect()
        };
        let trust_domain = self.authority.trust_domain().to_string();
        Ok(pb::IssueSvidResponse {
            chain_der: der(issued.chain),
            bundles: vec![pb::TrustBundle { trust_domain, roots_der: der(issued.roots) }],
            not_after: Some(prost_types::Timestamp {
                seconds: i64::try_from(not_after_s).unwrap_or(i64::MAX),
                nanos: 0,
            }),
        })
    }

    async fn proven(&self, token: &str) -> Result<Proven, AuthError> {
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            let reason = format!("token: must have 1 to {MAX_TOKEN_BYTES} bytes");
            return Err(AuthError::Unauthenticated(reason));
        }
        let proven = self.tokens.authenticate(token).await?;
        if proven.identity.trust_domain != *self.authority.trust_domain() {
            return Err(AuthError::Denied(format!("{} is of another trust domain", proven.identity)));
        }
        match self.revocations.now().identity(&proven.identity) {
            Some(reason) => Err(AuthError::Denied(reason)),
            None => Ok(proven),
        }
    }
}

#[tonic::async_trait]
impl IdentityService for Identities {
    async fn issue_svid(
        &self,
        request: Request<pb::IssueSvidRequest>,
    ) -> Result<Response<pb::IssueSvidResponse>, Status> {
        let issued = self.issue(&request.into_inner()).await;
        if let Err(status) = &issued {
            metrics::counter!("outrider_control_identities_refused_total").increment(1);
            tracing::warn!(
                target: "outrider_control::audit",
                code = ?status.code(),
                reason = status.message(),
                "identity refused"
            );
        }
        issued.map(Response::new)
    }
}

impl From<CaError> for Status {
    fn from(error: CaError) -> Self {
        tracing::error!(%error, "nothing can be signed");
        Self::unavailable("the authority cannot sign now")
    }
}

/// What is asked for, if anything.
fn ttl(request: &pb::IssueSvidRequest) -> Result<Option<Duration>, Status> {
    let Some(asked) = request.requested_ttl else { return Ok(None) };
    match Duration::try_from(asked) {
        Ok(ttl) if ttl >= SHORTEST => Ok(Some(ttl)),
        Ok(_) | Err(_) => Err(Status::invalid_argument("requested_ttl: at least 1 s")),
    }
}

/// The serial number, in hexadecimal.
fn serial(issued: &ca::Issued) -> String {
    use x509_parser::prelude::FromDer as _;
    let leaf = issued.chain.first().map(AsRef::as_ref).unwrap_or_default();
    let read = x509_parser::certificate::X509Certificate::from_der(leaf);
    read.map(|(_, leaf)| leaf.raw_serial_as_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests;

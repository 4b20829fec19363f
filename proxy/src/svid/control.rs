//! An SVID from the control server's certificate authority: a new key, a certificate request, and a bearer token.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use outrider_proto::outrider::identity::v1 as pb;
use outrider_proto::outrider::identity::v1::identity_service_client::IdentityServiceClient;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::time::timeout;

use super::check::{Invalid, Material};
use super::connect::{authority, channel};
use super::error::FetchError;
use super::keeper::Clock;
use super::{Svid, pem};
use crate::model::identity::ControlSource;

/// How long one attempt may take, connecting included.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// Largest response, in bytes.
const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024;
/// Largest token, in bytes.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Asks for an SVID for a new key.
///
/// # Errors
/// A local problem, a server out of reach or one that refuses, or an answer that cannot be used.
pub async fn fetch(source: &ControlSource, clock: &Clock) -> Result<Svid, FetchError> {
    // A projected token is rotated under the same name, so it is never kept.
    let token = token(&source.token_file)?;
    let (key, csr_der) = key_and_request(source.spiffe_id.as_deref())?;
    let requested_ttl = source.requested_ttl.and_then(|ttl| prost_types::Duration::try_from(ttl).ok());
    let request = pb::IssueSvidRequest { csr_der, token, requested_ttl };
    let issued = timeout(ATTEMPT_TIMEOUT, issue(source, request)).await;
    let response = issued.map_err(|error| FetchError::unreachable(authority(source), &error))??;
    let bundles = response.bundles.into_iter().map(|bundle| {
        (bundle.trust_domain, bundle.roots_der.into_iter().map(CertificateDer::from).collect())
    });
    let material = Material {
        chain: response.chain_der.into_iter().map(CertificateDer::from).collect(),
        key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        bundles: bundles.collect(),
    };
    let svid = material.check(clock.now())?;
    let told_s = response.not_after.map(|time| time.seconds);
    let own_s = svid.not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if told_s.and_then(|seconds| u64::try_from(seconds).ok()) != Some(own_s) {
        return Err(Invalid::OtherEnd.into());
    }
    if let Some(wished) = &source.spiffe_id
        && wished != svid.spiffe_id.as_str()
    {
        return Err(
            Invalid::OtherIdentity { wished: wished.clone(), found: svid.spiffe_id.to_string() }.into()
        );
    }
    Ok(svid)
}

async fn issue(
    source: &ControlSource,
    request: pb::IssueSvidRequest,
) -> Result<pb::IssueSvidResponse, FetchError> {
    // A connection for each request: renewals are hours apart, and the roots may have been changed since.
    let mut client =
        IdentityServiceClient::new(channel(source).await?).max_decoding_message_size(MAX_RESPONSE_BYTES);
    let answer = client.issue_svid(request).await;
    Ok(answer.map_err(|status| FetchError::status(authority(source), &status))?.into_inner())
}

fn token(path: &Path) -> Result<String, FetchError> {
    let text = String::from_utf8(pem::read(path)?).map_err(|_| FetchError::file(path, "not a token"))?;
    let token = text.trim();
    if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
        return Err(FetchError::file(path, format!("not a token of 1 to {MAX_TOKEN_BYTES} bytes")));
    }
    Ok(token.to_owned())
}

fn key_and_request(spiffe_id: Option<&str>) -> Result<(KeyPair, Vec<u8>), FetchError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(wished) = spiffe_id {
        params.subject_alt_names = vec![SanType::URI(wished.try_into()?)];
    }
    let request = params.serialize_request(&key)?;
    Ok((key, request.der().to_vec()))
}

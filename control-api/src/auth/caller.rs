//! What a caller has proved, and what it may have for it.

use std::sync::Arc;
use std::time::SystemTime;

use tonic::metadata::MetadataMap;

use super::{AuthError, Authenticator, MAX_TOKEN_BYTES};
use crate::proxy_info::Identity;

/// The other end of a connection; a part of each request of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The identity of its certificate, which was verified; `None` when it showed none.
    pub identity: Option<Identity>,
    /// When the certificate ends.
    pub expires: Option<SystemTime>,
    /// Whether the connection is plaintext, which is spoken on loopback only.
    pub plaintext: bool,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// What it has proved; `None` for somebody on this machine who need not prove anything.
    pub identity: Option<Identity>,
    /// When the proof ends.
    pub expires: Option<SystemTime>,
}

/// Who is let in.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Checks tokens; without one only certificates count.
    pub tokens: Option<Arc<dyn Authenticator>>,
    /// Believe those who come in plaintext. There is no plaintext but on loopback.
    pub trust_plaintext: bool,
}

impl Access {
    /// Finds out who calls: by certificate, else by the bearer token in the metadata.
    ///
    /// # Errors
    /// When it has proved nothing, or what it shows does not hold.
    pub async fn caller(&self, peer: &Peer, metadata: &MetadataMap) -> Result<Caller, AuthError> {
        if let Some(identity) = &peer.identity {
            return Ok(Caller { identity: Some(identity.clone()), expires: peer.expires });
        }
        if let Some(token) = bearer(metadata)? {
            let tokens = self.tokens.as_ref();
            let tokens = tokens.ok_or_else(|| unauthenticated("tokens are not taken here"))?;
            let proven = tokens.authenticate(token).await?;
            return Ok(Caller { identity: Some(proven.identity), expires: proven.expires });
        }
        if peer.plaintext && self.trust_plaintext {
            return Ok(Caller { identity: None, expires: None });
        }
        Err(unauthenticated("show a client certificate of this trust domain, or a bearer token"))
    }
}

/// The token in `authorization: Bearer TOKEN`.
fn bearer(metadata: &MetadataMap) -> Result<Option<&str>, AuthError> {
    let mut values = metadata.get_all("authorization").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let malformed = || unauthenticated("authorization: not one value \"Bearer TOKEN\"");
    let text = value.to_str().ok().filter(|_| values.next().is_none()).ok_or_else(malformed)?;
    let (scheme, token) = text.split_once(' ').ok_or_else(malformed)?;
    let good = scheme.eq_ignore_ascii_case("bearer") && (1..=MAX_TOKEN_BYTES).contains(&token.len());
    if good { Ok(Some(token)) } else { Err(malformed()) }
}

fn unauthenticated(reason: &str) -> AuthError {
    AuthError::Unauthenticated(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Proven;

    #[derive(Debug)]
    struct One;

    #[tonic::async_trait]
    impl Authenticator for One {
        async fn authenticate(&self, token: &str) -> Result<Proven, AuthError> {
            if token == "good" {
                let identity = identity("token");
                return Ok(Proven { identity, holder: "one".into(), expires: None });
            }
            Err(unauthenticated("not known"))
        }
    }

    fn identity(name: &str) -> Identity {
        super::super::parse(&format!("spiffe://a/ns/b/sa/{name}")).unwrap()
    }

    #[tokio::test]
    async fn a_certificate_counts_before_a_token_and_nothing_is_not_enough() {
        let access = Access { tokens: Some(Arc::new(One)), trust_plaintext: true };
        let tls = Peer::default();
        let certified = Peer { identity: Some(identity("certificate")), ..Peer::default() };
        let local = Peer { plaintext: true, ..Peer::default() };
        let mut good = MetadataMap::new();
        good.insert("authorization", "Bearer good".parse().unwrap());
        let mut bad = MetadataMap::new();
        bad.insert("authorization", "Bearer bad".parse().unwrap());
        let mut basic = MetadataMap::new();
        basic.insert("authorization", "Basic good".parse().unwrap());
        let none = MetadataMap::new();
        for (peer, metadata, expected) in [
            (&certified, &good, Some(Some(identity("certificate")))),
            (&certified, &none, Some(Some(identity("certificate")))),
            (&tls, &good, Some(Some(identity("token")))),
            (&tls, &none, None),
            (&tls, &bad, None),
            (&tls, &basic, None),
            (&local, &none, Some(None)),
            (&local, &bad, None),
            (&local, &good, Some(Some(identity("token")))),
        ] {
            let caller = access.caller(peer, metadata).await;
            assert_eq!(caller.as_ref().ok().map(|caller| caller.identity.clone()), expected, "{caller:?}");
        }
        let strict = Access { tokens: None, trust_plaintext: false };
        assert!(strict.caller(&local, &none).await.is_err());
        assert!(strict.caller(&tls, &good).await.is_err(), "no tokens are taken");
    }
}

//! What a caller has proved, and what it may have for it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use tonic::metadata::MetadataMap;

use super::{AuthError, Authenticator, MAX_TOKEN_BYTES, Proven};
use crate::proxy_info::Identity;
use crate::revoked::{Revocations, Revoked};

/// The other end of a connection; a part of each request of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The identity of its certificate, which was verified; `None` when it showed none.
    pub identity: Option<Identity>,
    /// When the certificate ends.
    pub expires: Option<SystemTime>,
    /// The certificate's serial number, in lower-case hexadecimal without leading zeros.
    pub serial: Option<Arc<str>>,
    /// Whether the connection is plaintext, which is spoken on loopback only.
    pub plaintext: bool,
    /// Where it connects from.
    pub address: Option<IpAddr>,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// What it has proved; `None` for somebody on this machine who need not prove anything.
    pub identity: Option<Identity>,
    /// When the proof ends.
    pub expires: Option<SystemTime>,
    /// The serial number of the certificate that is the proof, if one is.
    pub serial: Option<Arc<str>>,
    /// Where it says truly that it is.
    pub place: Place,
}

/// Which addresses are taken for a caller's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// None: it is not known where it connects from.
    #[default]
    Unknown,
    /// The one that it connects from. From a loopback address, all of those.
    At(IpAddr),
    /// Whatever it says.
    Anywhere,
}

impl Place {
    /// Whether this is an address of the caller.
    #[must_use]
    pub fn has(self, address: IpAddr) -> bool {
        match self {
            Self::Unknown => false,
            Self::At(own) => {
                let (own, address) = (own.to_canonical(), address.to_canonical());
                own == address || (own.is_loopback() && address.is_loopback())
            }
            Self::Anywhere => true,
        }
    }
}

/// Who is let in.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Checks tokens; without one only certificates count.
    pub tokens: Option<Arc<dyn Authenticator>>,
    /// Believe those who come in plaintext. There is no plaintext but on loopback.
    pub trust_plaintext: bool,
    /// Believe workloads that say to be elsewhere than where they connect from.
    pub trust_addresses: bool,
    /// Who is let in no more.
    pub revocations: Revocations,
}

impl Caller {
    /// Why it is cut off; `None` if it is not.
    #[must_use]
    pub fn cut_by(&self, revoked: &Revoked) -> Option<String> {
        let by_identity = self.identity.as_ref().and_then(|identity| revoked.identity(identity));
        by_identity.or_else(|| revoked.serial(self.serial.as_deref()?))
    }
}

impl Access {
    /// Finds out who calls: by certificate, else by the bearer token in the metadata.
    ///
    /// # Errors
    /// When it has proved nothing, or what it shows does not hold, or it is cut off.
    pub async fn caller(&self, peer: &Peer, metadata: &MetadataMap) -> Result<Caller, AuthError> {
        let caller = self.proved(peer, metadata).await?;
        self.check(&caller)?;
        Ok(caller)
    }

    /// Whether a caller of before is still one.
    ///
    /// # Errors
    /// When it is cut off.
    pub fn check(&self, caller: &Caller) -> Result<(), AuthError> {
        match caller.cut_by(&self.revocations.now()) {
            Some(reason) => {
                tracing::warn!(target: "outrider_control::audit", reason, "caller refused");
                Err(AuthError::Denied(reason))
            }
            None => Ok(()),
        }
    }

    async fn proved(&self, peer: &Peer, metadata: &MetadataMap) -> Result<Caller, AuthError> {
        let trusted = peer.plaintext && self.trust_plaintext;
        let place = match peer.address {
            _ if trusted || self.trust_addresses => Place::Anywhere,
            Some(address) => Place::At(address),
            None => Place::Unknown,
        };
        if let Some(identity) = &peer.identity {
            let serial = peer.serial.clone();
            return Ok(Caller { identity: Some(identity.clone()), expires: peer.expires, serial, place });
        }
        if let Some(token) = bearer(metadata)? {
            let tokens = self.tokens.as_ref();
            let tokens = tokens.ok_or_else(|| unauthenticated("tokens are not taken here"))?;
            let Proven { identity, expires, .. } = tokens.authenticate(token).await?;
            return Ok(Caller { identity: Some(identity), expires, serial: None, place });
        }
        if trusted {
            return Ok(Caller { identity: None, expires: None, serial: None, place });
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
    use serde_json::json;
    use tokio::sync::watch;

    use super::*;
    use crate::revoked::testing;

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
        let access = Access { tokens: Some(Arc::new(One)), trust_plaintext: true, ..Access::default() };
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
        let strict = Access::default();
        assert!(strict.caller(&local, &none).await.is_err());
        assert!(strict.caller(&tls, &good).await.is_err(), "no tokens are taken");
    }

    #[tokio::test]
    async fn who_is_cut_off_is_let_in_no_more_by_certificate_or_by_token() {
        let spec = json!({"identities": ["spiffe://a/ns/b/sa/token"], "serialNumbers": ["0A:ff"]});
        let (say, revoked) = watch::channel(Arc::default());
        let revocations = Revocations::new(revoked);
        let access = Access { tokens: Some(Arc::new(One)), revocations, ..Access::default() };
        let shown = |name: &str, serial: &str| Peer {
            identity: Some(identity(name)),
            serial: Some(serial.into()),
            ..Peer::default()
        };
        let mut token = MetadataMap::new();
        token.insert("authorization", "Bearer good".parse().unwrap());
        let none = MetadataMap::new();
        let before = access.caller(&Peer::default(), &token).await.unwrap();
        say.send_replace(testing::revoked(&spec, ""));
        assert!(access.check(&before).is_err());
        for (peer, metadata, by) in [
            (shown("certificate", "af"), &none, None),
            (shown("certificate", "aff"), &none, Some("the certificate with the serial number aff")),
            (shown("token", "af"), &none, Some("spiffe://a/ns/b/sa/token is revoked by Revocation stolen")),
            (Peer::default(), &token, Some("spiffe://a/ns/b/sa/token")),
        ] {
            let refused = access.caller(&peer, metadata).await.err();
            assert_eq!(refused.is_some(), by.is_some(), "{peer:?}");
            let AuthError::Denied(reason) = refused.unwrap_or(AuthError::Denied(String::new())) else {
                panic!("{peer:?}");
            };
            assert!(reason.starts_with(by.unwrap_or_default()), "{reason}");
        }
    }

    #[tokio::test]
    async fn a_caller_is_where_it_connects_from_unless_the_operator_says_otherwise() {
        let at = |text: &str| Peer {
            identity: Some(identity("x")),
            address: text.parse().ok(),
            ..Peer::default()
        };
        let local = Peer { plaintext: true, ..at("127.0.0.1") };
        let says = [(false, false), (false, true), (true, false)];
        for (peer, address, expected) in [
            (&at("10.0.0.1"), "10.0.0.1", [true, true, true]),
            (&at("::ffff:10.0.0.1"), "10.0.0.1", [true, true, true]),
            (&at("10.0.0.1"), "10.0.0.2", [false, true, false]),
            (&at("10.0.0.1"), "127.0.0.1", [false, true, false]),
            (&at("127.0.0.1"), "127.0.0.9", [true, true, true]),
            (&at("127.0.0.1"), "::1", [true, true, true]),
            (&at("127.0.0.1"), "10.0.0.1", [false, true, false]),
            (&at("nowhere"), "10.0.0.1", [false, true, false]),
            // Everybody is believed who comes in plaintext, where that is so.
            (&local, "10.0.0.1", [false, true, true]),
        ] {
            for ((trust_plaintext, trust_addresses), expected) in says.into_iter().zip(expected) {
                let access = Access { trust_plaintext, trust_addresses, ..Access::default() };
                let caller = access.caller(peer, &MetadataMap::new()).await.unwrap();
                assert_eq!(caller.place.has(address.parse().unwrap()), expected, "{peer:?} says {address}");
            }
        }
    }
}

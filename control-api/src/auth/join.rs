//! Join tokens: how a workload outside Kubernetes proves who it is. A JWT (RFC 7519) that is signed with the control
//! server's own join key, ES256 and nothing else; `sub` is the identity.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};

use super::{AuthError, Authenticator, MAX_TOKEN_BYTES, Proven, parse};
use crate::ca::state::{StateDir, StateError};
use crate::proxy_info::Identity;

/// Whom tokens are for (RFC 7519, `aud`).
pub const AUDIENCE: &str = "outrider-ca";
/// Who signs them (`iss`).
const ISSUER: &str = "outrider-control";
/// The longest life of a token.
pub const MAX_LIFE: Duration = Duration::from_secs(366 * 24 * 3600);
/// How far clocks may differ.
const LEEWAY_S: u64 = 60;
/// The file of the key in the state directory.
const FILE: &str = "join.key";

/// Signs and checks join tokens.
#[derive(Debug)]
pub struct JoinKey {
    key: EcdsaKeyPair,
    trust_domain: Arc<str>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Header {
    alg: String,
    #[serde(default)]
    typ: Option<String>,
    /// Extensions that must be understood (RFC 7515, section 4.1.11); we understand none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crit: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: String,
    iat: u64,
    exp: u64,
    jti: String,
}

impl JoinKey {
    /// Reads the key, and makes it on first start. The directory must be held.
    ///
    /// # Errors
    /// When it cannot be read or made.
    pub fn open(state: &StateDir, trust_domain: &str) -> Result<Self, StateError> {
        if state.read(FILE)?.is_none() {
            let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
                .map_err(|error| StateError::new(&state.file(FILE), error))?;
            state.write(FILE, key.serialize_pem().as_bytes(), 0o600)?;
        }
        Self::existing(state, trust_domain)
    }

    /// Reads the key that the control server has made.
    ///
    /// # Errors
    /// When it is not there, or cannot be read.
    pub fn existing(state: &StateDir, trust_domain: &str) -> Result<Self, StateError> {
        let failed = |reason: &str| StateError::new(&state.file(FILE), reason);
        let Some(pem) = state.read(FILE)? else {
            return Err(failed("not there; start the control server first, which makes it"));
        };
        let wrong = || failed("not an ECDSA P-256 key in PKCS#8");
        let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| wrong())?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der());
        Ok(Self { key: key.map_err(|_| wrong())?, trust_domain: trust_domain.into() })
    }

    /// A token for a workload of this trust domain.
    ///
    /// # Errors
    /// When the identity is of another trust domain, the life too long, or nothing can be signed.
    pub fn token(&self, identity: &Identity, life: Duration, now: SystemTime) -> Result<String, AuthError> {
        if identity.trust_domain != self.trust_domain {
            return Err(AuthError::Denied(format!("{identity}: not of \"{}\"", self.trust_domain)));
        }
        if life > MAX_LIFE {
            return Err(AuthError::Denied(format!("a token lives {} s at most", MAX_LIFE.as_secs())));
        }
        let unavailable = |what: &str| AuthError::Unavailable(format!("no token can be made: {what}"));
        let serial = crate::ca::serial().map_err(|error| unavailable(&error.to_string()))?;
        let iat = seconds(now);
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: identity.to_string(),
            aud: AUDIENCE.to_owned(),
            iat,
            exp: iat.saturating_add(life.as_secs()),
            jti: URL_SAFE_NO_PAD.encode(serial.to_bytes()),
        };
        let header = Header { alg: "ES256".to_owned(), typ: Some("JWT".to_owned()), crit: None };
        let part = |text: Result<String, serde_json::Error>| {
            text.map(|text| URL_SAFE_NO_PAD.encode(text)).map_err(|_| unavailable("JSON"))
        };
        let signed =
            format!("{}.{}", part(serde_json::to_string(&header))?, part(serde_json::to_string(&claims))?);
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.map_err(|_| unavailable("signature"))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Whose token this is.
    fn check(&self, token: &str, now: SystemTime) -> Result<Proven, AuthError> {
        let claims = self.verified(token).ok_or_else(|| {
            AuthError::Unauthenticated("the token is not one that this control server has signed".to_owned())
        })?;
        let now_s = seconds(now);
        if claims.iss != ISSUER || claims.aud != AUDIENCE {
            return Err(AuthError::Unauthenticated(format!("the token's audience is not \"{AUDIENCE}\"")));
        }
        if claims.exp <= now_s {
            return Err(AuthError::Unauthenticated("the token has expired".to_owned()));
        }
        if claims.iat > now_s.saturating_add(LEEWAY_S) {
            return Err(AuthError::Unauthenticated("the token is not valid yet".to_owned()));
        }
        let identity = parse(&claims.sub).filter(|identity| identity.trust_domain == self.trust_domain);
        let identity = identity.ok_or_else(|| {
            AuthError::Denied(format!("the token is for \"{}\", not for a workload of this mesh", claims.sub))
        })?;
        let expires = UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp));
        Ok(Proven { identity, holder: claims.sub.into(), expires })
    }

    /// The claims, if header and signature are right.
    fn verified(&self, token: &str) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.').filter(|_| token.len() <= MAX_TOKEN_BYTES)?;
        let (header, claims) = signed.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .ok()?;
        let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        let plain = header.alg == "ES256" && header.crit.is_none();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok().filter(|_| plain)
    }
}

#[tonic::async_trait]
impl Authenticator for JoinKey {
    async fn authenticate(&self, token: &str) -> Result<Proven, AuthError> {
        self.check(token, SystemTime::now())
    }
}

/// Whether a token says that it is one of ours. Nothing is proved by that: it tells who can check it.
pub(super) fn is_ours(token: &str) -> bool {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    let claims = token.split('.').nth(1).filter(|_| token.len() <= MAX_TOKEN_BYTES);
    let claims = claims.and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok());
    let issuer = claims.and_then(|claims| serde_json::from_slice::<Issuer>(&claims).ok());
    issuer.is_some_and(|issuer| issuer.iss == ISSUER)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::testing::Scratch;

    const HOUR: Duration = Duration::from_secs(3600);

    fn start() -> SystemTime {
        UNIX_EPOCH + 500_000 * HOUR
    }

    fn key(scratch: &Scratch, name: &str) -> JoinKey {
        JoinKey::open(&StateDir::open(&scratch.path().join(name)).unwrap(), "a").unwrap()
    }

    #[test]
    fn a_token_proves_an_identity_for_a_while() {
        let scratch = Scratch::new("join");
        let cart = parse("spiffe://a/ns/shop/sa/cart").unwrap();
        let token = key(&scratch, "one").token(&cart, HOUR, start()).unwrap();
        let again = key(&scratch, "one");
        let proven = again.check(&token, start() + HOUR / 2).unwrap();
        assert_eq!((&proven.identity, proven.expires), (&cart, Some(start() + HOUR)));
        let refused = |now| again.check(&token, now).unwrap_err().to_string();
        assert!(refused(start() + HOUR).contains("expired"));
        assert!(refused(start() - HOUR).contains("not valid yet"));
        assert!(key(&scratch, "other").check(&token, start()).is_err(), "somebody else's key");
        let foreign = parse("spiffe://b/ns/shop/sa/cart").unwrap();
        assert!(again.token(&foreign, HOUR, start()).is_err());
        assert!(again.token(&cart, MAX_LIFE + HOUR, start()).is_err());
    }

    #[test]
    fn who_only_reads_the_key_makes_none() {
        let scratch = Scratch::new("join");
        let state = StateDir::open(&scratch.path().join("one")).unwrap();
        let error = JoinKey::existing(&state, "a").unwrap_err().to_string();
        assert!(
            error.ends_with("join.key: not there; start the control server first, which makes it"),
            "{error}"
        );
        assert_eq!(state.names().unwrap(), Vec::<String>::new());
        let cart = parse("spiffe://a/ns/shop/sa/cart").unwrap();
        let key = JoinKey::open(&state, "a").unwrap();
        let token = JoinKey::existing(&state, "a").unwrap().token(&cart, HOUR, start()).unwrap();
        assert!(key.check(&token, start()).is_ok());
    }

    #[test]
    fn what_is_not_signed_by_the_key_in_the_one_way_is_refused() {
        let scratch = Scratch::new("join");
        let key = key(&scratch, "one");
        let cart = parse("spiffe://a/ns/shop/sa/cart").unwrap();
        let token = key.token(&cart, HOUR, start()).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let sign = |header: &str, claims: &str| {
            let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
            let signature = key.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
        };
        let exp = seconds(start() + HOUR);
        let claims = |sub: &str, aud: &str| {
            format!(r#"{{"iss":"{ISSUER}","sub":"{sub}","aud":"{aud}","iat":0,"exp":{exp},"jti":"x"}}"#)
        };
        let (es256, good) = (r#"{"alg":"ES256"}"#, claims("spiffe://a/ns/shop/sa/cart", AUDIENCE));
        assert!(key.check(&sign(es256, &good), start()).is_ok());
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let mut other = parts[1].to_owned();
        other.replace_range(10..11, if other.as_bytes()[10] == b'A' { "B" } else { "A" });
        for bad in [
            String::new(),
            "..".to_owned(),
            parts[..2].join("."),
            format!("{}.", parts[..2].join(".")),
            format!("{none}.{}.", parts[1]),
            format!("{none}.{}.{}", parts[1], parts[2]),
            format!("{}.{other}.{}", parts[0], parts[2]),
            format!("{token}="),
            format!("{token}.x"),
            sign(r#"{"alg":"HS256"}"#, &good),
            sign(r#"{"alg":"ES256","crit":["b64"]}"#, &good),
            sign(es256, &claims("spiffe://b/ns/shop/sa/cart", AUDIENCE)),
            sign(es256, &claims("spiffe://a/cart", AUDIENCE)),
            sign(es256, &claims("spiffe://a/ns/shop/sa/cart", "somebody")),
            sign(es256, r#"{"sub":"spiffe://a/ns/shop/sa/cart"}"#),
            "x".repeat(MAX_TOKEN_BYTES + 1),
        ] {
            assert!(key.check(&bad, start()).is_err(), "{bad}");
        }
    }
}

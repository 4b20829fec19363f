//! Service account tokens of Kubernetes: the API server says whose they are (`authentication.k8s.io/v1` `TokenReview`).
//!
//! Only a token that was made for us is taken: a workload's usual token, which it shows to others too, proves nothing
//! here.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::api::PostParams;
use kube::{Api, Client};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::join::AUDIENCE;
use super::{AuthError, Authenticator, MAX_TOKEN_BYTES, Proven, check_segment};
use crate::kubernetes::KubeError;
use crate::proxy_info::Identity;

/// For an answer, the wait for a place included. Proxies wait for 10 s.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(8);
/// Questions to the API server at a time.
const MAX_REVIEWS: usize = 32;
/// What the name of a service account begins with.
const PREFIX: &str = "system:serviceaccount:";
/// Where the API server says which pod a token is bound to.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

/// Asks the API server.
pub struct Reviews {
    client: Client,
    trust_domain: Arc<str>,
    places: Semaphore,
}

/// The part of a token that says when it ends.
#[derive(Debug, Deserialize)]
struct Ends {
    exp: u64,
}

impl Reviews {
    /// Service accounts of this cluster have identities of this trust domain.
    #[must_use]
    pub fn new(client: Client, trust_domain: &str) -> Self {
        Self { client, trust_domain: trust_domain.into(), places: Semaphore::new(MAX_REVIEWS) }
    }

    async fn ask(&self, token: &str) -> Result<TokenReview, AuthError> {
        let unavailable = |what: &str| AuthError::Unavailable(format!("the token cannot be checked: {what}"));
        let spec =
            TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![AUDIENCE.to_owned()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let asked = async {
            let _place = self.places.acquire().await;
            let api: Api<TokenReview> = Api::all(self.client.clone());
            api.create(&PostParams::default(), &review).await
        };
        let answer = timeout(REVIEW_TIMEOUT, asked).await;
        let answer = answer.map_err(|_| unavailable("the Kubernetes API does not answer"))?;
        answer.map_err(|error| unavailable(&KubeError::from(error).to_string()))
    }

    /// Who holds the token, by the API server's answer.
    fn proven(&self, review: TokenReview, token: &str) -> Result<Proven, AuthError> {
        let status = review.status.unwrap_or_default();
        if status.authenticated != Some(true) || status.error.is_some_and(|error| !error.is_empty()) {
            let reason = "the Kubernetes API does not take the token; it must be a service account's, for the \
                          audience \"outrider-ca\", and not have ended";
            return Err(AuthError::Unauthenticated(reason.to_owned()));
        }
        // An API server that knows nothing of audiences takes any token.
        if !status.audiences.unwrap_or_default().iter().any(|audience| audience == AUDIENCE) {
            let reason = format!("the token's audience is not \"{AUDIENCE}\"");
            return Err(AuthError::Unauthenticated(reason));
        }
        let user = status.user.unwrap_or_default();
        let account = user.username.as_deref().and_then(service_account);
        let Some((namespace, service_account)) = account else {
            return Err(AuthError::Denied("the token is not a service account's".to_owned()));
        };
        let identity = Identity {
            trust_domain: Arc::clone(&self.trust_domain),
            namespace: namespace.into(),
            service_account: service_account.into(),
        };
        Ok(Proven { identity, holder: holder(&user).into(), expires: expires(token) })
    }
}

#[tonic::async_trait]
impl Authenticator for Reviews {
    async fn authenticate(&self, token: &str) -> Result<Proven, AuthError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Unauthenticated(format!("a token has {MAX_TOKEN_BYTES} bytes at most")));
        }
        let review = self.ask(token).await?;
        self.proven(review, token)
    }
}

impl fmt::Debug for Reviews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviews").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

/// Namespace and name of a service account.
fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(PREFIX)?.split_once(':')?;
    (check_segment(namespace) && check_segment(name)).then_some((namespace, name))
}

/// For logs and limits: the user, and the pod if the token is bound to one.
fn holder(user: &UserInfo) -> String {
    let name = user.username.as_deref().unwrap_or_default();
    let pod = user.extra.as_ref().and_then(|extra| extra.get(POD_NAME)).and_then(|pods| pods.first());
    pod.map_or_else(|| name.to_owned(), |pod| format!("{name}/{pod}"))
}

/// When a token ends that the API server has found to be good; those that are kept in secrets never do.
fn expires(token: &str) -> Option<SystemTime> {
    let claims = token.split('.').nth(1)?;
    let claims: Ends = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kubernetes::stand_in::StandIn;

    fn status(user: &str, audiences: &[&str]) -> Value {
        json!({
            "authenticated": true,
            "audiences": audiences,
            "user": {"username": user, "extra": {POD_NAME: ["cart-1"]}},
        })
    }

    #[tokio::test]
    async fn the_identity_is_the_one_that_the_api_server_names_and_only_for_our_audience() {
        let server = StandIn::start().await;
        let cart = "system:serviceaccount:shop:cart";
        let claims = URL_SAFE_NO_PAD.encode(r#"{"exp":4000000000,"sub":"system:serviceaccount:shop:admin"}"#);
        let good = format!("e30.{claims}.c2ln");
        let mut failed = status(cart, &[AUDIENCE]);
        failed["error"] = "it is not certain".into();
        let answers = [
            (good.as_str(), status(cart, &[AUDIENCE])),
            ("other-audience", status(cart, &["https://kubernetes.default.svc"])),
            ("no-audience", json!({"authenticated": true, "user": {"username": cart}})),
            ("person", status("kubernetes-admin", &[AUDIENCE])),
            ("node", status("system:node:a", &[AUDIENCE])),
            ("odd", status("system:serviceaccount:shop:a/b", &[AUDIENCE])),
            ("short", status("system:serviceaccount:shop", &[AUDIENCE])),
            ("error", failed),
        ];
        server.store(|store| {
            store.tokens.extend(answers.map(|(token, status)| (token.to_owned(), status)));
        });
        let reviews = Reviews::new(server.client(), "example.org");
        let proven = reviews.authenticate(&good).await.unwrap();
        assert_eq!(proven.identity.to_string(), "spiffe://example.org/ns/shop/sa/cart");
        assert_eq!(&*proven.holder, "system:serviceaccount:shop:cart/cart-1");
        assert_eq!(proven.expires, UNIX_EPOCH.checked_add(Duration::from_secs(4_000_000_000)));
        let refused = async |token: &str| reviews.authenticate(token).await.unwrap_err();
        for token in ["", "unknown", "other-audience", "no-audience", "error"] {
            let error = refused(token).await;
            assert!(matches!(error, AuthError::Unauthenticated(_)), "{token}: {error:?}");
        }
        for token in ["person", "node", "odd", "short"] {
            let error = refused(token).await;
            assert!(matches!(error, AuthError::Denied(_)), "{token}: {error:?}");
        }
        let asked = server.requests(&["tokenreviews"]);
        let long = "x".repeat(MAX_TOKEN_BYTES + 1);
        assert!(matches!(refused(&long).await, AuthError::Unauthenticated(_)));
        assert_eq!(server.requests(&["tokenreviews"]), asked, "not even asked");
        // Without an answer nobody is believed.
        server.stop().await;
        let error = refused("secret-token").await;
        assert!(
            matches!(&error, AuthError::Unavailable(reason) if !reason.contains("secret-token")),
            "{error:?}"
        );
    }
}

//! All tokens that are taken: our own join tokens, and in a cluster those of service accounts.

use std::sync::Arc;

use super::join::{self, JoinKey};
use super::token_review::Reviews;
use super::{AuthError, Authenticator, Proven};

/// Gives each token to the one who can check it. Which one that is the token says itself; a token that lies about that is
/// refused by whom it names.
#[derive(Debug)]
pub struct Tokens {
    /// For our own.
    pub join: Arc<JoinKey>,
    /// For those of a cluster, if there is one.
    pub reviews: Option<Reviews>,
}

#[tonic::async_trait]
impl Authenticator for Tokens {
    async fn authenticate(&self, token: &str) -> Result<Proven, AuthError> {
        match &self.reviews {
            Some(reviews) if !join::is_ours(token) => reviews.authenticate(token).await,
            Some(_) | None => self.join.authenticate(token).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use serde_json::json;

    use super::*;
    use crate::auth::parse;
    use crate::ca::state::StateDir;
    use crate::ca::testing::Scratch;
    use crate::kubernetes::stand_in::StandIn;

    #[tokio::test]
    async fn each_token_goes_to_the_one_who_can_check_it() {
        let (scratch, server) = (Scratch::new("tokens"), StandIn::start().await);
        let open =
            |name: &str| JoinKey::open(&StateDir::open(&scratch.path().join(name)).unwrap(), "a").unwrap();
        let life = Duration::from_secs(60);
        let cart = parse("spiffe://a/ns/shop/sa/cart").unwrap();
        let joined = open("one").token(&cart, life, SystemTime::now()).unwrap();
        let forged = open("other").token(&cart, life, SystemTime::now()).unwrap();
        let user = json!({"username": "system:serviceaccount:shop:web"});
        let review = json!({"authenticated": true, "audiences": [join::AUDIENCE], "user": user});
        server.store(|store| {
            store.tokens.insert("account".to_owned(), review.clone());
            store.tokens.insert(forged.clone(), review);
        });
        let reviews = Some(Reviews::new(server.client(), "a"));
        let tokens = Tokens { join: Arc::new(open("one")), reviews };
        assert_eq!(tokens.authenticate(&joined).await.unwrap().identity, cart);
        let web = tokens.authenticate("account").await.unwrap();
        assert_eq!(web.identity.to_string(), "spiffe://a/ns/shop/sa/web");
        assert_eq!(server.requests(&["tokenreviews"]), 1);
        assert!(tokens.authenticate(&forged).await.is_err(), "it says that it is ours, and it is not");
        let outside = Tokens { join: Arc::new(open("one")), reviews: None };
        assert!(outside.authenticate("account").await.is_err());
    }
}

use rcgen::{CertificateParams, KeyPair, SanType};
use serde_json::json;
use tokio::sync::watch;
use tonic::Code;

use super::*;
use crate::auth::join::JoinKey;
use crate::auth::parse;
use crate::ca::state::StateDir;
use crate::ca::testing::Scratch;
use crate::ca::{Lives, Origin};
use crate::revoked::{Revoked, testing};

struct Lab {
    service: Identities,
    join: Arc<JoinKey>,
    revoked: watch::Sender<Arc<Revoked>>,
    _scratch: Scratch,
}

impl Lab {
    fn new() -> Self {
        let scratch = Scratch::new("identities");
        let state = StateDir::open(&scratch.path().join("state")).unwrap();
        let join = Arc::new(JoinKey::open(&state, "a").unwrap());
        let authority =
            Authority::open("a", Origin::Own(state), Lives::default(), SystemTime::now()).unwrap();
        let revoked = watch::channel(Arc::default()).0;
        let service = Identities {
            authority: Arc::new(authority),
            tokens: Arc::clone(&join) as _,
            revocations: Revocations::new(revoked.subscribe()),
            limit: Mutex::default(),
        };
        Self { service, join, revoked, _scratch: scratch }
    }

    fn request(&self, wish: Option<&str>) -> pb::IssueSvidRequest {
        let mut params = CertificateParams::default();
        params.subject_alt_names = wish.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        let csr = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
        let cart = parse("spiffe://a/ns/shop/sa/cart").unwrap();
        let token = self.join.token(&cart, Duration::from_secs(60), SystemTime::now()).unwrap();
        pb::IssueSvidRequest { csr_der: csr.der().to_vec(), token, requested_ttl: None }
    }
}

#[tokio::test]
async fn the_identity_is_the_one_that_is_proved() {
    let lab = Lab::new();
    for wish in [None, Some("spiffe://a/ns/shop/sa/cart")] {
        let issued = lab.service.issue(&lab.request(wish)).await.unwrap();
        let peer = crate::serve::peer::of(&issued.chain_der[0], "a").unwrap();
        assert_eq!(peer.identity.unwrap().to_string(), "spiffe://a/ns/shop/sa/cart");
        assert_eq!((issued.bundles.len(), issued.bundles[0].roots_der.len()), (1, 1));
    }
    let error = lab.service.issue(&lab.request(Some("spiffe://a/ns/shop/sa/other"))).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn who_is_cut_off_gets_no_certificate_and_hears_why() {
    let lab = Lab::new();
    let cut_off = |identity: &str| {
        let revoked = testing::revoked(&json!({"identities": [identity]}), "");
        lab.revoked.send_replace(revoked);
    };
    cut_off("spiffe://a/ns/shop/sa/cart");
    let error = lab.service.issue(&lab.request(None)).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    assert_eq!(error.message(), "spiffe://a/ns/shop/sa/cart is revoked by Revocation stolen");
    cut_off("spiffe://a/ns/shop/sa/other");
    lab.service.issue(&lab.request(None)).await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let lab = Lab::new();
    let good = || lab.request(None);
    let long = prost_types::Duration { seconds: 0, nanos: 1 };
    for (request, code, word) in [
        (pb::IssueSvidRequest { token: String::new(), ..good() }, Code::Unauthenticated, "token"),
        (pb::IssueSvidRequest { token: "a.b.c".into(), ..good() }, Code::Unauthenticated, "signed"),
        (pb::IssueSvidRequest { csr_der: vec![1, 2], ..good() }, Code::InvalidArgument, "csr_der"),
        (
            pb::IssueSvidRequest { requested_ttl: Some(long), ..good() },
            Code::InvalidArgument,
            "requested_ttl",
        ),
    ] {
        let error = lab.service.issue(&request).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().contains(word), "{error}");
        assert!(!error.message().contains("a.b.c"), "tokens are not shown");
    }
}

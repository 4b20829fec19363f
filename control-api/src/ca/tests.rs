use rustls::RootCertStore;
use rustls::pki_types::UnixTime;
use rustls::server::WebPkiClientVerifier;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::testing::Scratch;
use super::*;

const NOW: SystemTime = UNIX_EPOCH;

fn start() -> SystemTime {
    // 2026-11-01
    NOW + 20_758 * DAY
}

fn own(scratch: &Scratch) -> Origin {
    Origin::Own(StateDir::open(&scratch.path().join("ca")).unwrap())
}

fn cart() -> Identity {
    crate::auth::parse("spiffe://a/ns/shop/sa/cart").unwrap()
}

/// Whether somebody who trusts these roots accepts the chain.
fn accepted(issued: &Issued, roots: &[CertificateDer<'static>], now: SystemTime) -> bool {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).build().unwrap();
    let (leaf, between) = issued.chain.split_first().unwrap();
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap());
    verifier.verify_client_cert(leaf, between, now).is_ok()
}

fn issue(authority: &Authority, now: SystemTime) -> Issued {
    let key = KeyPair::generate().unwrap();
    authority.svid(&key, &cart(), None, now).unwrap()
}

#[test]
fn an_svid_says_who_and_nothing_more() {
    let scratch = Scratch::new("ca");
    let authority = Authority::open("a", own(&scratch), Lives::default(), start()).unwrap();
    let issued = issue(&authority, start());
    assert_eq!(issued.not_after, start() + DAY);
    let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 1);
    assert_eq!(names.value.general_names[0].to_string(), "URI(spiffe://a/ns/shop/sa/cart)");
    assert!(!leaf.is_ca() && leaf.subject().iter().next().is_none());
    assert!(!leaf.key_usage().unwrap().unwrap().value.key_cert_sign());
    assert_eq!(leaf.raw_serial().len(), SERIAL_BYTES);
    let next = issue(&authority, start());
    assert_ne!(X509Certificate::from_der(&next.chain[0]).unwrap().1.raw_serial(), leaf.raw_serial());
    assert!(accepted(&issued, &authority.roots(), start()));
    assert!(!accepted(&issued, &authority.roots(), start() + DAY + LOOK));
    let key = KeyPair::generate().unwrap();
    let hour = Duration::from_secs(3600);
    for (asked, given) in [(hour, hour), (9 * DAY, DAY)] {
        let issued = authority.svid(&key, &cart(), Some(asked), start()).unwrap();
        assert_eq!(issued.not_after, start() + given);
    }
}

#[test]
fn after_a_start_anew_it_is_the_same_authority() {
    let scratch = Scratch::new("ca");
    let first = Authority::open("a", own(&scratch), Lives::default(), start()).unwrap();
    let issued = issue(&first, start());
    let second = Authority::open("a", own(&scratch), Lives::default(), start() + DAY / 2).unwrap();
    assert_eq!(first.roots(), second.roots());
    assert!(accepted(&issued, &second.roots(), start() + DAY / 2));
    assert!(Authority::open("b", own(&scratch), Lives::default(), start()).is_err());
}

#[test]
fn whoever_renews_in_time_is_accepted_by_everybody_at_any_time() {
    let scratch = Scratch::new("ca");
    let lives = Lives { svid: DAY, issuer: 7 * DAY, root: 100 * DAY };
    let authority = Authority::open("a", own(&scratch), lives, start()).unwrap();
    let mut before: Vec<Issued> = Vec::new();
    let mut changes = std::collections::BTreeSet::new();
    for half_day in 0..500 {
        let now = start() + half_day * DAY / 2;
        authority.refresh(now).unwrap();
        changes.insert(*authority.changes().borrow());
        let issued = issue(&authority, now);
        // Those of half a day ago and of now accept each other.
        for one in before.iter().chain([&issued]) {
            for other in before.iter().chain([&issued]) {
                assert!(accepted(one, &other.roots, now), "day {}", half_day / 2);
            }
        }
        before = vec![issued];
    }
    assert!(changes.len() > 60, "issuers were made anew: {changes:?}");
    assert!(before[0].chain[1] != before[0].roots[0] && before[0].roots.len() <= 2);
}

#[test]
fn an_authority_may_be_given() {
    let scratch = Scratch::new("ca");
    let outer = Authority::open("a", own(&scratch), Lives::default(), start()).unwrap();
    let current = outer.current();
    // An intermediate of somebody else, in files.
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "given");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let given = |ends: SystemTime| {
        let mut params = params.clone();
        params.not_before = start().into();
        params.not_after = ends.into();
        params.self_signed(&key).unwrap().pem()
    };
    let files = GivenFiles {
        certificate: scratch.path().join("ca.pem"),
        key: scratch.path().join("ca.key"),
        roots: None,
    };
    std::fs::write(&files.certificate, given(start() + 30 * DAY)).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    let origin = Origin::Given(files.clone());
    let authority = Authority::open("a", origin.clone(), Lives::default(), start()).unwrap();
    let issued = issue(&authority, start());
    assert_eq!(issued.chain.len(), 1, "the root is not part of the chain");
    assert!(accepted(&issued, &authority.roots(), start()));
    assert!(!accepted(&issued, &[current.roots[0].clone()], start()));
    // No certificate outlives its issuer; a file that is wrong changes nothing, a good one counts.
    assert_eq!(issue(&authority, start() + 29 * DAY + DAY / 2).not_after, start() + 30 * DAY);
    let other = KeyPair::generate().unwrap().serialize_pem();
    std::fs::write(&files.key, &other).unwrap();
    let error = authority.refresh(start()).unwrap_err().to_string();
    assert!(error.contains("not that of the first certificate"), "{error}");
    assert!(accepted(&issue(&authority, start()), &authority.roots(), start()));
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    std::fs::write(&files.certificate, given(start() + 60 * DAY)).unwrap();
    authority.refresh(start()).unwrap();
    assert_eq!(*authority.changes().borrow(), 1);
    std::fs::write(&files.certificate, issued.chain.iter().map(|_| leaf_pem(&key)).collect::<String>())
        .unwrap();
    let error = Authority::open("a", origin, Lives::default(), start()).unwrap_err().to_string();
    assert!(error.contains("may not sign"), "{error}");
}

fn leaf_pem(key: &KeyPair) -> String {
    leaf().self_signed(key).unwrap().pem()
}

//! Sources on simulated time, and what is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::sync::watch;
use tokio::time::{Instant, advance};

use super::check::{Invalid, MAX_CHAIN, Material};
use super::error::FetchError;
use super::keeper::{Clock, Keeper};
use super::testing::{Authority, ID};
use super::{Published, Svid};
use crate::identity::Refusal;
use crate::identity::config::CredentialError;

const HOUR: Duration = Duration::from_secs(3600);

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

#[test]
fn a_good_svid_is_taken() {
    let svid = Authority::new("root").good(start(), HOUR).check(start()).unwrap();
    assert_eq!(svid.spiffe_id.as_str(), ID);
    assert_eq!((svid.not_before, svid.not_after), (start(), start() + HOUR));
}

#[test]
fn what_peers_would_refuse_is_refused_with_its_reason() {
    let (own, foreign) = (Authority::new("own"), Authority::new("foreign"));
    let good = || Authority::params(start(), start() + HOUR);
    let check = |material: Material| material.check(start()).unwrap_err();
    let with = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        let mut params = good();
        change(&mut params);
        check(own.issue(&params))
    };
    assert_eq!(own.good(start(), HOUR).check(start() + HOUR).unwrap_err(), Refusal::Expired.into());
    assert_eq!(
        own.good(start(), HOUR).check(start() - Duration::from_secs(1)).unwrap_err(),
        Refusal::NotYetValid.into()
    );
    assert_eq!(with(&|params| params.subject_alt_names.clear()), Refusal::NoSpiffeId.into());
    assert_eq!(
        with(&|params| params.subject_alt_names.push(SanType::URI("spiffe://a.test/b".try_into().unwrap()))),
        Refusal::SeveralUris.into()
    );
    let uri =
        |uri: &str| with(&|params| params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())]);
    assert!(matches!(uri("https://a.test/b"), Invalid::Refused(Refusal::BadSpiffeId(_))));
    assert_eq!(uri("spiffe://b.test/b"), Refusal::ForeignTrustDomain.into());
    let ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert_eq!(with(&|params| params.is_ca = ca), Refusal::CaAsLeaf.into());
    assert_eq!(
        with(&|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        Refusal::WrongUsage.into()
    );
    let only_server = vec![ExtendedKeyUsagePurpose::ServerAuth];
    assert!(matches!(
        with(&|params| params.extended_key_usages = only_server.clone()),
        Invalid::Refused(Refusal::WrongUsage)
    ));

    let mut material = foreign.issue(&good());
    material.bundles = own.issue(&good()).bundles;
    assert!(matches!(check(material), Invalid::Refused(Refusal::UnknownIssuer)), "a foreign authority");
    let mut material = own.issue(&good());
    material.key = PrivatePkcs8KeyDer::from(rcgen::KeyPair::generate().unwrap().serialize_der()).into();
    assert_eq!(check(material), CredentialError::Mismatch.into());
    let mut material = own.issue(&good());
    material.chain = vec![material.chain[0].clone(); MAX_CHAIN + 1];
    assert_eq!(check(material), Invalid::ChainLength(MAX_CHAIN + 1));
    let mut material = own.issue(&good());
    material.chain.clear();
    assert_eq!(check(material), Invalid::ChainLength(0));
    let mut material = own.issue(&good());
    material.bundles.insert("b.test".into(), Vec::new());
    assert_eq!(check(material), Invalid::Roots("b.test".into(), 0));
    let mut material = own.issue(&good());
    material.chain = vec![vec![0x30, 0x03, 1, 2, 3].into()];
    assert!(matches!(check(material), Invalid::Refused(Refusal::BadCertificate)));
}

/// A source on simulated time, whose server can be away.
struct Lab {
    published: Published,
    away: Arc<AtomicBool>,
    fetched: Arc<AtomicUsize>,
    begin: Instant,
}

impl Lab {
    fn start(life: Duration) -> Self {
        let begin = Instant::now();
        let clock = Clock::new(move || start() + begin.elapsed());
        let (sender, published) = watch::channel(None);
        let (away, fetched) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let authority = Authority::new("root");
        let (gone, count) = (Arc::clone(&away), Arc::clone(&fetched));
        tokio::spawn(async move {
            let keeper = Keeper::new(sender, clock.clone());
            let fetch = || {
                count.fetch_add(1, Ordering::Relaxed);
                let now = clock.now();
                let answer = if gone.load(Ordering::Relaxed) {
                    Err(FetchError::Unreachable { peer: "control".into(), reason: "away".into() })
                } else {
                    authority.good(now, life).check(now).map_err(FetchError::from)
                };
                std::future::ready(answer)
            };
            tokio::join!(keeper.keep_fresh(fetch), keeper.watch_life());
        });
        Self { published, away, fetched, begin }
    }

    /// Lets time pass in small steps, so that every task gets its turn.
    async fn pass(&self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            advance(Duration::from_secs(1)).await;
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn current(&self) -> Option<Arc<Svid>> {
        self.published.borrow().clone()
    }

    fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }
}

#[test]
fn the_same_identity_is_not_published_again() {
    let (sender, mut published) = watch::channel(None);
    let keeper = Keeper::new(sender, Clock::new(start));
    let authority = Authority::new("root");
    let material = authority.good(start(), HOUR);
    let (chain, key) = (material.chain.clone(), material.key.clone_key());
    let again = Material { chain, key, bundles: material.bundles.clone() };
    assert!(keeper.publish(material.check(start()).unwrap()));
    assert!(published.has_changed().unwrap());
    published.mark_unchanged();
    assert!(!keeper.publish(again.check(start()).unwrap()));
    assert!(!published.has_changed().unwrap());
    assert!(keeper.publish(authority.good(start(), HOUR).check(start()).unwrap()));
    assert!(published.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_identity_is_renewed_at_about_half_of_its_life_with_a_new_key() {
    let lab = Lab::start(HOUR);
    lab.pass(Duration::from_secs(1)).await;
    let first = lab.current().expect("an identity at once");
    lab.pass(Duration::from_secs(26 * 60)).await;
    assert_eq!(lab.fetched.load(Ordering::Relaxed), 1);
    lab.pass(Duration::from_secs(8 * 60)).await;
    assert_eq!(lab.fetched.load(Ordering::Relaxed), 2);
    let second = lab.current().unwrap();
    assert_ne!(first.key.secret_der(), second.key.secret_der());
    assert!(second.not_after > first.not_after);
}

#[tokio::test(start_paused = true)]
async fn while_the_server_is_away_the_identity_lasts_to_its_end_and_no_longer() {
    let lab = Lab::start(HOUR);
    lab.pass(Duration::from_secs(1)).await;
    let first = lab.current().unwrap();
    lab.away.store(true, Ordering::Relaxed);
    lab.pass(HOUR - lab.elapsed() - Duration::from_secs(2)).await;
    assert!(Arc::ptr_eq(&lab.current().expect("still served"), &first));
    let attempts = lab.fetched.load(Ordering::Relaxed);
    // About 30 minutes of attempts, of which the later ones are 30 to 60 s apart.
    assert!((25..80).contains(&attempts), "{attempts} attempts");
    lab.pass(Duration::from_secs(4)).await;
    assert!(lab.current().is_none(), "an expired identity must not be served");
    lab.away.store(false, Ordering::Relaxed);
    lab.pass(Duration::from_secs(61)).await;
    assert!(lab.current().is_some(), "the server is back");
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_the_server_is_nothing_to_a_day_long_identity() {
    let lab = Lab::start(24 * HOUR);
    lab.pass(Duration::from_secs(1)).await;
    lab.away.store(true, Ordering::Relaxed);
    lab.pass(14 * HOUR).await;
    assert!(lab.current().is_some());
    lab.away.store(false, Ordering::Relaxed);
    lab.pass(Duration::from_secs(61)).await;
    let svid = lab.current().unwrap();
    assert!(svid.not_before > start() + 13 * HOUR, "renewed as soon as the server is back");
}

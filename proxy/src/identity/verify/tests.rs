//! Every way in which a peer's certificate can be wrong, shown to a real handshake in either direction.

use std::io::{Read as _, Write as _};
use std::rc::Rc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    KeyPair, KeyUsagePurpose, NameConstraints, SanType, date_time_ymd,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConnection, ServerConnection};

use super::*;
use crate::identity::config::{self, Credential, Tickets};
use crate::identity::spiffe::SpiffeError;
use crate::identity::vouched::{Side, Stage, Vouched};
use crate::identity::{PeerIdentity, Revoked, Trust};

type Issuer = CertifiedIssuer<'static, KeyPair>;

const ID: &str = "spiffe://mesh.test/ns/shop/sa/cart";

fn root(name: &str) -> Issuer {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn below(issuer: &Issuer, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Issuer {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    change(&mut params);
    CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), issuer).unwrap()
}

fn leaf_of(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// A chain with its key, whatever it says.
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Shown {
    fn by(issuer: &Issuer, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, issuer).unwrap();
        Self { chain: vec![leaf.der().clone()], key }
    }

    fn with(mut self, issuers: &[&Issuer]) -> Self {
        self.chain.extend(issuers.iter().map(|issuer| issuer.der().clone()));
        self
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    /// As rustls would show it, with none of our own checks.
    fn resolver(&self) -> Arc<rustls::sign::SingleCertAndKey> {
        let key = config::provider().key_provider.load_private_key(self.key()).unwrap();
        Arc::new(rustls::sign::CertifiedKey::new(self.chain.clone(), key).into())
    }

    fn credential(&self) -> Credential {
        Credential::from_der(self.chain.clone(), self.key()).unwrap()
    }
}

fn verifier(trust: impl Into<Arc<Trust>>) -> Verifier {
    Verifier {
        trust: trust.into(),
        expected: None,
        revocations: Revocations::default(),
        anonymous_clients: false,
        provider: Arc::clone(config::provider()),
    }
}

fn mesh(roots: &[&Issuer]) -> Trust {
    let roots = Roots::new(roots.iter().map(|root| root.der())).unwrap();
    Trust::spiffe([("mesh.test".to_owned(), roots)]).unwrap()
}

/// Lets the two talk until neither has more to say.
fn talk(client: &mut ClientConnection, server: &mut ServerConnection) -> Result<(), (bool, rustls::Error)> {
    loop {
        let mut moved = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut moved).unwrap();
        }
        let mut nothing = moved.is_empty();
        let mut left = moved.as_slice();
        while !left.is_empty() {
            server.read_tls(&mut left).unwrap();
            server.process_new_packets().map_err(|error| (true, error))?;
        }
        let mut moved = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut moved).unwrap();
        }
        nothing &= moved.is_empty();
        let mut left = moved.as_slice();
        while !left.is_empty() {
            client.read_tls(&mut left).unwrap();
            client.process_new_packets().map_err(|error| (false, error))?;
        }
        if nothing {
            return Ok(());
        }
    }
}

/// What our server says to a client that shows this, and our client to such a server.
fn both_ways(
    shown: &Shown,
    trust: &Trust,
    change: impl Fn(&mut Verifier),
) -> (Result<(), Refusal>, Result<(), Refusal>) {
    let own_root = root("own");
    let own = Shown::by(&own_root, leaf_of(ID));
    let make = || {
        let mut made = verifier(trust.clone());
        change(&mut made);
        made
    };
    // They show a client's certificate to us.
    let own = own.credential();
    let tickets = Tickets::under(None, &own.leaf, None).unwrap();
    let server = config::server(&own, Some(make()), &[], Some(&tickets)).unwrap();
    let mut client = (*config::client(None, verifier(mesh(&[&own_root])), &[], &[&rustls::version::TLS13])
        .unwrap())
    .clone();
    client.client_auth_cert_resolver = shown.resolver();
    let as_client = shake(Arc::new(client), server, true);
    // They are the server.
    let mut server = (*config::server(&own, None, &[], Some(&tickets)).unwrap()).clone();
    server.cert_resolver = shown.resolver();
    let client = config::client(None, make(), &[], &[&rustls::version::TLS13]).unwrap();
    let as_server = shake(client, Arc::new(server), false);
    (as_client, as_server)
}

fn shake(
    client: Arc<rustls::ClientConfig>,
    server: Arc<rustls::ServerConfig>,
    by_server: bool,
) -> Result<(), Refusal> {
    let mut client = ClientConnection::new(client, "cart.shop".try_into().unwrap()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    talk(&mut client, &mut server).map_err(|(refused_by_server, error)| {
        assert_eq!(refused_by_server, by_server, "{error}");
        Refusal::from_rustls(&error)
    })
}

fn refused(shown: &Shown, trust: &Trust, refusal: Refusal) {
    assert_eq!(both_ways(shown, trust, |_| {}), (Err(refusal), Err(refusal)));
}

#[test]
fn a_workload_of_the_mesh_is_let_in() {
    let root = root("mesh");
    let intermediate = below(&root, "issuing", |_| {});
    let trust = mesh(&[&root]);
    for shown in [Shown::by(&root, leaf_of(ID)), Shown::by(&intermediate, leaf_of(ID)).with(&[&intermediate])]
    {
        assert_eq!(both_ways(&shown, &trust, |_| {}), (Ok(()), Ok(())));
    }
}

#[test]
fn the_time_of_a_certificate_is_kept() {
    let root = root("mesh");
    let (mut old, mut young) = (leaf_of(ID), leaf_of(ID));
    old.not_after = date_time_ymd(2020, 1, 1);
    young.not_before = date_time_ymd(2200, 1, 1);
    young.not_after = date_time_ymd(2201, 1, 1);
    refused(&Shown::by(&root, old), &mesh(&[&root]), Refusal::Expired);
    refused(&Shown::by(&root, young), &mesh(&[&root]), Refusal::NotYetValid);
}

#[test]
fn only_the_roots_of_the_trust_domain_vouch_for_it() {
    let (ours, theirs) = (root("mesh"), root("other"));
    refused(&Shown::by(&theirs, leaf_of(ID)), &mesh(&[&ours]), Refusal::UnknownIssuer);
    refused(
        &Shown::by(&ours, leaf_of("spiffe://elsewhere.test/ns/a/sa/b")),
        &mesh(&[&ours]),
        Refusal::ForeignTrustDomain,
    );
    let federated = Trust::spiffe([
        ("mesh.test".to_owned(), Roots::new([ours.der()]).unwrap()),
        ("other.test".to_owned(), Roots::new([theirs.der()]).unwrap()),
    ])
    .unwrap();
    let guest = Shown::by(&theirs, leaf_of("spiffe://other.test/ns/a/sa/b"));
    assert_eq!(both_ways(&guest, &federated, |_| {}), (Ok(()), Ok(())));
    // Whom we trust for their domain is not thereby trusted for ours.
    refused(&Shown::by(&theirs, leaf_of(ID)), &federated, Refusal::UnknownIssuer);
}

#[test]
fn roots_may_overlap_while_they_are_rotated() {
    let (old, new) = (root("mesh"), root("mesh"));
    let both = mesh(&[&old, &new]);
    for issuer in [&old, &new] {
        assert_eq!(both_ways(&Shown::by(issuer, leaf_of(ID)), &both, |_| {}), (Ok(()), Ok(())));
    }
    refused(&Shown::by(&old, leaf_of(ID)), &mesh(&[&new]), Refusal::UnknownIssuer);
}

#[test]
fn a_leaf_is_for_proving_who_one_is() {
    let root = root("mesh");
    let trust = mesh(&[&root]);
    let mut authority = leaf_of(ID);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    refused(&Shown::by(&root, authority), &trust, Refusal::CaAsLeaf);
    for usages in [
        vec![KeyUsagePurpose::KeyEncipherment],
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign],
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign],
    ] {
        let mut params = leaf_of(ID);
        params.key_usages = usages;
        refused(&Shown::by(&root, params), &trust, Refusal::WrongUsage);
    }
    let mut mail = leaf_of(ID);
    mail.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
    refused(&Shown::by(&root, mail), &trust, Refusal::WrongUsage);
    let mut client_only = leaf_of(ID);
    client_only.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let both = both_ways(&Shown::by(&root, client_only), &trust, |_| {});
    assert_eq!(both, (Ok(()), Err(Refusal::WrongUsage)));
}

#[test]
fn there_is_exactly_one_spiffe_id() {
    let root = root("mesh");
    let trust = mesh(&[&root]);
    let mut two = leaf_of(ID);
    two.subject_alt_names.push(SanType::URI("spiffe://mesh.test/ns/shop/sa/admin".try_into().unwrap()));
    refused(&Shown::by(&root, two), &trust, Refusal::SeveralUris);
    let mut none = leaf_of(ID);
    none.subject_alt_names = vec![SanType::DnsName("cart.shop".try_into().unwrap())];
    refused(&Shown::by(&root, none), &trust, Refusal::NoSpiffeId);
    let mut name_only = CertificateParams::default();
    name_only.distinguished_name.push(rcgen::DnType::CommonName, "cart.shop");
    refused(&Shown::by(&root, name_only), &trust, Refusal::NoSpiffeId);
    let long = format!("spiffe://mesh.test/{}", "a".repeat(2048));
    for (id, error) in [
        ("https://mesh.test/a", SpiffeError::Scheme),
        ("spiffe://user@mesh.test/a", SpiffeError::TrustDomainCharacter),
        ("spiffe://mesh.test:1/a", SpiffeError::TrustDomainCharacter),
        ("spiffe://mesh.test/a?b", SpiffeError::PathCharacter),
        ("spiffe://mesh.test/a#b", SpiffeError::PathCharacter),
        ("spiffe://mesh.test/%61", SpiffeError::PathCharacter),
        ("spiffe://mesh.test/a/../b", SpiffeError::DotSegment),
        ("spiffe://mesh.test/a/", SpiffeError::TrailingSlash),
        (&long, SpiffeError::TooLong),
    ] {
        refused(&Shown::by(&root, leaf_of(id)), &trust, Refusal::BadSpiffeId(error));
    }
    refused(&Shown::by(&root, leaf_of("spiffe://mesh.test")), &trust, Refusal::NoPath);
}

#[test]
fn an_issuer_stays_within_its_constraints_and_chains_are_short() {
    let root = root("mesh");
    let trust = mesh(&[&root]);
    let narrow = below(&root, "narrow", |params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("allowed.test".to_owned())],
            excluded_subtrees: vec![],
        });
    });
    let mut params = leaf_of(ID);
    params.subject_alt_names.push(SanType::DnsName("elsewhere.test".try_into().unwrap()));
    refused(&Shown::by(&narrow, params).with(&[&narrow]), &trust, Refusal::NameConstraints);
    let only_leaves =
        below(&root, "leaves", |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let child = below(&only_leaves, "child", |_| {});
    refused(&Shown::by(&child, leaf_of(ID)).with(&[&child, &only_leaves]), &trust, Refusal::ChainTooDeep);
    let mut issuers = vec![below(&root, "0", |_| {})];
    for number in 1..MAX_CHAIN {
        issuers.push(below(&issuers[number - 1], &number.to_string(), |_| {}));
    }
    let chain: Vec<&Issuer> = issuers.iter().rev().collect();
    refused(&Shown::by(chain[0], leaf_of(ID)).with(&chain), &trust, Refusal::ChainTooDeep);
}

#[test]
fn an_authority_that_is_a_leaf_cannot_sign() {
    let root = root("mesh");
    let mut params = leaf_of("spiffe://mesh.test/ns/a/sa/thief");
    params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    params.is_ca = IsCa::ExplicitNoCa;
    let thief = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &root).unwrap();
    refused(&Shown::by(&thief, leaf_of(ID)).with(&[&thief]), &mesh(&[&root]), Refusal::UnknownIssuer);
}

#[test]
fn only_who_is_expected_gets_in_and_nobody_who_is_revoked() {
    let root = root("mesh");
    let (trust, shown) = (mesh(&[&root]), Shown::by(&root, leaf_of(ID)));
    let expect = |id: &'static str| -> Expected {
        Arc::new(move |peer| peer.spiffe.as_ref().is_some_and(|spiffe| spiffe.as_str() == id))
    };
    assert_eq!(both_ways(&shown, &trust, |made| made.expected = Some(expect(ID))), (Ok(()), Ok(())));
    let other = expect("spiffe://mesh.test/ns/shop/sa/pay");
    let expected = (Err(Refusal::NotExpected), Err(Refusal::NotExpected));
    assert_eq!(both_ways(&shown, &trust, |made| made.expected = Some(Arc::clone(&other))), expected);
    let peer = PeerIdentity::from_leaf(&shown.chain[0]).unwrap();
    for revoked in [
        Revoked { identities: [ID.into()].into(), ..Revoked::default() },
        Revoked { serials: [peer.serial.as_str().into()].into(), ..Revoked::default() },
    ] {
        let cut = |made: &mut Verifier| made.revocations.replace(revoked.clone());
        assert_eq!(both_ways(&shown, &trust, cut), (Err(Refusal::Revoked), Err(Refusal::Revoked)));
    }
}

#[test]
fn outside_the_mesh_a_server_must_have_its_name() {
    let root = root("web");
    let trust = Trust::Plain(Roots::new([root.der()]).unwrap());
    for (name, expected) in [("cart.shop", Ok(())), ("other.shop", Err(Refusal::WrongName))] {
        let mut params = leaf_of(ID);
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        let shown = Shown::by(&root, params);
        assert_eq!(both_ways(&shown, &trust, |_| {}), (Ok(()), expected));
    }
}

#[test]
fn a_client_without_a_certificate_stays_out_unless_it_may() {
    let root = root("mesh");
    let own = Shown::by(&root, leaf_of(ID)).credential();
    let tickets = Tickets::under(None, &own.leaf, None).unwrap();
    for (anonymous, expected) in [(false, Err(Refusal::NoCertificate)), (true, Ok(()))] {
        let mut check = verifier(mesh(&[&root]));
        check.anonymous_clients = anonymous;
        let server = config::server(&own, Some(check), &[], Some(&tickets)).unwrap();
        let client = config::client(None, verifier(mesh(&[&root])), &[], &[&rustls::version::TLS13]).unwrap();
        assert_eq!(shake(client, server, true), expected);
    }
}

#[test]
fn old_versions_find_no_server_here() {
    let root = root("mesh");
    let own = Shown::by(&root, leaf_of(ID)).credential();
    let server =
        config::server(&own, None, &[], Some(&Tickets::under(None, &own.leaf, None).unwrap())).unwrap();
    let client = config::client(None, verifier(mesh(&[&root])), &[], &[&rustls::version::TLS12]).unwrap();
    assert_eq!(shake(client, server, true), Err(Refusal::Incompatible));
}

#[test]
fn a_resumed_session_keeps_its_peer_until_trust_or_the_certificate_changes() {
    let root = root("mesh");
    let trust = mesh(&[&root]);
    let (own, theirs) =
        (Shown::by(&root, leaf_of(ID)).credential(), Shown::by(&root, leaf_of(ID)).credential());
    let client =
        config::client(Some(&theirs), verifier(trust.clone()), &[], &[&rustls::version::TLS13]).unwrap();
    let connect = |tickets: &Tickets| {
        let server = config::server(&own, Some(verifier(trust.clone())), &[], Some(tickets)).unwrap();
        let mut client = ClientConnection::new(Arc::clone(&client), "cart.shop".try_into().unwrap()).unwrap();
        let mut server = ServerConnection::new(server).unwrap();
        talk(&mut client, &mut server).unwrap();
        // The ticket comes with the first data.
        server.writer().write_all(b"x").unwrap();
        talk(&mut client, &mut server).unwrap();
        client.reader().read_exact(&mut [0]).unwrap();
        (server.handshake_kind().unwrap(), server.peer_certificates().unwrap()[0].clone())
    };
    let tickets = Tickets::under(Some(&trust), &own.leaf, None).unwrap();
    assert_eq!(connect(&tickets).0, rustls::HandshakeKind::Full);
    let same = Tickets::under(Some(&trust), &own.leaf, Some(&tickets)).unwrap();
    let (kind, leaf) = connect(&same);
    assert_eq!(kind, rustls::HandshakeKind::Resumed);
    let peer = PeerIdentity::from_leaf(&leaf).unwrap();
    let now = UnixTime::now();
    assert_eq!(peer.recheck(&Revoked::default(), now), Ok(()));
    let cut = Revoked { identities: [ID.into()].into(), ..Revoked::default() };
    assert_eq!(peer.recheck(&cut, now), Err(Refusal::Revoked));
    let later = UnixTime::since_unix_epoch(std::time::Duration::from_secs(peer.not_after + 1));
    assert_eq!(peer.recheck(&Revoked::default(), later), Err(Refusal::Expired));
    let other = mesh(&[&self::root("new")]);
    for (trust, own) in [(&other, &own), (&trust, &theirs)] {
        connect(&same);
        assert_eq!(connect(&same).0, rustls::HandshakeKind::Resumed);
        let changed = Tickets::under(Some(trust), &own.leaf, Some(&same)).unwrap();
        assert_eq!(connect(&changed).0, rustls::HandshakeKind::Full);
    }
}

#[test]
fn a_key_of_another_certificate_is_no_credential() {
    let root = root("mesh");
    let (one, two) = (Shown::by(&root, leaf_of(ID)), Shown::by(&root, leaf_of(ID)));
    let error = Credential::from_der(one.chain.clone(), two.key()).unwrap_err();
    assert_eq!(error, config::CredentialError::Mismatch);
    let error = Credential::from_pem(b"nothing", b"nothing").unwrap_err();
    assert!(
        matches!(error, config::CredentialError::BadKey(_) | config::CredentialError::NoCertificate),
        "{error}"
    );
}

fn vouched(shown: &Shown, trust: &Arc<Trust>, side: Side) -> Vouched {
    let peer = Rc::new(PeerIdentity::from_leaf(&shown.chain[0]).unwrap());
    Vouched::new((peer, &shown.chain), Arc::clone(trust), None, (side, "c".into()), UnixTime::now())
}

#[test]
fn an_open_connection_is_held_to_the_roots_that_are_left() {
    let (old, new) = (root("old"), root("new"));
    let by_old = Shown::by(&old, leaf_of(ID));
    let issuer = below(&new, "issuer", |_| {});
    let by_new = Shown::by(&issuer, leaf_of(ID)).with(&[&issuer]);
    let (before, both, after) =
        (Arc::new(mesh(&[&old])), Arc::new(mesh(&[&old, &new])), Arc::new(mesh(&[&new])));
    assert!(both.covers(&before) && both.covers(&after) && both.covers(&both));
    assert!(!before.covers(&both) && !after.covers(&before));
    assert!(!after.covers(&Trust::Plain(Roots::new([new.der()]).unwrap())));
    for side in [Side::Client, Side::Server] {
        let ask =
            |peer: &Vouched, trust: &Arc<Trust>| peer.recheck(&verifier(Arc::clone(trust)), UnixTime::now());
        let first = vouched(&by_old, &before, side);
        assert_eq!(ask(&first, &both), Ok(()));
        assert_eq!(ask(&first, &after), Err(Refusal::UnknownIssuer), "more roots vouch for nobody anew");
        let second = vouched(&by_new, &both, side);
        assert_eq!(ask(&second, &after), Ok(()));
        assert_eq!(
            ask(&second, &before),
            Err(Refusal::UnknownIssuer),
            "what was found good counts from then on"
        );
        let foreign = Trust::spiffe([("other.test".to_owned(), Roots::new([new.der()]).unwrap())]);
        assert_eq!(ask(&second, &Arc::new(foreign.unwrap())), Err(Refusal::ForeignTrustDomain));
    }
}

#[test]
fn an_open_connection_is_left_before_the_first_of_its_certificates_ends_and_over_with_the_peers() {
    let (root, end) = (root("mesh"), date_time_ymd(2050, 1, 1));
    let ending = |end| {
        let mut params = leaf_of(ID);
        params.not_after = end;
        Shown::by(&root, params)
    };
    let (sooner, later) = (ending(end), ending(date_time_ymd(2051, 1, 1)));
    let trust = Arc::new(mesh(&[&root]));
    let end_s = u64::try_from(end.unix_timestamp()).unwrap();
    let at = |seconds: u64| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    let open = |peer: &Shown, own: &Shown, side, now| {
        let read = |shown: &Shown| PeerIdentity::from_leaf(&shown.chain[0]).unwrap();
        let context = (side, "c".into());
        Vouched::new(
            (Rc::new(read(peer)), &peer.chain),
            Arc::clone(&trust),
            Some(&read(own)),
            context,
            at(now),
        )
    };
    // Opened in good time or late, by either side: the seconds before the end at which it retires.
    for (side, left_s, retires_s) in [
        (Side::Client, 3600, 60),
        (Side::Client, 20, 10),
        (Side::Server, 3600, 30),
        (Side::Server, 20, 5),
        (Side::Server, 0, 0),
    ] {
        for (peer, own) in [(&sooner, &later), (&later, &sooner)] {
            let opened = open(peer, own, side, end_s - left_s);
            assert_eq!(opened.stage(at(end_s - retires_s - 1)), Stage::Good, "{side:?} {left_s}");
            assert_eq!(opened.stage(at(end_s - retires_s)), Stage::Retiring, "{side:?} {left_s}");
        }
        assert_eq!(open(&sooner, &later, side, end_s - left_s).stage(at(end_s + 1)), Stage::Over);
        assert_eq!(open(&later, &sooner, side, end_s - left_s).stage(at(end_s + 1)), Stage::Retiring);
    }
}

use std::net::SocketAddr;
use std::time::SystemTime;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::*;
use crate::ca::state::StateDir;
use crate::ca::testing::Scratch;
use crate::ca::{Authority, Lives, Origin};
use crate::inject::Settings;
use crate::serve::testing::server_and_client;
use crate::webhook::server::run;
use crate::webhook::{OnError, Policy};

const PATIENCE: Duration = Duration::from_secs(20);
const REVIEW: &str = r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
    "kind": {"version": "v1", "kind": "Pod"}, "operation": "CREATE", "namespace": "shop", "object": {"spec": {}}}}"#;

/// An authority as a file, and clients that it vouches for, by what for; they trust what `base` trusts.
fn authority(base: &ClientConfig, own: &RootCertStore) -> (String, [Arc<ClientConfig>; 2]) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let client = |usage: ExtendedKeyUsagePurpose| {
        let mut params = CertificateParams::new(vec!["kube-apiserver".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap().der().clone();
        let config = ClientConfig::builder_with_provider(Arc::clone(base.crypto_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(own.clone())
            .with_client_auth_cert(vec![leaf], PrivatePkcs8KeyDer::from(key.serialize_der()).into());
        Arc::new(config.unwrap())
    };
    (pem, [ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth].map(client))
}

/// What `server_and_client` trusts: the authority in its state directory.
fn roots(scratch: &Scratch) -> RootCertStore {
    let origin = Origin::Own(StateDir::open(&scratch.path().join("ca")).unwrap());
    let authority = Authority::open("a", origin, Lives::default(), SystemTime::now()).unwrap();
    let mut roots = RootCertStore::empty();
    authority.roots().into_iter().for_each(|root| roots.add(root).unwrap());
    roots
}

/// Whether a question of this client is answered.
async fn is_answered(address: SocketAddr, client: &Arc<ClientConfig>) -> bool {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let Ok(stream) = TlsConnector::from(Arc::clone(client)).connect(name, stream).await else { return false };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let question = Request::post("/inject").header("host", "x").body(Full::<Bytes>::from(REVIEW)).unwrap();
    // That the certificate is not taken is heard after the handshake, in TLS 1.3.
    sender.send_request(question).await.is_ok_and(|answer| answer.status() == 200)
}

#[tokio::test]
async fn only_who_shows_a_certificate_of_the_authority_is_answered() {
    let scratch = Scratch::new("webhook-clients");
    let (tls, nobody) = server_and_client(&scratch);
    let own = roots(&scratch);
    let (good_ca, [good, server]) = authority(&nobody, &own);
    let (other_ca, [other, _]) = authority(&nobody, &own);
    let file = scratch.path().join("clients.pem");
    for bad in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        std::fs::write(&file, bad).unwrap();
        let error = Certificates::with_clients(tls.clone(), &file).unwrap_err().to_string();
        assert!(error.contains("clients.pem: "), "{error}");
    }
    std::fs::write(&file, good_ca).unwrap();
    let certificates = Certificates::following(tls, &file, Duration::from_millis(5)).unwrap();
    let settings = Settings::new("example.org/p:1", ("control", 15012), "-----BEGIN CERTIFICATE-----\n");
    let policy = Policy { settings, exemptions: Vec::new(), on_error: OnError::Deny };
    let ((_end, ending), (_policy, policies)) = (watch::channel(false), watch::channel(Arc::new(policy)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(run(listener, policies, certificates, ending));
    assert!(is_answered(address, &good).await);
    for stranger in [&nobody, &other, &server] {
        assert!(!is_answered(address, stranger).await);
    }
    // It is another one now; what cannot be read changes nothing.
    std::fs::write(&file, other_ca).unwrap();
    let changed = async {
        while !is_answered(address, &other).await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, changed).await.unwrap();
    assert!(!is_answered(address, &good).await);
    std::fs::remove_file(&file).unwrap();
    for _ in 0..10 {
        assert!(is_answered(address, &other).await && !is_answered(address, &nobody).await);
    }
}

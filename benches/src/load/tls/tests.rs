use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::super::{LoadError, Spec, run};
use super::*;
use crate::backend::{Backend, Options};

/// A folder of certificates that goes away with the test.
struct Files(PathBuf);

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca() -> Ca {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn leaf(ca: &Ca) -> (rcgen::Certificate, KeyPair) {
    let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
    params.subject_alt_names = vec![SanType::URI("spiffe://test/ns/a/sa/b".try_into().unwrap())];
    (params.signed_by(&key, ca).unwrap(), key)
}

fn files(name: &str, ca: &Ca) -> (Files, ClientTls) {
    let folder = std::env::temp_dir().join(format!("outrider-bench-tls-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (cert, key) = leaf(ca);
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let tls = ClientTls {
        server_name: "anything".to_owned(),
        ca_file: write("ca.pem", ca.pem()),
        identity: Some((write("cert.pem", cert.pem()), write("key.pem", key.serialize_pem()))),
        post_quantum: false,
    };
    (Files(folder), tls)
}

/// A server with a mesh's certificate that wants one of the client, before a backend.
fn terminate(ca: &Ca, backend: SocketAddr) -> SocketAddr {
    let provider = Arc::new(default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let (cert, key) = leaf(ca);
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(clients.unwrap())
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut onward = TcpStream::connect(backend).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut onward).await;
                });
            }
        });
    });
    told.recv().unwrap()
}

fn short(target: SocketAddr, protocol: Protocol, tls: ClientTls) -> Spec {
    Spec { tls: Some(tls), duration: Duration::from_millis(50), ..Spec::new(target, protocol) }
}

#[test]
fn protocols_over_mtls() {
    let (backend, ca) = (Backend::start(Options::default()).unwrap(), ca());
    let (_files, tls) = files("good", &ca);
    let target = terminate(&ca, backend.ports.http);
    for protocol in [
        Protocol::Http1,
        Protocol::NewConnection,
        Protocol::Http2 { streams: 2 },
        Protocol::GrpcUnary { streams: 2 },
        Protocol::WebSocket,
    ] {
        for post_quantum in [false, true] {
            let tls = ClientTls { post_quantum, ..tls.clone() };
            let outcome = run(&short(target, protocol, tls)).unwrap();
            assert!(outcome.requests > 0 && outcome.errors.total() == 0, "{protocol:?}: {}", outcome.errors);
        }
    }
}

#[test]
fn a_server_of_another_authority_and_a_client_without_a_certificate() {
    let (backend, ours) = (Backend::start(Options::default()).unwrap(), ca());
    let (_files, tls) = files("bad", &ours);
    let other = terminate(&ca(), backend.ports.http);
    let error = run(&short(other, Protocol::Http1, tls.clone())).unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    let target = terminate(&ours, backend.ports.http);
    let anonymous = ClientTls { identity: None, ..tls };
    assert!(run(&short(target, Protocol::Http1, anonymous)).is_err());
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let ca = ca();
    let (files, tls) = files("wrong", &ca);
    let missing = ClientTls { ca_file: files.0.join("none.pem"), ..tls.clone() };
    let empty = files.0.join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let target = SocketAddr::from(([127, 0, 0, 1], 1));
    for (tls, name) in [(missing, "none.pem"), (ClientTls { ca_file: empty, ..tls }, "empty.pem")] {
        match run(&short(target, Protocol::Http1, tls)) {
            Err(LoadError::Tls { file, .. }) => assert!(file.ends_with(name), "{file}"),
            other => panic!("{other:?}"),
        }
    }
}

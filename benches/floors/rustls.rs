//! The floor of a pair over mTLS: [`forward`] with rustls towards the other half, on either side of it.
//!
//! Arguments: `LISTEN UPSTREAM client|server FOLDER`. The folder holds `ca.pem`, and `.crt` and `.key` of either side. Whom the other
//! side is signed by is verified, who it is only by name on the client's side.

mod common;
mod forward;

use std::io::{Error, Result};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The name in the server's certificate.
const SERVER_NAME: &str = "server.test";

#[expect(clippy::print_stderr, reason = "why the program ends")]
fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(3);
    let (side, folder) = (arguments.next().unwrap_or_default(), arguments.next().map(PathBuf::from));
    let started = match (side.as_str(), folder) {
        ("client", Some(folder)) => connector(&folder).map(run_client),
        ("server", Some(folder)) => acceptor(&folder).map(run_server),
        _ => Err(Error::other("usage: LISTEN UPSTREAM client|server FOLDER")),
    };
    started.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}

/// Plain to the client, TLS upstream.
fn run_client(connector: TlsConnector) -> ExitCode {
    let (pool, connector) = (Rc::new(forward::Pool::default()), Rc::new(connector));
    common::main(move |client, upstream| {
        let (pool, connector) = (Rc::clone(&pool), Rc::clone(&connector));
        async move {
            let dial = async || {
                let name = ServerName::try_from(SERVER_NAME).map_err(Error::other)?;
                connector.connect(name, connect(upstream).await?).await
            };
            let _ = forward::serve(client, &pool, dial).await;
        }
    })
}

/// TLS from the client, plain upstream.
fn run_server(acceptor: TlsAcceptor) -> ExitCode {
    let (pool, acceptor) = (Rc::new(forward::Pool::default()), Rc::new(acceptor));
    common::main(move |client, upstream| {
        let (pool, acceptor) = (Rc::clone(&pool), Rc::clone(&acceptor));
        async move {
            if let Ok(client) = acceptor.accept(client).await {
                let _ = forward::serve(client, &pool, async || connect(upstream).await).await;
            }
        }
    })
}

async fn connect(upstream: SocketAddr) -> Result<TcpStream> {
    let server = TcpStream::connect(upstream).await?;
    server.set_nodelay(true)?;
    Ok(server)
}

fn connector(folder: &Path) -> Result<TlsConnector> {
    let (chain, key) = identity(folder, "client")?;
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Error::other)?
        .with_root_certificates(roots(folder)?)
        .with_client_auth_cert(chain, key)
        .map_err(Error::other)?;
    Ok(Arc::new(config).into())
}

fn acceptor(folder: &Path) -> Result<TlsAcceptor> {
    let (chain, key) = identity(folder, "server")?;
    let provider = Arc::new(default_provider());
    let clients = Arc::new(roots(folder)?);
    let clients = WebPkiClientVerifier::builder_with_provider(clients, Arc::clone(&provider)).build();
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Error::other)?
        .with_client_cert_verifier(clients.map_err(Error::other)?)
        .with_single_cert(chain, key)
        .map_err(Error::other)?;
    Ok(Arc::new(config).into())
}

fn roots(folder: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(&folder.join("ca.pem"))?);
    Ok(roots)
}

fn identity(folder: &Path, side: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let key = PrivateKeyDer::from_pem_file(folder.join(format!("{side}.key"))).map_err(Error::other)?;
    Ok((certificates(&folder.join(format!("{side}.crt")))?, key))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(file).and_then(Iterator::collect).map_err(Error::other)
}

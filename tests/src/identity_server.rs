//! A small control server that does nothing but issue identities, well or badly.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use outrider_proto::outrider::identity::v1 as pb;
use outrider_proto::outrider::identity::v1::identity_service_server::{
    IdentityService, IdentityServiceServer,
};
use tokio::sync::oneshot;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::authority::{Authority, wished};

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// The certificate is for another key.
    OtherKey,
    /// Its authority is not in the bundle.
    ForeignAuthority,
    /// It is for another identity than the token's.
    OtherIdentity,
    /// `not_after` is not that of the certificate.
    OtherEnd,
    /// It is over already.
    Expired,
    /// No certificate.
    Empty,
    /// No answer at all.
    Hangs,
    /// "Later".
    Unavailable,
}

/// What it does; can be changed at any time.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Identities by token, which is compared as a whole, JWT or not.
    pub tokens: BTreeMap<String, String>,
    /// The longest life that it gives.
    pub ttl: Duration,
    /// What is wrong with its answers.
    pub fault: Fault,
}

impl Behaviour {
    /// One token, one identity.
    #[must_use]
    pub fn one(token: &str, spiffe_id: &str, ttl: Duration) -> Self {
        let tokens = BTreeMap::from([(token.to_owned(), spiffe_id.to_owned())]);
        Self { tokens, ttl, fault: Fault::None }
    }
}

/// What it was asked, and what it does.
#[derive(Debug)]
struct State {
    behaviour: Behaviour,
    requests: Vec<pb::IssueSvidRequest>,
}

/// A running one; gone when dropped.
#[derive(Debug)]
pub struct IdentityServer {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    state: Arc<Mutex<State>>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl IdentityServer {
    /// Without TLS, on any port.
    #[must_use]
    pub fn start(authority: &Arc<Authority>, behaviour: Behaviour) -> Self {
        Self::start_at(0, authority, behaviour, None)
    }

    /// With TLS, under a certificate for `localhost` and 127.0.0.1 of `tls`.
    #[must_use]
    pub fn start_tls(authority: &Arc<Authority>, behaviour: Behaviour, tls: &Authority) -> Self {
        Self::start_at(0, authority, behaviour, Some(tls))
    }

    /// On a port that is known.
    #[must_use]
    pub fn start_at(
        port: u16,
        authority: &Arc<Authority>,
        behaviour: Behaviour,
        tls: Option<&Authority>,
    ) -> Self {
        let state = Arc::new(Mutex::new(State { behaviour, requests: Vec::new() }));
        let service = Service { authority: Arc::clone(authority), state: Arc::clone(&state) };
        let tls = tls.map(|authority| authority.server(&["localhost", "127.0.0.1"]));
        let (end, ended) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        // A thread of its own, so that tests that wait for processes do not keep it from answering.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let serve = async {
                let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], port))).expect("a port");
                tell.send(incoming.local_addr().expect("its address").port()).expect("somebody waits");
                let mut server = Server::builder();
                if let Some(tls) = tls {
                    let identity = Identity::from_pem(tls.chain_pem, tls.key_pem);
                    server = server.tls_config(ServerTlsConfig::new().identity(identity)).expect("TLS");
                }
                let served = server.serve_with_incoming(IdentityServiceServer::new(service), incoming);
                tokio::select! {
                    served = served => served.expect("the server"),
                    _ = ended => {}
                }
            };
            runtime.expect("an event loop").block_on(serve);
        });
        let port = told.recv().expect("the server listens");
        Self { port, state, end: Some(end), thread: Some(thread) }
    }

    /// Does something else from now on.
    pub fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).behaviour);
    }

    /// What it was asked so far.
    #[must_use]
    pub fn requests(&self) -> Vec<pb::IssueSvidRequest> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).requests.clone()
    }
}

impl Drop for IdentityServer {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct Service {
    authority: Arc<Authority>,
    state: Arc<Mutex<State>>,
}

#[tonic::async_trait]
impl IdentityService for Service {
    async fn issue_svid(
        &self,
        request: Request<pb::IssueSvidRequest>,
    ) -> Result<Response<pb::IssueSvidResponse>, Status> {
        let request = request.into_inner();
        let behaviour = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.requests.push(request.clone());
            state.behaviour.clone()
        };
        match behaviour.fault {
            Fault::Hangs => std::future::pending().await,
            Fault::Unavailable => Err(Status::unavailable("later")),
            _ => self.issue(&request, &behaviour).map(Response::new),
        }
    }
}

impl Service {
    fn issue(
        &self,
        request: &pb::IssueSvidRequest,
        behaviour: &Behaviour,
    ) -> Result<pb::IssueSvidResponse, Status> {
        let granted = behaviour.tokens.get(&request.token);
        let granted = granted.ok_or_else(|| Status::unauthenticated("the token is not known"))?;
        let bad_request = |error: rcgen::Error| Status::invalid_argument(format!("csr_der: {error}"));
        if wished(&request.csr_der).map_err(bad_request)?.is_some_and(|wished| wished != *granted) {
            return Err(Status::permission_denied(format!("the token is that of {granted}")));
        }
        let asked = request.requested_ttl.and_then(|ttl| Duration::try_from(ttl).ok());
        let ttl = asked.unwrap_or(behaviour.ttl).min(behaviour.ttl);
        let other = format!("{granted}/other");
        let id = if behaviour.fault == Fault::OtherIdentity { &other } else { granted };
        let mut params = Authority::svid_params(id, ttl);
        if behaviour.fault == Fault::Expired {
            params.not_after = (SystemTime::now() - Duration::from_secs(1)).into();
        }
        let not_after = params.not_after.unix_timestamp();
        let chain_der = match behaviour.fault {
            Fault::OtherKey => self.authority.issue(&params).chain_der,
            Fault::ForeignAuthority => {
                Authority::new("foreign").sign(&request.csr_der, params).map_err(bad_request)?
            }
            Fault::Empty => Vec::new(),
            _ => self.authority.sign(&request.csr_der, params).map_err(bad_request)?,
        };
        let seconds = if behaviour.fault == Fault::OtherEnd { not_after + 60 } else { not_after };
        Ok(pb::IssueSvidResponse {
            chain_der,
            bundles: vec![pb::TrustBundle {
                trust_domain: self.authority.trust_domain.clone(),
                roots_der: vec![self.authority.root_der()],
            }],
            not_after: Some(prost_types::Timestamp { seconds, nanos: 0 }),
        })
    }
}

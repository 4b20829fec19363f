//! A SPIFFE Workload API on a Unix socket that says what a test wants it to say.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;

use outrider_proto::workload_api::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use outrider_proto::workload_api::{X509svid, X509svidRequest, X509svidResponse};
use tokio::net::UnixListener;
use tokio::sync::{oneshot, watch};
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::authority::{Authority, Credentials};

/// A running one; gone when dropped, its socket too.
#[derive(Debug)]
pub struct WorkloadApi {
    socket: PathBuf,
    say: watch::Sender<Result<X509svidResponse, Status>>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The message that carries these identities.
#[must_use]
pub fn response(authority: &Authority, svids: &[(&str, &Credentials)]) -> X509svidResponse {
    let svids = svids.iter().map(|(spiffe_id, credentials)| X509svid {
        spiffe_id: (*spiffe_id).to_owned(),
        x509_svid: credentials.chain_der.concat(),
        x509_svid_key: credentials.key_der.clone(),
        bundle: authority.root_der(),
        hint: String::new(),
    });
    X509svidResponse { svids: svids.collect(), ..X509svidResponse::default() }
}

impl WorkloadApi {
    /// Listens on the socket and says `first` to whoever asks.
    #[must_use]
    pub fn start(socket: &Path, first: Result<X509svidResponse, Status>) -> Self {
        let (say, said) = watch::channel(first);
        let (end, ended) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let path = socket.to_owned();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let serve = async {
                let incoming = UnixListenerStream::new(UnixListener::bind(path).expect("a socket"));
                tell.send(()).expect("somebody waits");
                let service = SpiffeWorkloadApiServer::new(Service { said: Arc::new(said) });
                let served = Server::builder().serve_with_incoming(service, incoming);
                tokio::select! {
                    served = served => served.expect("the server"),
                    _ = ended => {}
                }
            };
            runtime.expect("an event loop").block_on(serve);
        });
        told.recv().expect("the server listens");
        Self { socket: socket.to_owned(), say, end: Some(end), thread: Some(thread) }
    }

    /// Says something new to all.
    pub fn say(&self, next: Result<X509svidResponse, Status>) {
        drop(self.say.send_replace(next));
    }
}

impl Drop for WorkloadApi {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

#[derive(Debug)]
struct Service {
    said: Arc<watch::Receiver<Result<X509svidResponse, Status>>>,
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = Pin<Box<dyn Stream<Item = Result<X509svidResponse, Status>> + Send>>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let header = request.metadata().get("workload.spiffe.io").map(|value| value.as_bytes().to_vec());
        if header.as_deref() != Some(b"true") {
            return Err(Status::invalid_argument("security header missing"));
        }
        let stream = WatchStream::new(watch::Receiver::clone(&self.said));
        // An error ends a stream.
        let mut over = false;
        let stream = stream.take_while(move |next| !std::mem::replace(&mut over, next.is_err()));
        Ok(Response::new(Box::pin(stream)))
    }
}

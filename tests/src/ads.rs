//! A control server that misbehaves: delta ADS by hand, over the `h2` crate.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use outrider_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use prost::Message as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

/// Responses that may wait to be sent.
const QUEUED: usize = 4096;

/// A running control server.
#[derive(Clone, Debug)]
pub struct Ads {
    /// Where it listens.
    pub port: u16,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    /// Streams that were opened, and when.
    opened: Mutex<Vec<Instant>>,
    requests: Mutex<Vec<DeltaDiscoveryRequest>>,
    send: broadcast::Sender<DeltaDiscoveryResponse>,
    /// The first streams, this many, are reset as soon as they are opened.
    resets: usize,
}

impl Ads {
    /// Starts one that resets this many streams before it serves one.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start(resets: usize) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = socket.local_addr().expect("its address").port();
        let send = broadcast::channel(QUEUED).0;
        let state = Arc::new(State { opened: Mutex::default(), requests: Mutex::default(), send, resets });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                tokio::spawn(connection(stream, Arc::clone(&shared)));
            }
        });
        Self { port, state }
    }

    /// When streams were opened.
    ///
    /// # Panics
    /// Never, unless another thread did.
    #[must_use]
    pub fn opened(&self) -> Vec<Instant> {
        self.state.opened.lock().expect("the list").clone()
    }

    /// What the proxy has said.
    ///
    /// # Panics
    /// Never, unless another thread did.
    #[must_use]
    pub fn requests(&self) -> Vec<DeltaDiscoveryRequest> {
        self.state.requests.lock().expect("the list").clone()
    }

    /// Says this on the stream that is open.
    ///
    /// # Panics
    /// When none is.
    pub fn send(&self, response: DeltaDiscoveryResponse) {
        self.state.send.send(response).expect("an open stream");
    }
}

async fn connection(stream: TcpStream, state: Arc<State>) {
    let _ = stream.set_nodelay(true);
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let number = {
            let mut opened = state.opened.lock().expect("the list");
            opened.push(Instant::now());
            opened.len()
        };
        if number <= state.resets {
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
            continue;
        }
        let head = http::Response::builder().header("content-type", "application/grpc");
        let Ok(send) = respond.send_response(head.body(()).expect("a head"), false) else { continue };
        tokio::spawn(receive(request.into_body(), Arc::clone(&state)));
        tokio::spawn(say(send, state.send.subscribe()));
    }
}

async fn receive(mut body: h2::RecvStream, state: Arc<State>) {
    let mut unread = BytesMut::new();
    while let Some(Ok(chunk)) = body.data().await {
        let _ = body.flow_control().release_capacity(chunk.len());
        unread.extend_from_slice(&chunk);
        // Each message has a flag and its length before it.
        while let Some(len) = unread.get(1..5).map(|mut len| len.get_u32() as usize)
            && unread.len() >= 5 + len
        {
            unread.advance(5);
            let message = DeltaDiscoveryRequest::decode(unread.split_to(len)).expect("a request");
            state.requests.lock().expect("the list").push(message);
        }
    }
}

async fn say(mut send: h2::SendStream<Bytes>, mut responses: broadcast::Receiver<DeltaDiscoveryResponse>) {
    while let Ok(response) = responses.recv().await {
        let mut bytes = BytesMut::new();
        bytes.put_u8(0);
        bytes.put_u32(response.encoded_len() as u32);
        response.encode(&mut bytes).expect("room");
        if send.send_data(bytes.freeze(), false).is_err() {
            return;
        }
    }
}

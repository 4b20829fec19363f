//! A server that does not answer.

use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

/// Who takes no more connections and refuses none, as its queue of them is full; until it is accepted from.
#[derive(Debug)]
pub struct Deaf {
    /// Where it listens.
    pub port: u16,
    /// Accept from it, and it answers.
    pub listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl Deaf {
    /// On a port of its own.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let listener = socket.listen(0).expect("a listener");
        let (address, mut waiting) = (listener.local_addr().expect("its address"), Vec::new());
        while let Ok(connected) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            waiting.push(connected.expect("a connection"));
        }
        Self { port: address.port(), listener, _waiting: waiting }
    }
}

//! TLS handshakes, of which nobody can take all places: a connection that says nothing has none, one that has begun to speak
//! must come to the end of its hello soon, and each source has some of them only.

mod refusals;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use self::refusals::Refusals;
use super::Sources;

/// Handshakes at a time.
const MOST: usize = 1024;
/// Handshakes at a time that one source may have; more of it wait.
const MOST_OF_ONE: usize = 64;
/// How long the first byte of a hello may take, and then the rest of it.
pub(crate) const HELLO: Duration = Duration::from_secs(2);
/// How long all of it may take, waiting included.
const WHOLE: Duration = Duration::from_secs(10);

/// Handshakes of one listener.
#[derive(Debug)]
pub(crate) struct Handshakes {
    places: Semaphore,
    sources: Sources,
    hello: Duration,
    refusals: Refusals,
}

impl Default for Handshakes {
    fn default() -> Self {
        Self::new((MOST, MOST_OF_ONE), HELLO)
    }
}

impl Handshakes {
    fn new((most, most_of_one): (usize, usize), hello: Duration) -> Self {
        let (places, sources) = (Semaphore::new(most), Sources::new(most_of_one));
        Self { places, sources, hello, refusals: Refusals::default() }
    }

    /// Says why there is no TLS with somebody; of each source once in a while.
    pub(crate) fn refused(&self, address: SocketAddr, error: &io::Error) {
        self.refusals.say(address, error);
    }

    /// TLS over a connection from this address.
    ///
    /// # Errors
    /// When the other end is too slow, or what it says is not to be accepted.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
        from: IpAddr,
        config: &Arc<ServerConfig>,
    ) -> io::Result<TlsStream<TcpStream>> {
        timeout(WHOLE, self.shake(stream, from, config)).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    async fn shake(
        &self,
        stream: TcpStream,
        from: IpAddr,
        config: &Arc<ServerConfig>,
    ) -> io::Result<TlsStream<TcpStream>> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no hello in time");
        // Looked at, because a stream may be called readable when it is not.
        timeout(self.hello, stream.peek(&mut [0])).await.map_err(late)??;
        let _of_source = self.sources.place(from).await;
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream);
        let hello = timeout(self.hello, hello).await.map_err(late)??;
        let _place = self.places.acquire().await.map_err(io::Error::other)?;
        hello.into_stream(Arc::clone(config)).await
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;
    use crate::ca::testing::Scratch;
    use crate::serve::testing::server_and_client;

    const FOREVER: Duration = Duration::from_secs(3600);

    async fn connect(from: &str, to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        socket.connect(to).await.unwrap()
    }

    /// A listener whose connections are shaken hands with.
    async fn listen(handshakes: Handshakes, config: Arc<ServerConfig>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, handshakes) = (listener.local_addr().unwrap(), Arc::new(handshakes));
        tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let (handshakes, config) = (Arc::clone(&handshakes), Arc::clone(&config));
                tokio::spawn(async move {
                    if let Ok(mut stream) = handshakes.accept(stream, peer.ip(), &config).await {
                        stream.write_all(b"hello").await.unwrap();
                    }
                });
            }
        });
        address
    }

    /// Nothing here waits for a time to pass: if it did, it would wait for an hour.
    #[tokio::test]
    async fn who_begins_a_hundred_handshakes_and_ends_none_takes_nobody_elses_place() {
        let scratch = Scratch::new("handshakes");
        let (server, client) = server_and_client(&scratch);
        let server = Arc::clone(&server.borrow().config);
        let address = listen(Handshakes::new((3, 2), FOREVER), server).await;
        let mut slow = Vec::new();
        for number in 0..100 {
            let mut stream = connect("127.0.0.9", address).await;
            // The first byte of a record that holds a hello, or nothing at all.
            let said: &[u8] = if number % 2 == 0 { &[0x16] } else { &[] };
            stream.write_all(said).await.unwrap();
            slow.push(stream);
        }
        let stream = connect("127.0.0.1", address).await;
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = tokio_rustls::TlsConnector::from(client).connect(name, stream).await.unwrap();
        let mut said = [0; 5];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"hello");
        drop(slow);
    }

    #[tokio::test]
    async fn a_hello_that_does_not_come_or_does_not_end_is_not_waited_for() {
        let scratch = Scratch::new("hello");
        let (server, _) = server_and_client(&scratch);
        let server = Arc::clone(&server.borrow().config);
        let address = listen(Handshakes::new((1, 1), Duration::from_millis(20)), server).await;
        for said in [&[][..], &[0x16], &[0x16, 3, 1, 2, 0, 1, 0, 1]] {
            let mut stream = connect("127.0.0.1", address).await;
            stream.write_all(said).await.unwrap();
            let mut rest = Vec::new();
            // The end, or a reset.
            let _ = stream.read_to_end(&mut rest).await;
        }
    }
}

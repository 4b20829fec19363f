//! What a connection is used for: one on which nobody who has proved who he is has a stream is closed after a while, however
//! well it answers.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::accept::{Place, Proof};

/// How long the first stream may take to prove itself: a review of its token takes 8 s at the most.
const FIRST: Duration = Duration::from_secs(15);
/// How often it is looked whether there is one still.
const LOOK: Duration = Duration::from_secs(30);

/// The streams of a connection, as those know it who serve them.
#[derive(Clone, Debug)]
pub(crate) struct Uses {
    streams: Arc<AtomicUsize>,
    proof: Proof,
}

/// A stream of somebody who has proved who he is, until this is dropped.
#[derive(Debug)]
pub(crate) struct Use(Arc<AtomicUsize>);

/// A place that is lost when it is not used.
#[derive(Debug)]
pub(super) struct UsedPlace {
    place: Place,
    streams: Arc<AtomicUsize>,
    look: Pin<Box<Sleep>>,
}

impl Uses {
    /// A stream begins whose client has proved who it is.
    pub(crate) fn begin(&self) -> Use {
        self.proof.give();
        self.streams.fetch_add(1, Ordering::Relaxed);
        Use(Arc::clone(&self.streams))
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl UsedPlace {
    /// Of a connection that begins now.
    pub(super) fn new(place: Place) -> Self {
        Self { place, streams: Arc::default(), look: Box::pin(sleep(FIRST)) }
    }

    pub(super) fn uses(&self) -> Uses {
        Uses { streams: Arc::clone(&self.streams), proof: self.place.proof() }
    }

    /// Ready when the connection is to be closed.
    pub(super) fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.place.poll_lost(cx).is_ready() {
            return Poll::Ready(());
        }
        while self.look.as_mut().poll(cx).is_ready() {
            // It stays over: a timer that has fired says so each time.
            if self.streams.load(Ordering::Relaxed) == 0 {
                return Poll::Ready(());
            }
            self.look.as_mut().reset(Instant::now() + LOOK);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::time::timeout;
    use tokio_stream::StreamExt as _;
    use tonic::transport::server::Connected as _;

    use super::*;
    use crate::serve::listen::{Connection, Transport, accept, bind};

    /// Both ends of a connection, on a clock that goes on to what is waited for when there is nothing else to do.
    async fn connection() -> (Connection, TcpStream) {
        let listener = bind("127.0.0.1:0".parse().unwrap(), &Transport::Plaintext).unwrap();
        let address = listener.local_addr().unwrap();
        let mut connections = accept(listener, Transport::Plaintext);
        let client = TcpStream::connect(address).await.unwrap();
        let accepted = connections.next().await.unwrap().unwrap();
        tokio::time::pause();
        (accepted, client)
    }

    #[tokio::test]
    async fn a_connection_on_which_nobody_proves_who_he_is_is_closed() {
        let (mut accepted, mut client) = connection().await;
        let begun = Instant::now();
        client.write_all(b"x").await.unwrap();
        assert_eq!(accepted.read_u8().await.unwrap(), b'x');
        let error = timeout(FIRST + LOOK, accepted.read_u8()).await.expect("it is closed").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < FIRST + Duration::from_secs(1));
    }

    #[tokio::test]
    async fn one_that_is_used_stays_until_it_is_not() {
        let (mut accepted, _client) = connection().await;
        let uses = accepted.connect_info().uses;
        let (one, other) = (uses.begin(), uses.begin());
        assert!(timeout(4 * LOOK, accepted.read_u8()).await.is_err(), "two streams");
        drop(one);
        assert!(timeout(4 * LOOK, accepted.read_u8()).await.is_err(), "one stream");
        drop(other);
        timeout(LOOK + Duration::from_secs(1), accepted.read_u8()).await.expect("it is closed").unwrap_err();
    }
}

//! Taking in connections: as many at a time as there are places, until the process ends.

mod sources;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

pub(crate) use sources::Sources;
#[cfg(test)]
pub(crate) use tls::HELLO;
pub(crate) use tls::Handshakes;

/// How long to wait when the system has no room for a connection.
const BREATH: Duration = Duration::from_millis(100);

/// A connection's place, free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

/// Serves each connection on a task of its own, at most `most` at a time, until `end`. `who` is who listens, for the log.
pub(crate) async fn each<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    (who, most): (&'static str, usize),
    end: impl Future<Output = ()>,
    serve: impl Fn(TcpStream, SocketAddr, Place) -> F,
) {
    let places = Arc::new(Semaphore::new(most));
    let mut end = std::pin::pin!(end);
    loop {
        let next = async {
            let permit = Arc::clone(&places).acquire_owned().await.map_err(std::io::Error::other)?;
            listener.accept().await.map(|accepted| (accepted, Place { _permit: permit }))
        };
        let accepted = tokio::select! {
            accepted = next => accepted,
            () = &mut end => return,
        };
        match accepted {
            Ok(((stream, peer), place)) => drop(tokio::spawn(serve(stream, peer, place))),
            Err(error) => {
                tracing::warn!(%error, "{who} cannot accept a connection");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

/// When it is set, or nobody can set it any more.
pub(crate) async fn set(mut ending: watch::Receiver<bool>) {
    let _ = ending.wait_for(|ending| *ending).await;
}

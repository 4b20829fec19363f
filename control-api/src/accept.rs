//! Taking in connections: as many at a time as there are places, until the process ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// How long to wait when the system has no room for a connection.
const BREATH: Duration = Duration::from_millis(100);

/// Serves each connection on a task of its own, at most `most` at a time, until `ending` is set. `who` is who listens, for
/// the log.
pub(crate) async fn each<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    (who, most): (&'static str, usize),
    mut ending: watch::Receiver<bool>,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) {
    let places = Arc::new(Semaphore::new(most));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = ending.wait_for(|ending| *ending) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let served = serve(stream, peer);
                tokio::spawn(async move {
                    served.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "{who} cannot accept a connection");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

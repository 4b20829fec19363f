//! Taking in connections, until the process ends: as many at a time as there are places, and nobody waits because another
//! has taken them.

mod places;
mod sources;
mod tls;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

use places::Places;
pub(crate) use places::{Bounds, Place, Proof};
pub(crate) use sources::Sources;
#[cfg(test)]
pub(crate) use tls::HELLO;
pub(crate) use tls::Handshakes;

/// How long to wait when the system has no room for a connection.
const BREATH: Duration = Duration::from_millis(100);
/// How often it is said that connections are turned away.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Serves each connection on a task of its own, within `bounds`, until `end`; one that gets no place is closed at once. `who` is
/// who listens, for the log and the metric.
pub(crate) async fn each<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    (who, bounds): (&'static str, Bounds),
    end: impl Future<Output = ()>,
    serve: impl Fn(TcpStream, SocketAddr, Place) -> F,
) {
    let (places, mut say_at) = (Places::new(bounds), Instant::now());
    let mut end = std::pin::pin!(end);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut end => return,
        };
        match accepted {
            Ok((stream, peer)) => match places.take(peer.ip()) {
                Some(place) => drop(tokio::spawn(serve(stream, peer, place))),
                None => {
                    metrics::counter!("outrider_control_connections_refused_total", "port" => who)
                        .increment(1);
                    if Instant::now() >= say_at {
                        say_at = Instant::now() + SAY_EVERY;
                        tracing::warn!(%peer, most = bounds.of_one, "{who}: too many connections of one source");
                    }
                }
            },
            Err(error) => {
                tracing::warn!(%error, "{who} cannot accept a connection");
                places.relieve();
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

/// When it is set, or nobody can set it any more.
pub(crate) async fn set(mut ending: watch::Receiver<bool>) {
    let _ = ending.wait_for(|ending| *ending).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpSocket;

    use super::*;

    /// Nothing here waits for a time to pass; if one who has taken all places held the others up, this would hang.
    #[tokio::test]
    async fn who_takes_all_places_holds_up_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connect = async |from: &str| {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
            socket.connect(address).await.unwrap()
        };
        let serve = |mut stream: TcpStream, _, mut place: Place| async move {
            place.proof().give();
            let _ = place.keep(async { stream.write_all(b"!").await }).await;
            let _ = place.keep(std::future::pending::<()>()).await;
        };
        let bounds = Bounds { most: 5, of_one: 3, unproven_of_one: 3 };
        tokio::spawn(each(listener, ("a test", bounds), std::future::pending(), serve));
        let (mut held, mut turned_away) = (Vec::new(), 0);
        for number in 0..20 {
            let mut stream = connect(if number % 2 == 0 { "127.0.0.8" } else { "127.0.0.9" }).await;
            match stream.read_u8().await {
                Ok(_) => held.push(stream),
                Err(_) => turned_away += 1,
            }
        }
        assert_eq!((held.len(), turned_away), (5, 15));
        let mut stream = connect("127.0.0.1").await;
        assert_eq!(stream.read_u8().await.unwrap(), b'!');
    }
}

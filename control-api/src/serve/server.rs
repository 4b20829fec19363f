//! The port that proxies connect to: ADS, and what stands beside it.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::transport::Server;

use super::listen::{self, Transport};

/// Streams at a time on one connection. A proxy needs one, a gRPC client one for each channel.
const MAX_STREAMS: u32 = 64;
/// How a dead connection is noticed.
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Window of a stream and of a connection, in bytes: what a client may send before it is read.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;
/// Largest head of a request, in bytes: a token fits in.
const MAX_HEAD_BYTES: u32 = 32 * 1024;
/// How long streams may take to end when the control server does.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves until `ending` is set, and then until the connections have ended, or `DRAIN` is over.
///
/// # Errors
/// When the server cannot go on.
pub async fn run(
    services: Routes,
    listener: TcpListener,
    transport: Transport,
    ending: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let connections = listen::accept(listener, transport);
    let mut server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(MAX_HEAD_BYTES);
    let (mut drain, mut forced) = (ending.clone(), ending);
    let serving = server
        .add_routes(services)
        .serve_with_incoming_shutdown(connections, async move { drop(drain.wait_for(|end| *end).await) });
    let end = async {
        let _ = forced.wait_for(|end| *end).await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => served,
        () = end => Ok(()),
    }
}

//! What the minimal proxies share: two addresses on the command line, one thread, one task per connection.

use std::future::Future;
use std::net::SocketAddr;
use std::process::ExitCode;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Runs a proxy until it is killed: `LISTEN UPSTREAM` are its arguments.
#[expect(clippy::print_stderr, reason = "why the program ends")]
pub(crate) fn main<F>(serve: impl Fn(TcpStream, SocketAddr) -> F) -> ExitCode
where
    F: Future<Output = ()> + 'static,
{
    let mut addresses = std::env::args().skip(1).map(|text| text.parse::<SocketAddr>());
    let (Some(Ok(listen)), Some(Ok(upstream))) = (addresses.next(), addresses.next()) else {
        eprintln!("usage: LISTEN UPSTREAM, two addresses with ports");
        return ExitCode::from(2);
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let tasks = tokio::task::LocalSet::new();
    let ended = tasks.block_on(&runtime, accept(listen, upstream, serve));
    if let Err(error) = ended {
        eprintln!("cannot listen on {listen}: {error}");
    }
    ExitCode::FAILURE
}

async fn accept<F>(
    listen: SocketAddr,
    upstream: SocketAddr,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) -> std::io::Result<()>
where
    F: Future<Output = ()> + 'static,
{
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    loop {
        // Out of files or a connection that is gone already: the next one may do.
        if let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::task::spawn_local(serve(stream, upstream));
        }
    }
}

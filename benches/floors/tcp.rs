//! The floor of opaque forwarding: bytes are copied both ways, nothing is looked at.

mod common;

use std::net::SocketAddr;
use std::process::ExitCode;

use tokio::net::TcpStream;

fn main() -> ExitCode {
    common::main(serve)
}

async fn serve(mut client: TcpStream, upstream: SocketAddr) {
    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
    let _ = server.set_nodelay(true);
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}

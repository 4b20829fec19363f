//! The floor of HTTP/1.1: [`forward`] between two sockets.

mod common;
mod forward;

use std::io::Result;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;

use tokio::net::TcpStream;

fn main() -> ExitCode {
    let pool = Rc::new(forward::Pool::default());
    common::main(move |client, upstream| {
        let pool = Rc::clone(&pool);
        async move {
            let _ = forward::serve(client, &pool, async || connect(upstream).await).await;
        }
    })
}

async fn connect(upstream: SocketAddr) -> Result<TcpStream> {
    let server = TcpStream::connect(upstream).await?;
    server.set_nodelay(true)?;
    Ok(server)
}

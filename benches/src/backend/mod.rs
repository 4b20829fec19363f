//! The backend that every subject leads to: cheap enough not to be what is measured, one thread, two ports.
//!
//! One port speaks HTTP/1.1, WebSocket and HTTP/2 with prior knowledge, told apart by the first bytes: `/bytes/N` answers with N bytes
//! (12 for any other path) once the request's body is read; gRPC calls and WebSocket messages are echoed. The other port speaks
//! the raw frames of [`crate::wire::bulk`].

mod answer;
pub mod cli;
mod grpc;
mod http1;
mod http2;
mod tcp;
mod websocket;

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use answer::Answers;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Where to listen; port 0 is any free one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// HTTP/1.1, WebSocket and HTTP/2.
    pub http: SocketAddr,
    /// Raw frames.
    pub tcp: SocketAddr,
    /// The core to run on.
    pub core: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self { http: any, tcp: any, core: None }
    }
}

/// Where it listens. `outrider-bench backend` prints this as one line of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// HTTP/1.1, WebSocket and HTTP/2.
    pub http: SocketAddr,
    /// Raw frames.
    pub tcp: SocketAddr,
}

/// A backend in a thread of this process. It ends when this is dropped.
#[derive(Debug)]
pub struct Backend {
    /// Where it listens.
    pub ports: Ports,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    /// Starts one; it listens when this returns.
    ///
    /// # Errors
    /// When it cannot listen or run where it is to.
    pub fn start(options: Options) -> Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::Builder::new().name("backend".to_owned()).spawn(move || {
            let failed = tell.clone();
            let until = async move { drop(stopped.await) };
            let served = serve(options, until, |ports| {
                // Whoever started it waits for them.
                let _ = tell.send(Ok(ports));
                Ok(())
            });
            if let Err(error) = served {
                let _ = failed.send(Err(error));
            }
        })?;
        let ports = told.recv().context("the backend ended at once")??;
        Ok(Self { ports, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of its own has been printed; there is nothing to be saved.
            let _ = thread.join();
        }
    }
}

/// Serves on the calling thread until `until`; `tell` gets the ports once both are open.
///
/// # Errors
/// When it cannot listen or run where it is to, or `tell` fails.
pub fn serve(
    options: Options,
    until: impl Future<Output = ()>,
    tell: impl FnOnce(Ports) -> Result<()>,
) -> Result<()> {
    if let Some(core) = options.core {
        crate::measure::pin(core)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let (http, raw) = (listen(options.http)?, listen(options.tcp)?);
        tell(Ports { http: http.local_addr()?, tcp: raw.local_addr()? })?;
        let answers = Rc::new(Answers::new());
        tokio::select! {
            () = accept(&http, |stream| http1::connection(stream, Rc::clone(&answers))) => {}
            () = accept(&raw, tcp::connection) => {}
            () = until => {}
        }
        Ok(())
    })
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let wrong = || format!("cannot listen on {address}");
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into()).with_context(wrong)?;
    socket.listen(BACKLOG).with_context(wrong)?;
    Ok(TcpListener::from_std(socket.into())?)
}

async fn accept<F>(listener: &TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = Result<()>> + 'static,
{
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                let served = serve(stream);
                tokio::task::spawn_local(async move {
                    // A client that goes away, or sends what it should not, has lost its connection: that is its answer.
                    let _ = served.await;
                });
            }
            // Out of files, perhaps: others may close theirs meanwhile.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
        }
    }
}

#[cfg(test)]
mod tests;

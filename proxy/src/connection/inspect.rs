//! Looks at the first bytes of a connection where the choice of its chain or codec depends on them.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::tls::HANDSHAKE_TIMEOUT;
use crate::detect::{H2_PREFACE, MAX_SNIFF_BYTES, Sniff, begins_tls, client_hello, sniff};
use crate::drain::Drain;
use crate::model::{HttpChain, Listener};
use crate::observe::metrics::Labels;
use crate::observe::series::DETECT;
use crate::transport::Transport;
use crate::worker::Worker;

/// What was found.
#[derive(Debug, Default)]
pub struct Inspected {
    /// TLS begins.
    pub tls: bool,
    /// By SNI.
    pub server_name: Option<String>,
    /// By ALPN, or by looking at plaintext.
    pub protocols: Vec<String>,
}

impl Inspected {
    /// The name of what was found in a filter chain's match.
    #[must_use]
    pub const fn transport_protocol(&self) -> &'static str {
        if self.tls { "tls" } else { "raw_buffer" }
    }
}

/// Looks as the listener wants it; `None` when the connection is to be closed. What was looked at is still to be read.
pub async fn inspect(
    transport: &mut Transport,
    destination: SocketAddr,
    listener: &Listener,
    worker: &Worker,
) -> Option<Inspected> {
    if !(listener.inspect_tls || listener.inspect_http) {
        return Some(Inspected::default());
    }
    let (found, outcome) = look(transport, destination, listener).await;
    worker.metrics.counter(DETECT, &Labels::none().with("outcome", outcome)).add(1);
    found
}

async fn look(
    transport: &mut Transport,
    destination: SocketAddr,
    listener: &Listener,
) -> (Option<Inspected>, &'static str) {
    let opened = Instant::now();
    loop {
        let front = transport.front();
        if let Some(found) = recognise(front, listener) {
            return (Some(found), "found");
        }
        let patience = patience(front, destination, listener);
        let more = poll_fn(|cx| transport.poll_look(cx));
        let more = match patience {
            None => Ok(more.await),
            Some(limit) => timeout_at(opened + limit, more).await,
        };
        match more {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => {
                let front = transport.front();
                return ((!front.is_empty()).then(|| unfinished(front, listener)), "found");
            }
            Err(_) if listener.continue_on_timeout => {
                return (Some(unfinished(transport.front(), listener)), "timeout");
            }
            Err(_) => return (None, "timeout_closed"),
        }
    }
}

/// How long after the connection was accepted it must be known what it is, when no more than this was said.
///
/// The short time of a listener that goes on without knowing is for protocols whose server speaks first. Where TLS has
/// begun, or nothing but TLS is taken, it is the client that has to speak, and its hello has the time of a handshake:
/// with post-quantum keys it comes in several segments, and one of them may get lost.
fn patience(front: &[u8], destination: SocketAddr, listener: &Listener) -> Option<Duration> {
    let limit = listener.inspect_timeout?;
    let client_first =
        listener.inspect_tls && (begins_tls(front) || !listener.chains.takes_plaintext(destination.port()));
    Some(if listener.continue_on_timeout && client_first { limit.max(HANDSHAKE_TIMEOUT) } else { limit })
}

/// What it is, once that is certain.
fn recognise(front: &[u8], listener: &Listener) -> Option<Inspected> {
    match sniff(front) {
        Sniff::Tls if listener.inspect_tls => match client_hello::read(front) {
            client_hello::Hello::Done(hello) => {
                return Some(Inspected {
                    tls: true,
                    server_name: hello.server_name,
                    protocols: hello.protocols,
                });
            }
            // Something that only begins like TLS is passed on as what it is.
            client_hello::Hello::Invalid => return Some(Inspected { tls: true, ..Inspected::default() }),
            client_hello::Hello::NeedMore => {}
        },
        Sniff::Http1 if listener.inspect_http => return Some(plain("http/1.1")),
        Sniff::Http2 if listener.inspect_http => return Some(plain("h2c")),
        Sniff::NeedMore => {}
        Sniff::Tls | Sniff::Http1 | Sniff::Http2 | Sniff::Opaque => return Some(Inspected::default()),
    }
    (front.len() >= MAX_SNIFF_BYTES).then(|| unfinished(front, listener))
}

/// What it counts as when nothing more is waited for: a ClientHello that is too large, or was not finished in time, is
/// still TLS, and never plaintext that could be passed on.
fn unfinished(front: &[u8], listener: &Listener) -> Inspected {
    Inspected { tls: listener.inspect_tls && begins_tls(front), ..Inspected::default() }
}

fn plain(protocol: &str) -> Inspected {
    Inspected { protocols: vec![protocol.to_owned()], ..Inspected::default() }
}

/// Whether the connection begins with the HTTP/2 preface, which is still to be read; `None` when it ended or was idle
/// before it told.
pub async fn is_h2(transport: &mut Transport, chain: &HttpChain, drain: &Drain) -> Option<bool> {
    let limit = chain.idle_timeout.unwrap_or(Duration::MAX);
    let opened = Instant::now();
    loop {
        let front = transport.front();
        let common = front.len().min(H2_PREFACE.len());
        if front.get(..common) != H2_PREFACE.get(..common) {
            return Some(false);
        }
        if common == H2_PREFACE.len() {
            return Some(true);
        }
        // Once something was said, the rest must follow as fast as a head.
        let silent = front.is_empty();
        let limit = if silent { limit } else { chain.request_headers_timeout.unwrap_or(limit) };
        let more = timeout(limit, poll_fn(|cx| transport.poll_look(cx)));
        let more = tokio::select! {
            more = more => more.unwrap_or(Ok(0)).unwrap_or(0),
            () = drain.last_call_is_over(opened), if silent => 0,
        };
        if more == 0 {
            // HTTP/1 will say what is wrong with what there is.
            return (!silent).then_some(false);
        }
    }
}

#[cfg(test)]
mod tests;

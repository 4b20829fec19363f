//! Looks at the first bytes of a connection where the choice of its chain or codec depends on them.

use std::future::poll_fn;

use bytes::BytesMut;
use tokio::time::{Instant, timeout};

use crate::detect::{H2_PREFACE, MAX_SNIFF_BYTES, Sniff, client_hello, sniff};
use crate::drain::Drain;
use crate::model::{HttpChain, Listener};
use crate::observe::metrics::Labels;
use crate::observe::series::DETECT;
use crate::transport::Transport;
use crate::worker::Worker;

/// Size of the reads while looking, in bytes.
const READ_BYTES: usize = 4096;

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

/// Looks as the listener wants it; `None` when the connection is to be closed.
pub async fn inspect(transport: &mut Transport, listener: &Listener, worker: &Worker) -> Option<Inspected> {
    if !(listener.inspect_tls || listener.inspect_http) {
        return Some(Inspected::default());
    }
    let mut seen = BytesMut::new();
    let looking = look(transport, &mut seen, listener);
    let (found, outcome) = match listener.inspect_timeout {
        None => (looking.await, "found"),
        Some(limit) => match timeout(limit, looking).await {
            Ok(found) => (found, "found"),
            Err(_) if listener.continue_on_timeout => (Some(Inspected::default()), "timeout"),
            Err(_) => (None, "timeout_closed"),
        },
    };
    worker.metrics.counter(DETECT, &Labels::none().with("outcome", outcome)).add(1);
    transport.put_back(seen.freeze());
    found
}

async fn look(transport: &mut Transport, seen: &mut BytesMut, listener: &Listener) -> Option<Inspected> {
    loop {
        match sniff(seen) {
            Sniff::Tls if listener.inspect_tls => match client_hello::read(seen) {
                client_hello::Hello::Done(hello) => {
                    return Some(Inspected {
                        tls: true,
                        server_name: hello.server_name,
                        protocols: hello.protocols,
                    });
                }
                // Something that only begins like TLS is passed on as what it is.
                client_hello::Hello::Invalid => {
                    return Some(Inspected { tls: true, ..Inspected::default() });
                }
                client_hello::Hello::NeedMore => {}
            },
            Sniff::Http1 if listener.inspect_http => return Some(plain("http/1.1")),
            Sniff::Http2 if listener.inspect_http => return Some(plain("h2c")),
            Sniff::NeedMore => {}
            Sniff::Tls | Sniff::Http1 | Sniff::Http2 | Sniff::Opaque => return Some(Inspected::default()),
        }
        if seen.len() >= MAX_SNIFF_BYTES || read_more(transport, seen).await == 0 {
            // A ClientHello too large to be read is still TLS, not plaintext.
            let tls = listener.inspect_tls && sniff(seen) == Sniff::Tls;
            return (!seen.is_empty()).then(|| Inspected { tls, ..Inspected::default() });
        }
    }
}

fn plain(protocol: &str) -> Inspected {
    Inspected { protocols: vec![protocol.to_owned()], ..Inspected::default() }
}

/// Whether the connection begins with the HTTP/2 preface; `None` when it ended or was idle before it told.
pub async fn is_h2(transport: &mut Transport, chain: &HttpChain, drain: &Drain) -> Option<bool> {
    let mut seen = BytesMut::new();
    let limit = chain.idle_timeout.unwrap_or(std::time::Duration::MAX);
    let opened = Instant::now();
    let found = loop {
        let common = seen.len().min(H2_PREFACE.len());
        if seen.get(..common) != H2_PREFACE.get(..common) {
            break false;
        }
        if common == H2_PREFACE.len() {
            break true;
        }
        // Once something was said, the rest must follow as fast as a head.
        let limit = if seen.is_empty() { limit } else { chain.request_headers_timeout.unwrap_or(limit) };
        let count = tokio::select! {
            count = timeout(limit, read_more(transport, &mut seen)) => count.unwrap_or(0),
            () = drain.last_call_is_over(opened), if seen.is_empty() => 0,
        };
        if count == 0 {
            if seen.is_empty() {
                return None;
            }
            // HTTP/1 will say what is wrong with it.
            break false;
        }
    };
    transport.put_back(seen.freeze());
    Some(found)
}

/// Reads what there is; 0 is the end.
async fn read_more(transport: &mut Transport, seen: &mut BytesMut) -> usize {
    poll_fn(|cx| {
        // Inside the poll, so that a connection that waits does not carry it along.
        let mut space = [0_u8; READ_BYTES];
        transport.poll_read_into(cx, &mut space).map(|read| {
            let count = read.unwrap_or(0);
            seen.extend_from_slice(space.get(..count).unwrap_or_default());
            count
        })
    })
    .await
}

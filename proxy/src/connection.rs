//! One downstream connection, top to bottom.
//!
//! original destination -> first bytes (where a chain depends on them) -> filter chain -> faults -> rate limits
//! -> TLS (where it has any) -> policies of connections -> HTTP/1 | HTTP/2 | opaque

mod choose;
pub mod fault;
pub mod h1;
pub mod h2;
pub mod inspect;
pub mod tls;

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::drain::Drain;
use crate::exchange::Origin;
use crate::model::http_chain::Codec;
use crate::model::{ChainProtocol, FilterChain, HttpChain, Listener};
use crate::observe::Reason;
use crate::observe::format::Record;
use crate::observe::metrics::Labels;
use crate::observe::series::{PLAINTEXT, RATE_LIMITED};
use crate::policy::standing::Facts;
use crate::policy::{Authorized, Standing};
use crate::transport::Transport;
use crate::worker::Worker;
use crate::{sys, tcp};

/// Series of those who speak plaintext, in one worker; whoever comes later is counted as `other`.
const MAX_PLAINTEXT_SERIES: usize = 256;

/// What serves a connection, once it is known what it is: a future of its own, so that nothing of how it was found out
/// is held meanwhile.
type Service = Pin<Box<dyn Future<Output = ()>>>;

/// Serves a connection to its end.
pub async fn serve(stream: TcpStream, listener: Arc<Listener>, worker: Rc<Worker>, drain: Drain) {
    if let Some(service) = Box::pin(establish(stream, listener, worker, drain)).await {
        service.await;
    }
}

/// Finds out who speaks what to whom, and whether it may.
async fn establish(
    stream: TcpStream,
    listener: Arc<Listener>,
    worker: Rc<Worker>,
    drain: Drain,
) -> Option<Service> {
    let mut transport = Transport::new(stream).ok()?;
    let original = original_destination(&transport, &listener);
    let destination = original.unwrap_or(transport.local());
    // A redirected connection may be one in which the server speaks first: it waits only where that tells anything.
    let inspected = if original.is_none() || listener.chains.look_at(destination.port()) {
        inspect::inspect(&mut transport, destination, &listener, &worker).await?
    } else {
        inspect::Inspected::default()
    };
    let inspected_as = inspected.transport_protocol();
    let mut facts = Facts {
        listener: Arc::clone(&listener.name),
        came_by: Arc::clone(&listener),
        destination,
        redirected: original.is_some(),
        spared: listener.spared,
        remote: transport.peer(),
        transport_protocol: inspected_as,
        protocols: inspected.protocols,
        server_name: inspected.server_name.map(Arc::from),
        secure: false,
        peer: None,
        in_use: None,
    };
    let chain = &choose::chain(&mut transport, &mut facts, &listener, &worker).await?;
    let expired = begin(&mut transport, (&facts, chain), &listener, &worker).await?;
    let secured = match &chain.tls {
        Some(tls) => tls::accept(&mut transport, (tls, expired), &listener, &worker).await?,
        None => {
            count_plaintext(&transport, &listener, &worker);
            tls::Secured::default()
        }
    };
    facts.secure = chain.tls.is_some();
    facts.peer = secured.peer.clone();
    if let Err(authorized) = authorize(chain, &facts, &worker) {
        transport.reset_on_close();
        refuse(&transport, &listener, &worker, (&facts, Reason::AuthorizationDenied, &authorized));
        return None;
    }
    let standing = Rc::new(Standing::new(facts, chain, transport.cutoff()));
    worker.standings.add(&standing);
    if drain.has_begun() && is_outdated(&standing, &worker) {
        return None;
    }
    match &chain.protocol {
        ChainProtocol::Tcp(tcp) => {
            let target = tcp::Target { standing, direction: listener.direction };
            Some(Box::pin(tcp::serve(transport, Arc::clone(tcp), target, worker)))
        }
        ChainProtocol::Http(http) => {
            let h2 = speaks_h2(&mut transport, http, secured.is_h2(), &drain).await?;
            let origin = Origin {
                own: secured.own,
                worker,
                chain: Arc::clone(http),
                direction: listener.direction,
                local: transport.local(),
                remote: transport.peer(),
                destination,
                standing,
            };
            Some(if h2 {
                Box::pin(h2::serve(transport, origin, drain))
            } else {
                Box::pin(h1::serve(h1::Connection::new(transport, origin, drain)))
            })
        }
    }
}

/// Whether the client speaks HTTP/2, by what TLS has agreed on or by its first bytes; nothing if it speaks neither.
async fn speaks_h2(
    transport: &mut Transport,
    chain: &HttpChain,
    chosen: Option<bool>,
    drain: &Drain,
) -> Option<bool> {
    match (chain.codec, chosen) {
        (Codec::Http1, _) => Some(false),
        (Codec::Auto, Some(h2)) => Some(h2),
        // Whoever speaks something else to an HTTP/2 port would not understand an answer.
        (Codec::Http2, _) => inspect::is_h2(transport, chain, drain).await.filter(|h2| *h2),
        (Codec::Auto, None) => inspect::is_h2(transport, chain, drain).await,
    }
}

/// What a fault does to the handshake, if one does; nothing when a fault or a rate limit ends the connection before
/// anything is said on it. Cancel-safe.
async fn begin(
    transport: &mut Transport,
    (facts, chain): (&Facts, &FilterChain),
    listener: &Listener,
    worker: &Worker,
) -> Option<Option<fault::Expired>> {
    let expired = match fault::meet(transport, (facts, chain.tls.is_some()), listener, worker).await {
        fault::Early::GoesOn => None,
        fault::Early::Expired(expired) => Some(expired),
        fault::Early::Ended => return None,
    };
    if is_limited(chain, worker) {
        transport.reset_on_close();
        refuse(transport, listener, worker, (facts, Reason::RateLimited, &Authorized::default()));
        return None;
    }
    Some(expired)
}

/// What the chain's policies of connections say; all of them must allow.
fn authorize(chain: &FilterChain, facts: &Facts, worker: &Worker) -> Result<(), Authorized> {
    let mut authorized = Authorized::default();
    let subject = facts.subject();
    for filter in &chain.policies {
        let decision = filter.decide(&subject);
        worker.count_decision(&decision);
        authorized.add(&decision);
        if !decision.is_allowed() {
            return Err(authorized);
        }
    }
    Ok(())
}

/// Whether a connection that came in while its listener changed has no place under what the listener says now. Those
/// that were established before are held to that when it changes.
fn is_outdated(standing: &Standing, worker: &Worker) -> bool {
    let snapshot = worker.snapshot();
    let listener = snapshot.listeners.get(&standing.facts.listener);
    let ended = listener.is_some_and(|listener| worker.hold(standing, listener) || standing.review());
    worker.count_cut(Reason::PolicyChanged, usize::from(ended));
    ended
}

/// Whether a rate limit of the chain has no token for the connection.
fn is_limited(chain: &FilterChain, worker: &Worker) -> bool {
    let over = chain.limits.iter().find(|limit| !limit.tokens.take_one());
    if let Some(limit) = over {
        let labels = Labels::none().with("policy", &limit.name).with("mode", "enforce");
        worker.metrics.counter(RATE_LIMITED, &labels).add(1);
    }
    over.is_some()
}

/// Who still speaks plaintext to a listener that has TLS, so that it can be turned off for all.
fn count_plaintext(transport: &Transport, listener: &Listener, worker: &Worker) {
    if listener.chains.all().any(|chain| chain.tls.is_some()) {
        let source = transport.peer().ip().to_canonical().to_string();
        let of = |source: &str| Labels::none().with("listener", &listener.name).with("source", source);
        let labels = (&of(&source), &of("other"));
        worker.metrics.counter_of_few(PLAINTEXT, MAX_PLAINTEXT_SERIES, labels).add(1);
    }
}

/// Where the connection was going when it was redirected here, if it was and the listener asks for it.
fn original_destination(transport: &Transport, listener: &Listener) -> Option<SocketAddr> {
    if !listener.original_dst {
        return None;
    }
    let local = transport.local();
    let ip = local.ip().to_canonical();
    let original = sys::original_destination(transport.socket(), ip.is_ipv6()).ok()?;
    // The kernel also tracks connections that were not redirected, and IPv4 may be written as IPv6 here.
    (original != SocketAddr::new(ip, local.port())).then_some(original)
}

fn refuse(
    transport: &Transport,
    listener: &Listener,
    worker: &Worker,
    (facts, reason, authorized): (&Facts, Reason, &Authorized),
) {
    worker.reasons.count(&worker.metrics, reason);
    let record = Record {
        start: std::time::SystemTime::now(),
        flags: reason.flag(),
        reason: Some(reason.code()),
        peer: facts.identity(),
        authorized: Some(authorized),
        local: Some(transport.local()),
        remote: Some(transport.peer()),
        server_name: facts.server_name.as_deref(),
        ..Record::default()
    };
    for log in &listener.access_logs {
        worker.logger.write(log, &record);
    }
}

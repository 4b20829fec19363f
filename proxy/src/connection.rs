//! One downstream connection, top to bottom.
//!
//! original destination -> first bytes (where a chain depends on them) -> filter chain -> faults -> rate limits
//! -> TLS (where it has any) -> policies of connections -> HTTP/1 | HTTP/2 | opaque

pub mod fault;
pub mod h1;
pub mod h2;
pub mod inspect;
pub mod tls;

use std::net::SocketAddr;
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

/// Serves a connection to its end.
pub async fn serve(stream: TcpStream, listener: Arc<Listener>, worker: Rc<Worker>, drain: Drain) {
    let Ok(mut transport) = Transport::new(stream) else {
        return;
    };
    let original = original_destination(&transport, &listener);
    let destination = original.unwrap_or(transport.local());
    let Some(inspected) = inspect::inspect(&mut transport, &listener, &worker).await else {
        return;
    };
    let inspected_as = inspected.transport_protocol();
    let mut facts = Facts {
        listener: Arc::clone(&listener.name),
        destination,
        redirected: original.is_some(),
        remote: transport.peer(),
        transport_protocol: inspected_as,
        protocols: inspected.protocols,
        server_name: inspected.server_name.map(Arc::from),
        secure: false,
        peer: None,
    };
    let Some(chain) = listener.chains.select(&facts.query()) else {
        refuse(&transport, &listener, &worker, (&facts, Reason::NoFilterChain, &Authorized::default()));
        return;
    };
    if ends_early(&mut transport, (&facts, chain), &listener, &worker).await {
        return;
    }
    let secured = match &chain.tls {
        Some(tls) => match Box::pin(tls::accept(&mut transport, tls, &listener, &worker)).await {
            Some(secured) => secured,
            None => return,
        },
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
        return;
    }
    let standing = Rc::new(Standing::new(facts, chain, transport.cutoff()));
    worker.standings.add(&standing);
    match &chain.protocol {
        ChainProtocol::Tcp(tcp) => {
            let target = tcp::Target { standing, direction: listener.direction };
            Box::pin(tcp::serve(transport, tcp, target, &worker)).await;
        }
        ChainProtocol::Http(http) => {
            let chosen = secured.is_h2();
            let origin = Origin {
                own: secured.own,
                worker: Rc::clone(&worker),
                chain: Arc::clone(http),
                direction: listener.direction,
                local: transport.local(),
                remote: transport.peer(),
                destination,
                standing,
            };
            serve_http(transport, http, (origin, chosen), drain).await;
        }
    }
}

/// Whether a fault or a rate limit ends the connection before anything is said on it. Cancel-safe.
async fn ends_early(
    transport: &mut Transport,
    (facts, chain): (&Facts, &FilterChain),
    listener: &Listener,
    worker: &Worker,
) -> bool {
    if fault::ends(transport, (facts, chain.tls.is_some()), listener, worker).await {
        return true;
    }
    let limited = is_limited(chain, worker);
    if limited {
        transport.reset_on_close();
        refuse(transport, listener, worker, (facts, Reason::RateLimited, &Authorized::default()));
    }
    limited
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

async fn serve_http(
    mut transport: Transport,
    chain: &HttpChain,
    (origin, chosen): (Origin, Option<bool>),
    drain: Drain,
) {
    let h2 = match (chain.codec, chosen) {
        (Codec::Http1, _) => false,
        (Codec::Auto, Some(h2)) => h2,
        (Codec::Http2 | Codec::Auto, _) => match inspect::is_h2(&mut transport, chain, &drain).await {
            // Whoever speaks something else to an HTTP/2 port would not understand an answer.
            Some(false) if chain.codec == Codec::Http2 => return,
            Some(h2) => h2,
            None => return,
        },
    };
    // Boxed, so that a connection that has not said anything yet does not hold the room for what it may say.
    if h2 {
        Box::pin(h2::serve(transport, origin, drain)).await;
    } else {
        Box::pin(h1::serve(transport, origin, drain)).await;
    }
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
        let labels = Labels::none().with("listener", &listener.name).with("source", &source);
        worker.metrics.counter(PLAINTEXT, &labels).add(1);
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

//! Leased faults and guards, as they come over ADS.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use outrider_proto::outrider::fault::v1 as pb;
use outrider_proto::{Fault, Path};
use tokio::time::Instant;

use super::matcher::{HeaderMatcher, StringMatcher};
use super::parse;
use crate::fault::distribution::Distribution;
use crate::fault::filter::MAX_DELAY;
use crate::fault::leased::{Abort, Action, Leased, Moment, Place, Rule, Side};
use crate::fault::{Chance, Guard};

/// Longest lease: nobody who is still there has to wait longer between two heartbeats.
pub const MAX_LEASE: Duration = Duration::from_secs(600);
/// Entries of one list.
const MAX_ENTRIES: usize = 1000;
/// The alert of a handshake that failed for no particular reason (RFC 8446 section 6.2).
const HANDSHAKE_FAILURE: u8 = 40;

/// What is to be injected, or held back.
#[derive(Debug)]
pub enum Injection {
    /// A fault.
    Fault(Arc<Leased>),
    /// What holds faults back.
    Guard(Guard),
}

impl Injection {
    /// Until when it holds; nothing changes for a guard.
    pub fn extend(&self, until: Option<Instant>) {
        match (self, until) {
            (Self::Fault(fault), Some(until)) => fault.lease.extend(until),
            (Self::Fault(fault), None) => fault.lease.end(),
            (Self::Guard(_), _) => {}
        }
    }

    /// It is over.
    pub fn end(&self) {
        if let Self::Fault(fault) = self {
            fault.lease.end();
        }
    }
}

/// Checks one.
///
/// # Errors
/// All faults, with the paths of the fields.
pub fn compile(value: &pb::FaultInjection) -> Result<Injection, Vec<Fault>> {
    let mut path = Path::root();
    let name: Arc<str> = value.name.as_str().into();
    let compiled = match &value.kind {
        Some(pb::fault_injection::Kind::Fault(fault)) => {
            path.field("fault", |path| leased(name, fault, path)).map(Arc::new).map(Injection::Fault)
        }
        Some(pb::fault_injection::Kind::Guard(value)) => {
            Some(Injection::Guard(path.field("guard", |path| guard(value, path))))
        }
        None => path.refuse("one of fault and guard is needed"),
    };
    path.finish(compiled)
}

fn guard(value: &pb::Guard, path: &mut Path) -> Guard {
    let share = value.max_share.as_ref();
    let share = share.and_then(|share| path.field("max_share", |path| Chance::from_proto(share, path)));
    let ports = value.exempt_ports.iter().enumerate();
    Guard {
        silent: value.stop || value.opt_out,
        max_active: value.max_active.unwrap_or(u32::MAX),
        max_share: share.unwrap_or(Chance::ALWAYS),
        exempt_paths: strings(&value.exempt_paths, "exempt_paths", path),
        exempt_ports: ports
            .filter_map(|(index, port)| path.item("exempt_ports", index, |path| to_port(*port, path)))
            .collect(),
    }
}

fn leased(name: Arc<str>, value: &pb::Fault, path: &mut Path) -> Option<Leased> {
    let place = match value.place() {
        pb::fault::Place::Unset => path.field("place", |path| path.refuse("missing")),
        pb::fault::Place::Inbound => Some(Place::Inbound),
        pb::fault::Place::Outbound => Some(Place::Outbound),
        pb::fault::Place::Upstream => Some(Place::Upstream),
    };
    let rule = value.r#match.as_ref().map(|rule| path.field("match", |path| to_rule(rule, path)));
    let rule = rule.unwrap_or_default();
    let chance = match &value.percentage {
        Some(share) => path.field("percentage", |path| Chance::from_proto(share, path)),
        None => Some(Chance::ALWAYS),
    };
    let ramp = value.ramp.as_ref().map(|ramp| path.field("ramp", |path| to_ramp(ramp, path)));
    let mut leased = Leased::new(name, place?, action(value, path)?);
    if leased.place != Place::Upstream {
        if !rule.endpoints.is_empty() {
            path.fault_at("match.endpoints", "only upstream; no endpoint is chosen before");
        }
        let known = !rule.is_about_requests() && rule.peers.is_empty() && rule.clusters.is_empty();
        if leased.action.is_before_all() && !known {
            path.fault_at("match", "a connection that was just accepted has a listener and a port only");
        }
    }
    leased.rule = rule;
    leased.chance = chance?;
    leased.ramp = ramp;
    leased.max_active = value.max_active.unwrap_or(u32::MAX);
    leased.per_connection = value.per_connection;
    if let Some(seed) = value.seed {
        leased.seed = seed;
    }
    Some(leased)
}

fn to_ramp(value: &pb::Ramp, path: &mut Path) -> (Chance, Duration) {
    let from = value.from.as_ref();
    let from = from.and_then(|share| path.field("from", |path| Chance::from_proto(share, path)));
    let over = parse::duration(value.over.as_ref(), Duration::ZERO, "over", path);
    if over.is_zero() {
        path.fault_at("over", "must be longer than 0s");
    }
    (from.unwrap_or(Chance::NEVER), over)
}

fn to_rule(value: &pb::Match, path: &mut Path) -> Rule {
    let names = [&value.listeners, &value.routes, &value.clusters, &value.endpoints, &value.methods];
    if names.iter().any(|list| list.len() > MAX_ENTRIES) {
        path.fault(format!("a list has more than {MAX_ENTRIES} entries"));
    }
    let endpoints = value
        .endpoints
        .iter()
        .enumerate()
        .filter_map(|(index, text)| path.item("endpoints", index, |path| to_endpoint(text, path)));
    let endpoints = endpoints.collect();
    let methods = value.methods.iter().enumerate().filter_map(|(index, method)| {
        path.item("methods", index, |path| match Method::from_bytes(method.as_bytes()) {
            Ok(method) => Some(method),
            Err(_) => path.refuse("not a method"),
        })
    });
    let methods = methods.collect();
    let headers = value.headers.iter().enumerate().filter_map(|(index, matcher)| {
        path.item("headers", index, |path| HeaderMatcher::from_proto(matcher, path))
    });
    let headers = headers.collect();
    let matched = value.path.as_ref();
    Rule {
        listeners: value.listeners.clone(),
        routes: value.routes.clone(),
        clusters: value.clusters.clone(),
        endpoints,
        methods,
        path: matched.and_then(|matcher| path.field("path", |path| StringMatcher::from_proto(matcher, path))),
        headers,
        peers: strings(&value.peers, "peers", path),
        port: match value.port {
            0 => None,
            port => path.field("port", |path| to_port(port, path)),
        },
    }
}

fn to_endpoint(text: &str, path: &mut Path) -> Option<(IpAddr, Option<u16>)> {
    let whole = text.parse::<SocketAddr>().map(|at| (at.ip().to_canonical(), Some(at.port())));
    let found = whole.or_else(|_| text.parse::<IpAddr>().map(|ip| (ip.to_canonical(), None)));
    found.ok().or_else(|| path.refuse("must be IP or IP:PORT"))
}

fn to_port(port: u32, path: &mut Path) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0).or_else(|| path.refuse("must be from 1 to 65535"))
}

fn strings(
    values: &[outrider_proto::envoy::r#type::matcher::v3::StringMatcher],
    name: &str,
    path: &mut Path,
) -> Vec<StringMatcher> {
    if values.len() > MAX_ENTRIES {
        path.fault_at(name, format!("more than {MAX_ENTRIES} entries"));
    }
    let all = values.iter().enumerate();
    all.filter_map(|(index, value)| path.item(name, index, |path| StringMatcher::from_proto(value, path)))
        .collect()
}

fn side(side: pb::Side) -> Side {
    match side {
        pb::Side::Response => Side::Response,
        pb::Side::Request => Side::Request,
    }
}

fn action(value: &pb::Fault, path: &mut Path) -> Option<Action> {
    use pb::fault::Action as Pb;
    match value.action.as_ref() {
        Some(Pb::Delay(delay)) => path.field("delay", |path| to_delay(delay, path)),
        Some(Pb::Abort(abort)) => path.field("abort", |path| to_abort(abort, path)).map(Action::Abort),
        Some(Pb::Bandwidth(limit)) => {
            let (request, response) = (limit.request_bytes_per_second, limit.response_bytes_per_second);
            if request == 0 && response == 0 {
                path.fault_at("bandwidth", "one of the directions needs a limit");
            }
            Some(Action::Bandwidth(request, response))
        }
        Some(Pb::Truncate(cut)) => Some(Action::Truncate(side(cut.side()), cut.after_bytes)),
        Some(Pb::Corrupt(corrupt)) if corrupt.one_in_bytes > 0 => {
            Some(Action::Corrupt(side(corrupt.side()), corrupt.one_in_bytes))
        }
        Some(Pb::Corrupt(_)) => path.field("corrupt.one_in_bytes", |path| path.refuse("must be at least 1")),
        Some(Pb::Blackhole(_)) => Some(Action::Blackhole),
        Some(Pb::Refuse(_)) => Some(Action::Refuse),
        Some(Pb::TlsFailure(failure)) => match u8::try_from(failure.alert) {
            Ok(0) => Some(Action::TlsFailure(HANDSHAKE_FAILURE)),
            Ok(alert) => Some(Action::TlsFailure(alert)),
            Err(_) => path.field("tls_failure.alert", |path| path.refuse("larger than 255")),
        },
        Some(Pb::ExpiredCertificate(_)) => Some(Action::ExpiredCertificate),
        Some(Pb::Drip(drip)) => path.field("drip", |path| {
            let interval = length(drip.interval.as_ref(), "interval", path);
            if drip.chunk_bytes == 0 || interval.is_zero() {
                path.fault("chunk_bytes and interval must be more than 0");
            }
            Some(Action::Drip(side(drip.side()), drip.chunk_bytes, interval))
        }),
        None => path.refuse("an action is needed"),
    }
}

fn to_abort(value: &pb::Abort, path: &mut Path) -> Option<Abort> {
    use pb::abort::How as Pb;
    match &value.how {
        Some(Pb::HttpStatus(status)) => {
            let code = u16::try_from(*status).ok().filter(|code| (200..600).contains(code));
            let code = code.and_then(|code| StatusCode::from_u16(code).ok()).map(Abort::Http);
            code.or_else(|| path.field("http_status", |path| path.refuse("must be from 200 to 599")))
        }
        Some(Pb::Grpc(grpc)) => {
            let plain = grpc.message.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'%');
            if !plain {
                path.fault_at("grpc.message", "must be printable ASCII without \"%\"");
            }
            Some(Abort::Grpc(grpc.status, grpc.message.as_str().into()))
        }
        Some(Pb::Reset(_)) => Some(Abort::Reset),
        Some(Pb::Stream(stream)) => Some(Abort::Stream(stream.code)),
        Some(Pb::GoAway(end)) => Some(Abort::GoAway(end.code)),
        Some(Pb::Close(_)) => Some(Abort::Close),
        None => path.refuse("one of the ways to end is needed"),
    }
}

fn to_delay(value: &pb::Delay, path: &mut Path) -> Option<Action> {
    use pb::delay::Amount as Pb;
    let distribution = match &value.amount {
        Some(Pb::Fixed(delay)) => Distribution::Fixed(length(Some(delay), "fixed", path)),
        Some(Pb::Uniform(uniform)) => path.field("uniform", |path| {
            let (min, max) =
                (length(uniform.min.as_ref(), "min", path), length(uniform.max.as_ref(), "max", path));
            if min > max {
                path.fault("min is more than max");
            }
            Distribution::Uniform(min, max)
        }),
        Some(Pb::Normal(normal)) => path.field("normal", |path| Distribution::Normal {
            mean: length(normal.mean.as_ref(), "mean", path),
            deviation: length(normal.deviation.as_ref(), "deviation", path),
        }),
        Some(Pb::Pareto(pareto)) => path.field("pareto", |path| {
            let scale = length(pareto.scale.as_ref(), "scale", path);
            let max = pareto.max.as_ref().map(|max| length(Some(max), "max", path)).unwrap_or(MAX_DELAY);
            if scale.is_zero() || !(pareto.shape > 0.0 && pareto.shape.is_finite()) || max < scale {
                path.fault("scale and shape must be more than 0, and max not less than scale");
            }
            Distribution::Pareto { scale, shape: pareto.shape, max }
        }),
        None => return path.refuse("one of fixed, uniform, normal and pareto is needed"),
    };
    let moment = match value.moment() {
        pb::delay::Moment::BeforeRequest => Moment::Request,
        pb::delay::Moment::BeforeResponse => Moment::Response,
        pb::delay::Moment::PerChunk => Moment::Chunk,
    };
    Some(Action::Delay(moment, distribution))
}

/// How long; an hour at most.
fn length(value: Option<&prost_types::Duration>, name: &str, path: &mut Path) -> Duration {
    let length = parse::duration(value, Duration::ZERO, name, path);
    if length > MAX_DELAY {
        path.fault_at(name, "longer than an hour");
    }
    length
}

#[cfg(test)]
mod tests;

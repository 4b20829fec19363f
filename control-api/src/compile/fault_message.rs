//! A `FaultInjection` in the words of the wire.

use outrider_proto::envoy::config::route::v3 as route;
use outrider_proto::envoy::r#type::v3 as shares;
use outrider_proto::outrider::fault::v1 as pb;

use super::http::rule_name;
use super::model::cluster_name;
use super::{Services, wire};
use crate::object::fault_action as action;
use crate::object::fault_injection::{Direction, FaultInjection, Match, Ramp, ServiceRef};
use crate::object::scalar::{Percent, Span};
use crate::object::{Key, Object, ObjectKind, Objects};

/// The whole message, under the name that proxies know it by.
pub(super) fn message(
    object: &Object<FaultInjection>,
    name: &str,
    mesh: (&Objects, &Services),
) -> pb::FaultInjection {
    let spec = &object.spec;
    let place = match spec.direction {
        Direction::Inbound => pb::fault::Place::Inbound,
        Direction::Outbound => pb::fault::Place::Outbound,
        Direction::Upstream => pb::fault::Place::Upstream,
    };
    let fault = pb::Fault {
        place: place.into(),
        r#match: (spec.r#match != Match::default()).then(|| rule(&spec.r#match, &object.key.namespace, mesh)),
        percentage: spec.percent.map(percentage),
        seed: spec.seed,
        ramp: spec.ramp.map(ramp),
        max_active: spec.max_active,
        per_connection: spec.per_connection,
        action: action(spec),
    };
    pb::FaultInjection { name: name.to_owned(), kind: Some(pb::fault_injection::Kind::Fault(fault)) }
}

/// A share as protobuf has it.
pub(super) fn percentage(share: Percent) -> shares::FractionalPercent {
    shares::FractionalPercent {
        numerator: share.millionths,
        denominator: shares::fractional_percent::DenominatorType::Million.into(),
    }
}

fn ramp(value: Ramp) -> pb::Ramp {
    pb::Ramp { from: value.from.map(percentage), over: Some(wire::duration(value.over.0)) }
}

fn rule(value: &Match, namespace: &str, (objects, services): (&Objects, &Services)) -> pb::Match {
    let headers = value.headers.iter().map(|(name, value)| route::HeaderMatcher {
        name: name.to_ascii_lowercase(),
        header_match_specifier: Some(route::header_matcher::HeaderMatchSpecifier::StringMatch(
            wire::pattern(value),
        )),
        ..Default::default()
    });
    let routes = value.routes.iter().flat_map(|name| routes(name, namespace, objects));
    pb::Match {
        listeners: Vec::new(),
        routes: routes.collect(),
        clusters: value.services.iter().flat_map(|one| clusters(one, namespace, services)).collect(),
        endpoints: value.endpoints.clone(),
        methods: value.methods.clone(),
        path: value.path.as_deref().map(wire::pattern),
        headers: headers.collect(),
        peers: value.identities.iter().map(|identity| wire::pattern(identity)).collect(),
        port: value.port.map_or(0, u32::from),
    }
}

/// What the rules of a route are called on the wire. One that is not there has a name all the same, as with services.
fn routes(name: &str, namespace: &str, objects: &Objects) -> Vec<String> {
    let (http, grpc) =
        (Key::new(ObjectKind::HttpRoute, namespace, name), Key::new(ObjectKind::GrpcRoute, namespace, name));
    let rules = [
        (objects.http_routes.get(&http).map_or(0, |route| route.spec.rules.len()), &http),
        (objects.grpc_routes.get(&grpc).map_or(0, |route| route.spec.rules.len()), &grpc),
    ];
    let all = rules.iter().flat_map(|(rules, key)| (0..*rules).map(move |index| rule_name(key, index)));
    let all: Vec<String> = all.collect();
    if all.is_empty() { vec![http.to_string()] } else { all }
}

/// The clusters of a service. One that is not there has a name all the same: an empty list would mean all.
fn clusters(value: &ServiceRef, namespace: &str, services: &Services) -> Vec<String> {
    let key = Key::new(ObjectKind::Service, value.namespace.as_deref().unwrap_or(namespace), &value.name);
    let ports: Vec<u16> = match (value.port, services.get(&key)) {
        (Some(port), _) => vec![port],
        (None, Some(service)) => service.ports.iter().map(|port| port.number).collect(),
        (None, None) => Vec::new(),
    };
    let ports = if ports.is_empty() { vec![0] } else { ports };
    ports.into_iter().map(|port| cluster_name(&key, port)).collect()
}

fn action(spec: &FaultInjection) -> Option<pb::fault::Action> {
    use pb::fault::Action as Pb;
    let delay = spec.delay.as_ref().map(|one| Pb::Delay(delay(one)));
    let abort = spec.abort.as_ref().map(|one| Pb::Abort(abort(one)));
    let bandwidth = spec.bandwidth.map(|one| {
        Pb::Bandwidth(pb::Bandwidth {
            request_bytes_per_second: one.request_bytes_per_second.unwrap_or_default(),
            response_bytes_per_second: one.response_bytes_per_second.unwrap_or_default(),
        })
    });
    let truncate = spec
        .truncate
        .map(|one| Pb::Truncate(pb::Truncate { side: side(one.side), after_bytes: one.after_bytes }));
    let corrupt = spec
        .corrupt
        .map(|one| Pb::Corrupt(pb::Corrupt { side: side(one.side), one_in_bytes: one.one_in_bytes }));
    let drip = spec.drip.map(|one| {
        Pb::Drip(pb::Drip {
            side: side(one.side),
            chunk_bytes: one.chunk_bytes,
            interval: Some(wire::duration(one.interval.0)),
        })
    });
    let tls =
        spec.tls_failure.map(|one| Pb::TlsFailure(pb::TlsFailure { alert: one.alert.map_or(0, u32::from) }));
    let blackhole = spec.blackhole.map(|_| Pb::Blackhole(pb::Blackhole {}));
    let refuse = spec.refuse.map(|_| Pb::Refuse(pb::Refuse {}));
    let expired = spec.expired_certificate.map(|_| Pb::ExpiredCertificate(pb::ExpiredCertificate {}));
    [delay, abort, bandwidth, truncate, corrupt, drip, tls, expired, blackhole, refuse]
        .into_iter()
        .flatten()
        .next()
}

fn side(value: action::Side) -> i32 {
    match value {
        action::Side::Response => pb::Side::Response,
        action::Side::Request => pb::Side::Request,
    }
    .into()
}

fn delay(value: &action::Delay) -> pb::Delay {
    use pb::delay::Amount;
    let time = |span: Span| Some(wire::duration(span.0));
    let fixed = value.fixed.map(|span| Amount::Fixed(wire::duration(span.0)));
    let uniform = value
        .uniform
        .map(|one| Amount::Uniform(pb::delay::Uniform { min: time(one.min), max: time(one.max) }));
    let normal = value.normal.map(|one| {
        Amount::Normal(pb::delay::Normal { mean: time(one.mean), deviation: time(one.deviation) })
    });
    let pareto = value.pareto.map(|one| {
        let max = one.max.map(|max| wire::duration(max.0));
        Amount::Pareto(pb::delay::Pareto { scale: time(one.scale), shape: one.shape, max })
    });
    let moment = match value.moment {
        action::Moment::BeforeRequest => pb::delay::Moment::BeforeRequest,
        action::Moment::BeforeResponse => pb::delay::Moment::BeforeResponse,
        action::Moment::PerChunk => pb::delay::Moment::PerChunk,
    };
    pb::Delay { amount: fixed.or(uniform).or(normal).or(pareto), moment: moment.into() }
}

fn abort(value: &action::Abort) -> pb::Abort {
    use pb::abort::How;
    let status = value.http_status.map(|status| How::HttpStatus(status.into()));
    let grpc = value
        .grpc
        .as_ref()
        .map(|grpc| How::Grpc(pb::abort::Grpc { status: grpc.status.into(), message: grpc.message.clone() }));
    let reset = value.reset.map(|_| How::Reset(pb::abort::Reset {}));
    let stream = value.stream_code.map(|code| How::Stream(pb::abort::Stream { code }));
    let go_away = value.go_away_code.map(|code| How::GoAway(pb::abort::GoAway { code }));
    let close = value.close.map(|_| How::Close(pb::abort::Close {}));
    pb::Abort { how: status.or(grpc).or(reset).or(stream).or(go_away).or(close) }
}

//! Which routes hold for which port of which service, and for whom: the rules of Gateway API for meshes (GEP-1426).
//!
//! A route in its service's namespace holds for everybody, one in another namespace for the clients of that namespace
//! only, and for those it takes the place of the former. On one port, `GRPCRoute` goes before `HTTPRoute` before
//! `TCPRoute`; what loses is in conflict.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::model::{MeshService, Protocol};
use super::status::{ConditionKind, Statuses};
use crate::object::gateway::{GrpcRoute, ParentRef, TcpRoute};
use crate::object::http_route::HttpRoute;
use crate::object::{Key, Metadata, Object, ObjectKind, Objects};

/// For whom a route holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    /// Everybody.
    Producer,
    /// Clients of this namespace.
    Consumer(Arc<str>),
}

/// The routes of a port, the one with precedence first.
#[derive(Clone, Debug)]
pub(super) enum Attached {
    Http(Vec<Arc<Object<HttpRoute>>>),
    Grpc(Vec<Arc<Object<GrpcRoute>>>),
    Tcp(Arc<Object<TcpRoute>>),
}

/// By service, port and scope.
pub(super) type Attachments = BTreeMap<Key, BTreeMap<(u16, Scope), Attached>>;

/// What wants to be attached to a port.
#[derive(Default)]
struct Candidates {
    http: Vec<(String, Arc<Object<HttpRoute>>)>,
    grpc: Vec<(String, Arc<Object<GrpcRoute>>)>,
    tcp: Vec<(String, Arc<Object<TcpRoute>>)>,
}

type Services = BTreeMap<Key, Arc<MeshService>>;

/// Attaches all routes, and says in their statuses where that was not possible.
pub(super) fn attach(objects: &Objects, services: &Services, statuses: &mut Statuses) -> Attachments {
    let mut candidates: BTreeMap<(Key, u16, Scope), Candidates> = BTreeMap::new();
    for route in objects.http_routes.values() {
        for (place, parent) in places(&route.key, &route.spec.parent_refs, services, statuses, true) {
            candidates.entry(place).or_default().http.push((parent, Arc::clone(route)));
        }
    }
    for route in objects.grpc_routes.values() {
        for (place, parent) in places(&route.key, &route.spec.parent_refs, services, statuses, true) {
            candidates.entry(place).or_default().grpc.push((parent, Arc::clone(route)));
        }
    }
    for route in objects.tcp_routes.values() {
        for (place, parent) in places(&route.key, &route.spec.parent_refs, services, statuses, false) {
            candidates.entry(place).or_default().tcp.push((parent, Arc::clone(route)));
        }
    }
    let mut attachments = Attachments::new();
    for ((service, port, scope), found) in candidates {
        if let Some(attached) = found.decide(port, statuses) {
            attachments.entry(service).or_default().insert((port, scope), attached);
        }
    }
    attachments
}

impl Candidates {
    fn decide(mut self, port: u16, statuses: &mut Statuses) -> Option<Attached> {
        let mut lose = |key: &Key, parent: &str, winner: &Key| {
            let message = format!("{winner} is attached to port {port} and goes before it");
            statuses.refuse((key, parent), ConditionKind::Accepted, "Conflicted", &message);
        };
        self.http.sort_by(|(_, left), (_, right)| age(&left.meta).cmp(&age(&right.meta)));
        self.grpc.sort_by(|(_, left), (_, right)| age(&left.meta).cmp(&age(&right.meta)));
        self.tcp.sort_by(|(_, left), (_, right)| age(&left.meta).cmp(&age(&right.meta)));
        if let Some((_, winner)) = self.grpc.first() {
            self.http.iter().for_each(|(parent, route)| lose(&route.key, parent, &winner.key));
            self.tcp.iter().for_each(|(parent, route)| lose(&route.key, parent, &winner.key));
            return Some(Attached::Grpc(self.grpc.into_iter().map(|(_, route)| route).collect()));
        }
        if let Some((_, winner)) = self.http.first() {
            self.tcp.iter().for_each(|(parent, route)| lose(&route.key, parent, &winner.key));
            return Some(Attached::Http(self.http.into_iter().map(|(_, route)| route).collect()));
        }
        let mut all = self.tcp.into_iter();
        let (_, winner) = all.next()?;
        all.for_each(|(parent, route)| lose(&route.key, &parent, &winner.key));
        Some(Attached::Tcp(winner))
    }
}

/// What decides between objects that are otherwise equal: the older one, then the one whose name comes first. Objects
/// of files have no age and come after those that have one.
pub(super) fn age(meta: &Metadata) -> (&str, &str, &str) {
    (meta.creation_timestamp.as_deref().unwrap_or("~"), &meta.namespace, &meta.name)
}

/// Why the first of two [`age`]s goes before the second, in words.
pub(super) fn why(winner: (&str, &str, &str), loser: (&str, &str, &str)) -> &'static str {
    if winner.0 == loser.0 { "comes first by name" } else { "is older" }
}

/// The ports that a route asks for, and what its parent is called in its status.
fn places(
    route: &Key,
    parents: &[ParentRef],
    services: &Services,
    statuses: &mut Statuses,
    is_http: bool,
) -> Vec<((Key, u16, Scope), String)> {
    let mut places = Vec::new();
    for parent in parents {
        // Gateways and their kind are somebody else's business, and so is what is said about them.
        if !(parent.group.is_empty() && parent.kind == "Service") {
            continue;
        }
        let namespace = parent.namespace.as_deref().unwrap_or(&route.namespace);
        let key = Key::new(ObjectKind::Service, namespace, &parent.name);
        let shown = match parent.port {
            Some(port) => format!("{key}:{port}"),
            None => key.to_string(),
        };
        let mut refuse = |reason, message: &str| {
            statuses.refuse((route, &shown), ConditionKind::Accepted, reason, message);
        };
        let Some(service) = services.get(&key) else {
            refuse("NoMatchingParent", &format!("there is no {key}"));
            continue;
        };
        let scope = if namespace == &*route.namespace {
            Scope::Producer
        } else {
            Scope::Consumer(Arc::clone(&route.namespace))
        };
        let wanted = |number: u16, name: &str| {
            parent.port.is_none_or(|port| port == number)
                && parent.section_name.as_deref().is_none_or(|section| section == name)
        };
        let named = parent.port.is_some() || parent.section_name.is_some();
        let matching: Vec<_> = service.ports.iter().filter(|port| wanted(port.number, &port.name)).collect();
        let fitting = matching.iter().filter(|port| !(is_http && port.protocol == Protocol::Tcp));
        let found: Vec<_> =
            fitting.map(|port| ((key.clone(), port.number, scope.clone()), shown.clone())).collect();
        if matching.is_empty() {
            let which = if named { "such a port" } else { "ports" };
            refuse("NoMatchingParent", &format!("{key} does not have {which}"));
        } else if found.is_empty() {
            let message = format!("{key} says that the port is opaque; set its appProtocol to http or grpc");
            refuse("UnsupportedProtocol", &message);
        } else {
            statuses.accept(route, &shown);
        }
        places.extend(found);
    }
    places
}

//! The probes of an application that only its own mesh may speak to.
//!
//! The kubelet has no identity of the mesh, so its probes are led through listeners of the sidecar that answer nothing
//! else: one path for each HTTP probe, one method for gRPC, and a health check of the sidecar's own for a port
//! that need only be open. What the application answers is what the kubelet sees.

use std::collections::BTreeSet;

use outrider_proto::Fault;
use serde_json::{Map, Value, json};

use super::names::{GRPC_PROBE_PORT, READY_PORT};
use super::tuning::Ports;

/// Where HTTP probes are found on the readiness port.
pub(super) const PREFIX: &str = "/app-health/";
/// Most different ports with gRPC probes.
const MAX_GRPC_PORTS: usize = 16;
/// The fields of a container that hold probes, and what they are called in paths.
const KINDS: [(&str, &str); 3] =
    [("livenessProbe", "livez"), ("readinessProbe", "readyz"), ("startupProbe", "startupz")];
/// The handlers of a container's `lifecycle` that the kubelet calls over the network.
const HOOKS: [(&str, &str); 2] = [("postStart", "poststart"), ("preStop", "prestop")];
/// What a probe may take when it does not say.
const TIMEOUT_S: u64 = 1;
/// How often a probe comes when it does not say.
const PERIOD_S: u64 = 10;

/// What the sidecar has to answer for the application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Probes {
    /// Over HTTP.
    pub(super) http: Vec<HttpProbe>,
    /// By a connection.
    pub(super) tcp: Vec<TcpProbe>,
    /// By gRPC.
    pub(super) grpc: Vec<GrpcProbe>,
    /// What is not looked at as closely as before.
    pub(super) warnings: Vec<String>,
}

/// A probe over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HttpProbe {
    /// Where the kubelet asks.
    pub(super) outside: String,
    /// Where the application answers, without a query.
    pub(super) inside: String,
    /// The application's port.
    pub(super) port: u16,
    /// How long it may take, in seconds.
    pub(super) timeout_s: u64,
}

/// Probes by gRPC of one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GrpcProbe {
    /// Where the kubelet asks: [`GRPC_PROBE_PORT`], or one of the next that the application has not. It must not be
    /// redirected.
    pub(super) outside: u16,
    /// The application's port.
    pub(super) port: u16,
}

/// A probe whether a port is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TcpProbe {
    /// Where the kubelet asks.
    pub(super) outside: String,
    /// The application's port.
    pub(super) port: u16,
    /// How long it may take, in seconds.
    pub(super) timeout_s: u64,
    /// How often it is looked.
    pub(super) period_s: u64,
}

impl Probes {
    /// Leads the probes of all containers through the sidecar. What they were is returned, by container and field.
    ///
    /// # Errors
    /// Probes that cannot be led anywhere.
    pub(super) fn redirect(&mut self, spec: &mut Value, skipped: &[Ports]) -> Result<Value, Vec<Fault>> {
        let (mut before, mut faults) = (Map::new(), Vec::new());
        let used = used(spec);
        for list in ["containers", "initContainers"] {
            for (index, container) in
                spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().enumerate()
            {
                let mut found = Map::new();
                let mut at = Container {
                    name: container["name"].as_str().unwrap_or_default().to_owned(),
                    path: format!("spec.{list}[{index}]"),
                    ports: container["ports"].clone(),
                    used: &used,
                    skipped,
                    faults: &mut faults,
                };
                for (place, kind) in places() {
                    let Some(handler) = container.pointer_mut(&place) else { continue };
                    let original = handler_of(handler);
                    if self.one(handler, (&place, kind), &mut at).is_some() {
                        found.insert(place, original);
                    }
                }
                if !found.is_empty() {
                    before.insert(at.name, found.into());
                }
            }
        }
        if self.grpc.len() > MAX_GRPC_PORTS {
            faults.push(Fault::new(
                "spec.containers",
                format!("gRPC probes on more than {MAX_GRPC_PORTS} ports"),
            ));
        }
        if faults.is_empty() { Ok(before.into()) } else { Err(faults) }
    }

    /// `None` when the probe stays as it is.
    fn one(
        &mut self,
        handler: &mut Value,
        (place, kind): (&str, &str),
        at: &mut Container<'_>,
    ) -> Option<()> {
        let is_probe = place.ends_with("Probe");
        let seconds = |name: &str, usual| handler[name].as_u64().unwrap_or(usual).max(1);
        let (timeout_s, period_s) =
            (seconds("timeoutSeconds", TIMEOUT_S), seconds("periodSeconds", PERIOD_S));
        let outside = format!("{PREFIX}{}/{kind}", at.name);
        if let Some(http) = handler.get_mut("httpGet") {
            if http["host"].as_str().is_some_and(|host| !host.is_empty()) {
                return None;
            }
            let port = at.port(&http["port"], place)?;
            let (inside, query) = at.path(http["path"].as_str().unwrap_or_default(), place)?;
            let http = http.as_object_mut()?;
            if http.remove("scheme").is_some_and(|scheme| scheme == "HTTPS") {
                return self.https(handler, (place, outside), (port, timeout_s, period_s), at);
            }
            http.insert("path".to_owned(), format!("{outside}{query}").into());
            http.insert("port".to_owned(), READY_PORT.into());
            self.http.push(HttpProbe { outside, inside, port, timeout_s });
        } else if let (Some(tcp), true) = (handler.get("tcpSocket"), is_probe) {
            if tcp["host"].as_str().is_some_and(|host| !host.is_empty()) {
                return None;
            }
            let port = at.port(&tcp["port"], place)?;
            self.tcp.push(TcpProbe { outside: outside.clone(), port, timeout_s, period_s });
            let handler = handler.as_object_mut()?;
            handler.remove("tcpSocket");
            handler.insert("httpGet".to_owned(), json!({"path": outside, "port": READY_PORT}));
        } else if let (Some(grpc), true) = (handler.get_mut("grpc"), is_probe) {
            let port = at.port(&grpc["port"], place)?;
            let known = self.grpc.iter().find(|known| known.port == port).copied();
            let probe = known.or_else(|| {
                let taken = |one: &u16| self.grpc.iter().any(|probe| probe.outside == *one);
                let outside = (GRPC_PROBE_PORT..).find(|one| !at.used.contains(one) && !taken(one))?;
                self.grpc.push(GrpcProbe { outside, port });
                self.grpc.last().copied()
            })?;
            grpc.as_object_mut()?.insert("port".to_owned(), probe.outside.into());
        } else {
            return None;
        }
        Some(())
    }

    /// The kubelet does not verify whom it asks over TLS. The sidecar never speaks to a server that could be anybody, so
    /// what is left of such a probe is whether the port is open.
    fn https(
        &mut self,
        handler: &mut Value,
        (place, outside): (&str, String),
        (port, timeout_s, period_s): (u16, u64, u64),
        at: &mut Container<'_>,
    ) -> Option<()> {
        if !place.ends_with("Probe") {
            let reason =
                "over HTTPS it cannot be led through the sidecar; use HTTP, exec, or skip-inbound-ports";
            at.fault(place, reason.to_owned());
            return None;
        }
        self.warnings.push(format!(
            "{}{}: over HTTPS only looks whether port {port} is open; use HTTP, gRPC or exec to see more",
            at.path,
            place.replace('/', ".")
        ));
        let handler = handler.as_object_mut()?;
        handler.insert("httpGet".to_owned(), json!({"path": outside, "port": READY_PORT}));
        self.tcp.push(TcpProbe { outside, port, timeout_s, period_s });
        Some(())
    }
}

/// The ports that the application says it has, or has probes of.
fn used(spec: &Value) -> BTreeSet<u16> {
    let lists = ["containers", "initContainers"].map(|list| spec[list].as_array());
    let containers = lists.into_iter().flatten().flatten();
    let each = containers.flat_map(|container| {
        let ports = container["ports"].as_array().into_iter().flatten();
        let probes = KINDS.iter().map(|(field, _)| &container[*field]["grpc"]["port"]);
        ports.map(|port| &port["containerPort"]).chain(probes)
    });
    each.filter_map(Value::as_u64).filter_map(|port| u16::try_from(port).ok()).collect()
}

/// Where probes stand in a container, as JSON pointers.
fn places() -> impl Iterator<Item = (String, &'static str)> {
    let probes = KINDS.into_iter().map(|(field, kind)| (format!("/{field}"), kind));
    probes.chain(HOOKS.into_iter().map(|(field, kind)| (format!("/lifecycle/{field}"), kind)))
}

/// The part of a probe that says what is asked.
fn handler_of(probe: &Value) -> Value {
    let known = ["httpGet", "tcpSocket", "grpc"];
    let found = known.iter().filter_map(|name| Some(((*name).to_owned(), probe.get(name)?.clone())));
    Value::Object(found.collect())
}

/// Puts the handlers back that [`Probes::redirect`] has taken; those that are not ours any more stay.
pub(super) fn restore(spec: &mut Value, before: &Value) {
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default();
            let Some(found) = before[name].as_object() else { continue };
            for (place, original) in found {
                let Some(probe) = container.pointer_mut(place).filter(|probe| is_redirected(probe)) else {
                    continue;
                };
                let Some(probe) = probe.as_object_mut() else { continue };
                probe.remove("httpGet");
                probe.remove("grpc");
                probe.extend(
                    original
                        .as_object()
                        .into_iter()
                        .flatten()
                        .map(|(key, value)| (key.clone(), value.clone())),
                );
            }
        }
    }
}

fn is_redirected(probe: &Value) -> bool {
    let http = &probe["httpGet"];
    let by_path =
        http["port"] == READY_PORT && http["path"].as_str().is_some_and(|path| path.starts_with(PREFIX));
    by_path || probe["grpc"]["port"].as_u64().is_some_and(|port| port >= GRPC_PROBE_PORT.into())
}

/// The container whose probes are looked at.
struct Container<'a> {
    name: String,
    path: String,
    ports: Value,
    /// The application's ports.
    used: &'a BTreeSet<u16>,
    skipped: &'a [Ports],
    faults: &'a mut Vec<Fault>,
}

impl Container<'_> {
    fn fault(&mut self, place: &str, reason: String) {
        self.faults.push(Fault::new(format!("{}{}", self.path, place.replace('/', ".")), reason));
    }

    /// The number of a port; `None` also if it is reached past the sidecar.
    fn port(&mut self, port: &Value, place: &str) -> Option<u16> {
        let named = || {
            let ports = self.ports.as_array().into_iter().flatten();
            let name = port.as_str()?;
            ports
                .filter(|one| one["name"] == name)
                .find_map(|one| one["containerPort"].as_u64())
                .or(name.parse().ok())
        };
        let number = port.as_u64().or_else(named).and_then(|number| u16::try_from(number).ok());
        match number.filter(|number| *number > 0) {
            Some(number) => {
                let past = self.skipped.iter().any(|ports| (ports.first..=ports.last).contains(&number));
                (!past).then_some(number)
            }
            None => {
                self.fault(
                    place,
                    format!("port {port} is neither a number nor the name of a port of the container"),
                );
                None
            }
        }
    }

    /// Path and query; the query has its question mark.
    fn path(&mut self, text: &str, place: &str) -> Option<(String, String)> {
        let (path, query) = text.find('?').and_then(|at| text.split_at_checked(at)).unwrap_or((text, ""));
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&byte);
        if path.bytes().all(allowed) {
            let slash = if path.starts_with('/') { "" } else { "/" };
            Some((format!("{slash}{path}"), query.to_owned()))
        } else {
            self.fault(
                place,
                format!("path \"{text}\" holds what must be escaped in a path (RFC 3986 section 3.3)"),
            );
            None
        }
    }
}

//! Who is connected, and what each was told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::StatusCode;
use outrider_proto::envoy::config::cluster::v3::Cluster;
use outrider_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrider_proto::envoy::config::listener::v3::Listener;
use outrider_proto::envoy::config::route::v3::RouteConfiguration;
use outrider_proto::outrider::destination::v1::Destination;
use outrider_proto::outrider::fault::v1::FaultInjection;
use outrider_proto::outrider::identity::v1::RevocationList;
use prost::{Message, Name};
use serde::Serialize;
use serde_json::Value;

use super::Api;
use super::answer::{Answer, Query};
use crate::digest;
use crate::registry::{KindReport, ProxyReport, ResourceReport, ResourceState};
use crate::snapshot::Kind;

/// All proxies.
#[derive(Debug, Serialize)]
pub(super) struct All {
    proxies: Vec<Proxy>,
}

/// A proxy.
#[derive(Debug, Serialize)]
pub(super) struct Proxy {
    id: Arc<str>,
    namespace: Arc<str>,
    service_account: Arc<str>,
    /// What it has proved.
    identity: Option<String>,
    workload: Arc<str>,
    service: Option<Arc<str>>,
    dialect: &'static str,
    protocol: &'static str,
    connected_unix_s: u64,
    /// Whether it refuses something at present.
    refuses: bool,
    kinds: BTreeMap<&'static str, OfKind>,
}

#[derive(Debug, Serialize)]
struct OfKind {
    wildcard: bool,
    named: usize,
    sent: u64,
    accepted: u64,
    refused: u64,
    last_sent_unix_s: Option<u64>,
    last_accepted_unix_s: Option<u64>,
    last_refused: Option<Refused>,
}

#[derive(Debug, Serialize)]
struct Refused {
    at_unix_s: u64,
    reason: Arc<str>,
}

/// A proxy with its resources.
#[derive(Debug, Serialize)]
pub(super) struct Detail {
    #[serde(flatten)]
    proxy: Proxy,
    /// Of kinds, names and versions of all that it is told. Equal hashes mean equal configuration.
    config_hash: String,
    /// Whether it has accepted all of that.
    settled: bool,
    resources: Vec<Resource>,
}

#[derive(Debug, Serialize)]
struct Resource {
    kind: &'static str,
    name: Arc<str>,
    version: Option<Arc<str>>,
    origin: Option<Arc<str>>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Arc<str>>,
}

/// Resources in full.
#[derive(Debug, Serialize)]
pub(super) struct Config {
    id: Arc<str>,
    namespace: Arc<str>,
    resources: Vec<Value>,
}

pub(super) fn all(api: &Api) -> All {
    All { proxies: api.registry.proxies().iter().map(Proxy::new).collect() }
}

/// One proxy; of several with the same id, the one of `?namespace=` and `?service_account=`. `?kind=` leaves out others.
pub(super) fn one(api: &Api, id: &str, query: &Query) -> Answer {
    let kind = match kind(query) {
        Ok(kind) => kind,
        Err(refused) => return refused,
    };
    match find(api, id, query) {
        Ok(found) => Answer::json(&detail(found, kind)),
        Err(refused) => refused,
    }
}

fn detail((report, resources): (ProxyReport, Vec<ResourceReport>), kind: Option<Kind>) -> Detail {
    let settled = resources.iter().all(|one| one.state == ResourceState::Accepted);
    let config_hash = hash(&resources);
    let shown = resources.iter().filter(|one| kind.is_none_or(|kind| kind == one.kind));
    let resources = shown.map(Resource::new).collect();
    Detail { proxy: Proxy::new(&report), config_hash, settled, resources }
}

/// The resources of one proxy as JSON; those of one kind with `?kind=`, one with `?name=`.
pub(super) fn config(api: &Api, id: &str, query: &Query) -> Answer {
    let kind = match kind(query) {
        Ok(kind) => kind,
        Err(refused) => return refused,
    };
    let wanted = query.parameter("name");
    let (report, resources) = match find(api, id, query) {
        Ok(found) => found,
        Err(refused) => return refused,
    };
    let shown = resources.iter().filter(|one| {
        kind.is_none_or(|kind| kind == one.kind) && wanted.is_none_or(|name| name == &*one.name)
    });
    let resources = shown.filter_map(body).collect();
    let info = &report.info;
    Answer::json(&Config { id: Arc::clone(&info.id), namespace: Arc::clone(&info.namespace), resources })
}

/// The kind that is asked for, by its name or by the plural of it; one that there is not is told apart from one of which
/// there are no resources.
fn kind(query: &Query) -> Result<Option<Kind>, Answer> {
    let Some(said) = query.parameter("kind") else { return Ok(None) };
    let is_it = |kind: &Kind| {
        let name = name(*kind);
        said == name || said.strip_suffix('s') == Some(name) || name.strip_suffix('s') == Some(said)
    };
    let found = Kind::ALL.into_iter().find(is_it).map(Some);
    found.ok_or_else(|| {
        let names = Kind::ALL.map(name).join(", ");
        Answer::text(StatusCode::BAD_REQUEST, format!("kind: there is no `{said}`; there are {names}\n"))
    })
}

/// The one that is meant. Which of several that call themselves alike that is, only who asks can say.
fn find(api: &Api, id: &str, query: &Query) -> Result<(ProxyReport, Vec<ResourceReport>), Answer> {
    let is_it = |field: &str, own: &str| query.parameter(field).is_none_or(|wanted| wanted == own);
    let mut all = api.registry.resources(id);
    all.retain(|(report, _)| {
        is_it("namespace", &report.info.namespace) && is_it("service_account", &report.info.service_account)
    });
    if all.len() > 1 {
        let who = all
            .iter()
            .map(|(report, _)| format!("{}/{}", report.info.namespace, report.info.service_account));
        let who = who.collect::<Vec<_>>().join(", ");
        let reason = format!(
            "several proxies are called `{id}`; which one, by namespace and service_account? {who}\n"
        );
        return Err(Answer::text(StatusCode::CONFLICT, reason));
    }
    all.pop().ok_or_else(|| Answer::found(None::<()>, ("proxy", id, "`outrider proxies`")))
}

fn hash(resources: &[ResourceReport]) -> String {
    let mut text = String::new();
    for one in resources {
        let version = one.resource.as_ref().map_or("", |resource| &*resource.version);
        for part in [name(one.kind), &*one.name, version] {
            text.push_str(part);
            text.push('\n');
        }
    }
    digest::short(text.as_bytes())
}

fn body(one: &ResourceReport) -> Option<Value> {
    let resource = one.resource.as_ref()?;
    let body = &resource.body;
    let json = match one.kind {
        Kind::Cluster => json::<Cluster>(body),
        Kind::Endpoints => json::<ClusterLoadAssignment>(body),
        Kind::Listener => json::<Listener>(body),
        Kind::Route => json::<RouteConfiguration>(body),
        Kind::Faults => json::<FaultInjection>(body),
        Kind::Destination => json::<Destination>(body),
        Kind::Revocations => json::<RevocationList>(body),
        // There may be private keys in it.
        Kind::Secret => Value::String("[not shown]".to_owned()),
    };
    let (kind, version) = (name(one.kind), &resource.version);
    Some(serde_json::json!({"kind": kind, "name": one.name, "version": version, "resource": json}))
}

fn json<M: Message + Name + Default>(body: &bytes::Bytes) -> Value {
    let message = M::decode(body.clone()).map_err(|error| error.to_string());
    let json = message
        .and_then(|message| outrider_proto::json::to_json(&message).map_err(|fault| fault.to_string()));
    json.unwrap_or_else(|error| Value::String(format!("[cannot be shown: {error}]")))
}

/// A kind's name in the API.
fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Cluster => "cluster",
        Kind::Endpoints => "endpoints",
        Kind::Listener => "listener",
        Kind::Route => "route",
        Kind::Faults => "faults",
        Kind::Destination => "destination",
        Kind::Revocations => "revocations",
        Kind::Secret => "secret",
    }
}

fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Proxy {
    fn new(report: &ProxyReport) -> Self {
        let info = &report.info;
        let kinds = report.kinds.iter().map(|(kind, one)| (name(*kind), OfKind::new(one))).collect();
        Self {
            id: Arc::clone(&info.id),
            namespace: Arc::clone(&info.namespace),
            service_account: Arc::clone(&info.service_account),
            identity: info.identity.as_ref().map(ToString::to_string),
            workload: Arc::clone(&info.workload),
            service: info.service.clone(),
            dialect: info.dialect.name(),
            protocol: report.protocol,
            connected_unix_s: unix_s(report.connected),
            refuses: report.kinds.values().any(|kind| kind.last_refused.is_some()),
            kinds,
        }
    }
}

impl OfKind {
    fn new(report: &KindReport) -> Self {
        let (sent, accepted, refused) = report.responses;
        Self {
            wildcard: report.wildcard,
            named: report.named,
            sent,
            accepted,
            refused,
            last_sent_unix_s: report.last_sent.as_ref().map(|stamp| unix_s(stamp.at)),
            last_accepted_unix_s: report.last_accepted.as_ref().map(|stamp| unix_s(stamp.at)),
            last_refused: report.last_refused.as_ref().map(|refusal| Refused {
                at_unix_s: unix_s(refusal.at),
                reason: Arc::clone(&refusal.detail),
            }),
        }
    }
}

impl Resource {
    fn new(report: &ResourceReport) -> Self {
        let (state, reason) = match &report.state {
            ResourceState::Missing => ("missing", None),
            ResourceState::Sent => ("sent", None),
            ResourceState::Accepted => ("accepted", None),
            ResourceState::Lapsed(reason) => ("lapsed", Some(Arc::clone(reason))),
            ResourceState::Refused(reason) => ("refused", Some(Arc::clone(reason))),
        };
        Self {
            kind: name(report.kind),
            name: Arc::clone(&report.name),
            version: report.resource.as_ref().map(|resource| Arc::clone(&resource.version)),
            origin: report.resource.as_ref().map(|resource| Arc::clone(resource.origin.first())),
            state,
            reason,
        }
    }
}

//! A resource as it came over the wire, decoded strictly and compiled.

use outrider_proto::envoy::service::discovery::v3 as pb;
use outrider_proto::{Fault, strict, type_url};

use crate::control::store::{Kind, Resource};
use crate::model::destination::Destination;
use crate::model::tls::Secret;
use crate::model::{Cluster, EndpointSet, Listener, RouteTable};

/// Longest name of a resource, in bytes.
const MAX_NAME_BYTES: usize = 1024;

/// The type URL of a kind.
#[must_use]
pub const fn url(kind: Kind) -> &'static str {
    match kind {
        Kind::Cluster => type_url::CLUSTER,
        Kind::Endpoints => type_url::ENDPOINTS,
        Kind::Listener => type_url::LISTENER,
        Kind::Routes => type_url::ROUTE,
        Kind::Secret => type_url::SECRET,
        Kind::Revocations => type_url::REVOCATIONS,
        Kind::Faults => type_url::FAULTS,
        Kind::Destination => type_url::DESTINATIONS,
    }
}

/// The kind of a type URL, if it is one of ours.
#[must_use]
pub fn kind(url_text: &str) -> Option<Kind> {
    super::session::KINDS.into_iter().find(|kind| url(*kind) == url_text)
}

/// Decodes and compiles a resource of this kind.
///
/// # Errors
/// All faults, with the paths of the fields.
pub fn resource(kind: Kind, wrapped: &pb::Resource) -> Result<Resource, Vec<Fault>> {
    let one = |path: &str, reason: String| vec![Fault::new(path, reason)];
    let Some(any) = &wrapped.resource else {
        return Err(one("resource", "missing".into()));
    };
    if any.type_url != url(kind) {
        return Err(one("resource", format!("is a \"{}\", not a \"{}\"", any.type_url, url(kind))));
    }
    if wrapped.name.is_empty() {
        return Err(one("name", "missing".into()));
    }
    if wrapped.name.len() > MAX_NAME_BYTES {
        return Err(one("name", format!("longer than {MAX_NAME_BYTES} bytes")));
    }
    let bytes = any.value.as_slice();
    let (resource, name) = match kind {
        Kind::Cluster => {
            let message: outrider_proto::envoy::config::cluster::v3::Cluster = strict::decode(bytes)?;
            let name = message.name.clone();
            Cluster::from_proto(&message).map(|compiled| (Resource::Cluster(message, compiled), name))?
        }
        Kind::Endpoints => {
            let message: outrider_proto::envoy::config::endpoint::v3::ClusterLoadAssignment =
                strict::decode(bytes)?;
            let name = message.cluster_name.clone();
            EndpointSet::from_proto(&message)
                .map(|compiled| (Resource::Endpoints(message, compiled), name))?
        }
        Kind::Listener => {
            let message: outrider_proto::envoy::config::listener::v3::Listener = strict::decode(bytes)?;
            let name = message.name.clone();
            Listener::from_proto(&message).map(|compiled| (Resource::Listener(message, compiled), name))?
        }
        Kind::Routes => {
            let message: outrider_proto::envoy::config::route::v3::RouteConfiguration =
                strict::decode(bytes)?;
            let name = message.name.clone();
            RouteTable::from_proto(&message).map(|compiled| (Resource::Routes(message, compiled), name))?
        }
        Kind::Secret => {
            let message: outrider_proto::envoy::extensions::transport_sockets::tls::v3::Secret =
                strict::decode(bytes)?;
            let name = message.name.clone();
            Secret::from_proto(&message).map(|compiled| (Resource::Secret(message, compiled), name))?
        }
        Kind::Revocations => {
            let message: outrider_proto::outrider::identity::v1::RevocationList = strict::decode(bytes)?;
            let name = message.name.clone();
            crate::model::revocation::compile(&message)
                .map(|compiled| (Resource::Revocations(message, compiled), name))?
        }
        Kind::Faults => {
            let message: outrider_proto::outrider::fault::v1::FaultInjection = strict::decode(bytes)?;
            let name = message.name.clone();
            crate::model::injection::compile(&message)
                .map(|compiled| (Resource::Faults(message, compiled), name))?
        }
        Kind::Destination => {
            let message: outrider_proto::outrider::destination::v1::Destination = strict::decode(bytes)?;
            let name = message.name.clone();
            Destination::from_proto(message.clone())
                .map(|compiled| (Resource::Destination(message, compiled), name))?
        }
    };
    if name != wrapped.name {
        return Err(one("name", format!("\"{name}\" inside a resource named \"{}\"", wrapped.name)));
    }
    Ok(resource)
}

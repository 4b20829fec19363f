//! What our proxy is told on demand: a resource for each destination of the mesh, and a listener that asks for them.

use std::net::SocketAddr;

use outrider_proto::envoy::config::listener::v3::FilterChain;
use outrider_proto::outrider::destination::v1::Destination;
use prost::Message as _;

use super::egress::{self, Egress};
use super::view::{All, Outbound, Redirected, origin, without_chains};
use super::{chain, wire};
use crate::snapshot::{Origin, Resources};

/// The destinations of all services but the Kubernetes API, which is not for everybody. Where several services have one
/// destination, the first has it.
pub(super) fn all(services: &All, namespace: Option<&str>) -> Resources {
    let mut all = Resources::new();
    for (key, compiled) in services.iter().filter(|(key, _)| !egress::is_api(key)) {
        let origin = Origin::of(key);
        for chain in &compiled.calling(namespace).chains {
            let free =
                chain.claims.iter().map(|(address, port)| SocketAddr::new(*address, *port).to_string());
            let free: Vec<String> = free.filter(|name| !all.contains_key(name.as_str())).collect();
            let Ok(decoded) = FilterChain::decode(chain.encoded.clone()) else { continue };
            // Who asks for a destination knows where it is.
            let decoded = FilterChain { filter_chain_match: None, ..decoded };
            for name in free {
                let resource =
                    Destination { name: name.clone(), filter_chains: vec![decoded.clone()] }.encode_to_vec();
                all.insert(name.into(), wire::unchecked(resource, &origin));
            }
        }
    }
    all
}

/// The listener, with the chains of what is no destination of the mesh: what a policy opens.
pub(super) fn listener(
    (services, namespace): (&All, Option<&str>),
    egress: Option<&Egress>,
    redirected: Redirected,
) -> Option<Outbound> {
    let (name, mut listener) = without_chains(egress, redirected);
    listener.listener_filters.push(chain::on_demand());
    let mut taken = std::collections::BTreeSet::new();
    if let Some(egress) = egress {
        if egress.opens_api() {
            let apis = services.iter().filter(|(key, _)| egress::is_api(key));
            for chain in apis.flat_map(|(_, compiled)| &compiled.calling(namespace).chains) {
                if let (false, Ok(mut decoded)) =
                    (chain.claims.is_empty(), FilterChain::decode(chain.encoded.clone()))
                {
                    taken.extend(chain.claims.iter().map(|(address, port)| (*port, *address)));
                    egress.open_api(&mut decoded);
                    listener.filter_chains.push(decoded);
                }
            }
        }
        listener.filter_chains.extend(egress.chains(&taken));
    }
    Some((name, wire::unchecked(listener.encode_to_vec(), &origin(egress))))
}

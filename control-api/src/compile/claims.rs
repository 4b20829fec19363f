//! Which destinations mean which port of which service, decided for the whole mesh at once: nobody gets the connections
//! of another's service by naming its address.
//!
//! The cluster address of a service goes before everything. What a headless service says of its endpoints counts only
//! where a pod or a workload of its own namespace has the address, and where several do, the surest goes first. Who loses
//! an address loses that address only.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::attach::{age, why};
use super::model::MeshService;
use super::status::{ConditionKind, Statuses};
use crate::object::{Key, Objects};

/// Most destinations of headless services in the whole mesh: a proxy holds all of them. Of more, the services with the
/// most lose first.
const MAX_DIRECT: usize = 50_000;
/// Most lost destinations of a port that are named in its service's conditions; more are counted.
const MAX_NAMED: usize = 3;

/// By service and port.
type ByPort<V> = BTreeMap<(Key, u16), V>;

/// Destinations, sorted.
pub(super) type Held = Arc<[SocketAddr]>;

/// The destinations of all services.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Of headless services.
    direct: ByPort<Held>,
    /// The cluster addresses that others have.
    contested: BTreeSet<(Key, SocketAddr)>,
    lost: ByPort<Lost>,
}

/// The destinations that a port of a service does not get, though it asks for them.
#[derive(Debug, Default)]
struct Lost {
    count: usize,
    named: Vec<String>,
}

/// How sure it is that an address is a namespace's own, the surest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Proof<'a> {
    /// The cluster gave it to a pod.
    Pod,
    /// Somebody wrote it in a `Workload`; the older one goes first.
    Written(Age<'a>),
    /// A workload says it of itself.
    Said(Age<'a>),
}

type Age<'a> = (&'a str, &'a str, &'a str);

/// Who asks for a destination of a headless service: what is least goes first.
type Candidate<'a> = (Proof<'a>, Age<'a>, &'a Key, u16);

impl Claims {
    /// Decides.
    pub(super) fn decide(objects: &Objects, services: &BTreeMap<Key, Arc<MeshService>>) -> Self {
        let mut claims = Self::default();
        let created = |key: &Key| objects.services.get(key).map_or(("~", "", ""), |one| age(&one.meta));
        claims.clusters(services, &created);
        if services.values().any(|service| service.headless) {
            let mut direct = claims.direct(objects, services, &created);
            let most = share(direct.values().map(Vec::len), MAX_DIRECT);
            let why = "the mesh has too many destinations of headless services";
            for ((key, port), all) in &mut direct {
                for lost in all.split_off(most.min(all.len())) {
                    claims.lose((key, *port), lost, why);
                }
            }
            let direct = direct.into_iter().map(|((key, port), all)| ((key.clone(), port), all.into()));
            claims.direct = direct.collect();
        }
        claims
    }

    /// The destinations that mean this port.
    pub(super) fn of(&self, service: &MeshService, port: u16) -> Held {
        if service.headless {
            return self.direct.get(&(service.key.clone(), port)).cloned().unwrap_or_default();
        }
        let all = service.addresses.iter().map(|address| SocketAddr::new(*address, port));
        let is_own = |one: &SocketAddr| {
            self.contested.is_empty() || !self.contested.contains(&(service.key.clone(), *one))
        };
        all.filter(is_own).collect()
    }

    /// Says what was lost.
    pub(super) fn report(&self, statuses: &mut Statuses) {
        for ((key, port), lost) in &self.lost {
            let more = match lost.count.saturating_sub(lost.named.len()) {
                0 => String::new(),
                more => format!("; and {more} more"),
            };
            let message = format!(
                "port {port} is not what connections to these addresses mean: {}{more}",
                lost.named.join("; ")
            );
            statuses.note(key, ConditionKind::PartiallyInvalid, "AddressesNotOwn", &message);
        }
    }

    /// Cluster addresses: of two services with one, the older has it, and of two of files the one that comes first by name.
    fn clusters<'a>(
        &mut self,
        services: &'a BTreeMap<Key, Arc<MeshService>>,
        created: &dyn Fn(&Key) -> Age<'a>,
    ) {
        let mut all: HashMap<SocketAddr, (&Key, u16)> = HashMap::new();
        for service in services.values().filter(|service| !service.headless) {
            let ports = service.ports.iter().map(|port| port.number);
            let each = ports.flat_map(|port| {
                service.addresses.iter().map(move |address| SocketAddr::new(*address, port))
            });
            for destination in each {
                let asks = (&service.key, destination.port());
                match all.entry(destination) {
                    Entry::Vacant(free) => drop(free.insert(asks)),
                    Entry::Occupied(mut holder) => {
                        let before = *holder.get();
                        let (asking, had) = (created(asks.0), created(before.0));
                        let (winner, loser) = if asking < had {
                            holder.insert(asks);
                            (asks, before)
                        } else {
                            (before, asks)
                        };
                        self.contested.insert((loser.0.clone(), destination));
                        let why = why(asking.min(had), asking.max(had));
                        self.lose(
                            loser,
                            destination,
                            &format!("{} has the address too, and {why}", winner.0),
                        );
                    }
                }
            }
        }
    }

    /// The endpoints of headless services, sorted.
    fn direct<'a>(
        &mut self,
        objects: &'a Objects,
        services: &'a BTreeMap<Key, Arc<MeshService>>,
        created: &dyn Fn(&Key) -> Age<'a>,
    ) -> BTreeMap<(&'a Key, u16), Vec<SocketAddr>> {
        let clusters: HashMap<IpAddr, &Key> =
            services.values().rev().flat_map(|one| one.addresses.iter().map(|ip| (*ip, &one.key))).collect();
        let owners = Owners::new(objects);
        let mut candidates: BTreeMap<SocketAddr, BTreeSet<Candidate<'_>>> = BTreeMap::new();
        for service in services.values().filter(|service| service.headless) {
            for port in &service.ports {
                for endpoint in &port.endpoints {
                    let (asks, destination) = ((&service.key, port.number), endpoint.address);
                    if let Some(holder) = clusters.get(&destination.ip()) {
                        self.lose(asks, destination, &format!("it is the address of {holder}"));
                        continue;
                    }
                    match owners.proof(&service.key.namespace, destination) {
                        Ok(proof) => {
                            let candidate = (proof, created(asks.0), asks.0, asks.1);
                            candidates.entry(destination).or_default().insert(candidate);
                        }
                        Err(why) => self.lose(asks, destination, &why),
                    }
                }
            }
        }
        let mut won: BTreeMap<(&Key, u16), Vec<SocketAddr>> = BTreeMap::new();
        for (destination, candidates) in candidates {
            let mut candidates = candidates.into_iter();
            let Some((_, _, winner, number)) = candidates.next() else { continue };
            won.entry((winner, number)).or_default().push(destination);
            for (_, _, loser, port) in candidates {
                self.lose((loser, port), destination, &format!("port {number} of {winner} has the address"));
            }
        }
        won
    }

    fn lose(&mut self, (key, port): (&Key, u16), destination: SocketAddr, why: &str) {
        let lost = self.lost.entry((key.clone(), port)).or_default();
        lost.count += 1;
        if lost.named.len() < MAX_NAMED {
            lost.named.push(format!("{destination} ({why})"));
        }
    }
}

/// Whose addresses are whose.
struct Owners<'a> {
    /// The namespaces with a pod at an address: one, unless it is a node's.
    pods: HashMap<IpAddr, BTreeSet<&'a str>>,
    /// The surest of the workloads of a namespace at a destination.
    workloads: HashMap<(SocketAddr, &'a str), Proof<'a>>,
}

impl<'a> Owners<'a> {
    fn new(objects: &'a Objects) -> Self {
        let mut pods: HashMap<_, BTreeSet<&str>> = HashMap::new();
        for pod in objects.pods.values() {
            for address in &pod.spec.addresses {
                pods.entry(*address).or_default().insert(&pod.key.namespace);
            }
        }
        let mut workloads: HashMap<_, Proof<'_>> = HashMap::new();
        for workload in objects.workloads.values() {
            let created = age(&workload.meta);
            let proof = if workload.spec.registered { Proof::Said(created) } else { Proof::Written(created) };
            for port in &workload.spec.ports {
                let destination = SocketAddr::new(workload.spec.address, port.port);
                let known = workloads.entry((destination, &*workload.key.namespace)).or_insert(proof);
                *known = proof.min(*known);
            }
        }
        Self { pods, workloads }
    }

    /// Why a namespace may say that a destination is its own.
    fn proof(&self, namespace: &str, destination: SocketAddr) -> Result<Proof<'a>, String> {
        match self.pods.get(&destination.ip()) {
            Some(namespaces) if namespaces.contains(namespace) => Ok(Proof::Pod),
            Some(namespaces) => {
                let one = namespaces.first().copied().unwrap_or_default();
                Err(format!("a pod of namespace {one} has the address"))
            }
            None => self
                .workloads
                .get(&(destination, namespace))
                .copied()
                .ok_or_else(|| format!("no Pod or Workload of namespace {namespace} has the address")),
        }
    }
}

/// The most that each of some may have, so that all of them together have no more than `total`.
fn share(counts: impl Iterator<Item = usize>, total: usize) -> usize {
    let mut counts: Vec<usize> = counts.collect();
    counts.sort_unstable_by_key(|count| Reverse(*count));
    let mut left = total;
    while let Some(least) = counts.pop() {
        let each = left / (counts.len() + 1);
        if least > each {
            return each;
        }
        left -= least;
    }
    usize::MAX
}

#[cfg(test)]
mod tests;

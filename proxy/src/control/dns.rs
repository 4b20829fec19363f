//! Addresses of the names in STRICT_DNS and LOGICAL_DNS clusters, asked for again and again. A failure keeps the last
//! answer.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ProtocolConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::read_system_conf;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::Message;
use crate::model::dns::{DnsFamily, DnsSettings};
use crate::model::endpoint::{Endpoint, EndpointSet, MAX_RACED, NamedEndpoint};

/// How long one look-up may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a name server is waited for before it is asked again, or another one is.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Addresses that are taken for one name.
const MAX_ADDRESSES: usize = 256;

/// The addresses of a cluster's names.
#[derive(Debug)]
pub struct Resolved {
    /// The cluster.
    pub cluster: Arc<str>,
    /// What was looked up. The cluster may have other names by now.
    pub hosts: Arc<[NamedEndpoint]>,
    /// Its endpoints; `None` when they could not be found out.
    pub endpoints: Option<EndpointSet>,
}

/// The look-ups under way, one task for each cluster.
#[derive(Debug)]
pub struct Resolver {
    messages: mpsc::Sender<Message>,
    tasks: HashMap<Arc<str>, (Asked, AbortHandle)>,
}

/// What a task looks up: another list of names, another pace or other addresses are another task.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    hosts: Vec<NamedEndpoint>,
    settings: DnsSettings,
}

impl Resolver {
    /// Nothing to look up.
    #[must_use]
    pub fn new(messages: mpsc::Sender<Message>) -> Self {
        Self { messages, tasks: HashMap::new() }
    }

    /// Looks up the names of these clusters and no others.
    pub fn follow<'a>(
        &mut self,
        clusters: impl Iterator<Item = (&'a Arc<str>, &'a Vec<NamedEndpoint>, &'a DnsSettings)>,
    ) {
        let mut old = std::mem::take(&mut self.tasks);
        for (name, hosts, settings) in clusters {
            let asked = Asked { hosts: hosts.clone(), settings: settings.clone() };
            let task = match old.remove(name) {
                Some((known, task)) if known == asked => task,
                replaced => {
                    if let Some((_, task)) = replaced {
                        task.abort();
                    }
                    let resolving = resolve(Arc::clone(name), asked.clone(), self.messages.clone());
                    tokio::spawn(resolving).abort_handle()
                }
            };
            self.tasks.insert(Arc::clone(name), (asked, task));
        }
        for (_, task) in old.into_values() {
            task.abort();
        }
    }
}

async fn resolve(cluster: Arc<str>, asked: Asked, messages: mpsc::Sender<Message>) {
    let (mut failures, mut first) = (0_u32, None);
    let hosts: Arc<[NamedEndpoint]> = asked.hosts.as_slice().into();
    loop {
        let found = asked.look_up(&cluster, &mut first).await;
        let ttl = found.as_ref().and_then(|found| found.ttl);
        failures = if found.is_some() { 0 } else { failures.saturating_add(1) };
        let endpoints = found.map(|found| EndpointSet { endpoints: found.endpoints });
        let resolved = Resolved { cluster: Arc::clone(&cluster), hosts: Arc::clone(&hosts), endpoints };
        if messages.send(Message::Resolved(resolved)).await.is_err() {
            return;
        }
        sleep(asked.settings.pause(ttl, failures, fastrand::u64(..))).await;
    }
}

/// What names came to.
struct Found {
    endpoints: Vec<Endpoint>,
    /// How long all of it holds; `None` where there are only addresses.
    ttl: Option<Duration>,
}

impl Asked {
    /// Looks up all names; `None` when one of them fails. `first` is the address that a LOGICAL_DNS endpoint had
    /// before, and keeps as long as it is among the answers.
    async fn look_up(&self, cluster: &str, first: &mut Option<SocketAddr>) -> Option<Found> {
        // Built anew, so that a change of the system's settings is followed.
        let resolver = match resolver(&self.settings) {
            Ok(resolver) => resolver,
            Err(error) => {
                tracing::warn!(%cluster, %error, "names cannot be resolved");
                return None;
            }
        };
        let mut all = Found { endpoints: Vec::new(), ttl: None };
        for host in &self.hosts {
            let looking = addresses(&resolver, host, &self.settings);
            let found = match timeout(LOOKUP_TIMEOUT, looking).await {
                Ok(Ok(found)) => found,
                Ok(Err(error)) => {
                    tracing::warn!(%cluster, host = host.host, %error, "name not resolved");
                    return None;
                }
                Err(_) => {
                    tracing::warn!(%cluster, host = host.host, "name not resolved in time");
                    return None;
                }
            };
            let (addresses, ttl) = found;
            all.ttl = [all.ttl, ttl].into_iter().flatten().min();
            if self.settings.one_endpoint {
                let addresses = in_turn(&addresses, *first);
                *first = addresses.first().copied();
                all.endpoints.extend(first.map(|address| {
                    let more = addresses.get(1..).unwrap_or_default().into();
                    Endpoint { more, ..endpoint(host, address) }
                }));
            } else {
                all.endpoints.extend(addresses.into_iter().map(|address| endpoint(host, address)));
            }
        }
        all.endpoints.sort_by_key(|endpoint| endpoint.address);
        all.endpoints.dedup_by_key(|endpoint| endpoint.address);
        Some(all)
    }
}

fn endpoint(host: &NamedEndpoint, address: SocketAddr) -> Endpoint {
    Endpoint {
        address,
        more: Arc::default(),
        hostname: Some(host.host.as_str().into()),
        weight: host.weight,
        health: host.health,
        locality: Arc::clone(&host.locality),
        labels: host.labels.clone(),
        checked: host.checked.clone(),
    }
}

/// A name's addresses, and how long they hold.
async fn addresses(
    resolver: &TokioResolver,
    host: &NamedEndpoint,
    settings: &DnsSettings,
) -> Result<(Vec<SocketAddr>, Option<Duration>), NetError> {
    if let Ok(ip) = host.host.parse::<IpAddr>() {
        return Ok((chosen(vec![SocketAddr::new(ip, host.port)], settings.family), None));
    }
    let dot = if settings.exact && !host.host.ends_with('.') { "." } else { "" };
    let found = resolver.lookup_ip(format!("{}{dot}", host.host)).await?;
    let ttl = found.as_lookup().answers().iter().map(|record| record.ttl).min();
    let addresses = found.iter().map(|ip| SocketAddr::new(ip, host.port)).collect();
    Ok((chosen(addresses, settings.family), ttl.map(|seconds| Duration::from_secs(seconds.into()))))
}

fn resolver(settings: &DnsSettings) -> Result<TokioResolver, NetError> {
    // Without settings of the system there is still its file of hosts.
    let (system, mut options) = read_system_conf().unwrap_or_default();
    let (domain, search, mut servers) = system.into_parts();
    if !settings.servers.is_empty() {
        let named = settings.servers.iter().map(|address| {
            let mut server = NameServerConfig::udp_and_tcp(address.ip());
            server.connections.iter_mut().for_each(|connection| connection.port = address.port());
            server
        });
        servers = named.collect();
    }
    if settings.tcp {
        for server in &mut servers {
            server.connections.retain(|connection| matches!(connection.protocol, ProtocolConfig::Tcp));
        }
    }
    options.timeout = options.timeout.min(SERVER_TIMEOUT);
    // When to ask again is decided here.
    options.cache_size = 0;
    options.ip_strategy = match settings.family {
        DnsFamily::V4Only => LookupIpStrategy::Ipv4Only,
        DnsFamily::V6Only => LookupIpStrategy::Ipv6Only,
        DnsFamily::V4Preferred => LookupIpStrategy::Ipv4thenIpv6,
        DnsFamily::V6Preferred => LookupIpStrategy::Ipv6thenIpv4,
        DnsFamily::All => LookupIpStrategy::Ipv4AndIpv6,
    };
    let config = ResolverConfig::from_parts(domain, search, servers);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build()
}

fn chosen(found: Vec<SocketAddr>, family: DnsFamily) -> Vec<SocketAddr> {
    let (v4, v6): (Vec<SocketAddr>, Vec<SocketAddr>) = found.into_iter().partition(SocketAddr::is_ipv4);
    let mut all = match family {
        DnsFamily::V4Only => v4,
        DnsFamily::V6Only => v6,
        DnsFamily::V4Preferred if v4.is_empty() => v6,
        DnsFamily::V4Preferred => v4,
        DnsFamily::V6Preferred if v6.is_empty() => v4,
        DnsFamily::V6Preferred => v6,
        DnsFamily::All => v4.into_iter().chain(v6).collect(),
    };
    all.truncate(MAX_ADDRESSES);
    all
}

/// The addresses in the order in which connections are tried: the two families in turn, IPv6 first (RFC 8305
/// section 4), and the one that was first before stays so.
fn in_turn(found: &[SocketAddr], first: Option<SocketAddr>) -> Vec<SocketAddr> {
    let mut found = found.to_vec();
    found.sort();
    let (mut v4, mut v6) = (found.iter().filter(|it| it.is_ipv4()), found.iter().filter(|it| it.is_ipv6()));
    let mut all = Vec::new();
    for _ in 0..found.len() {
        all.extend([v6.next(), v4.next()].into_iter().flatten());
    }
    if let Some(place) = all.iter().position(|address: &&SocketAddr| Some(**address) == first) {
        let stays = all.remove(place);
        all.insert(0, stays);
    }
    all.into_iter().copied().take(MAX_RACED).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(family: DnsFamily) -> DnsSettings {
        DnsSettings {
            family,
            refresh: Duration::from_secs(3600),
            respects_ttl: false,
            jitter: Duration::ZERO,
            after_failure: None,
            servers: Vec::new(),
            tcp: false,
            exact: false,
            one_endpoint: false,
        }
    }

    #[test]
    fn families_take_turns() {
        let addresses = |list: &[&str]| -> Vec<SocketAddr> {
            list.iter().map(|address| address.parse().unwrap()).collect()
        };
        let found = addresses(&["10.0.0.2:1", "10.0.0.1:1", "[::3]:1", "10.0.0.3:1"]);
        let expected = addresses(&["[::3]:1", "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]);
        assert_eq!(in_turn(&found, None), expected);
        let stays = addresses(&["10.0.0.2:1", "[::3]:1", "10.0.0.1:1", "10.0.0.3:1"]);
        assert_eq!(in_turn(&found, Some(stays[0])), stays);
        assert_eq!(in_turn(&found, Some("10.9.9.9:1".parse().unwrap())), expected);
        assert!(in_turn(&[], None).is_empty());
    }

    #[tokio::test]
    async fn a_change_of_what_is_asked_is_followed() {
        let (sender, mut messages) = mpsc::channel(8);
        let mut resolver = Resolver::new(sender);
        let name: Arc<str> = "c".into();
        let host = |host: &str| NamedEndpoint {
            host: host.into(),
            port: 80,
            weight: 1,
            health: crate::model::endpoint::Health::Well,
            locality: Arc::default(),
            labels: crate::model::labels::Labels::default(),
            checked: crate::model::endpoint::CheckedAt::default(),
        };
        for (hosts, family, expected) in [
            (vec![host("127.0.0.1")], DnsFamily::V4Only, &["127.0.0.1:80"][..]),
            (vec![host("127.0.0.1")], DnsFamily::V6Only, &[]),
            (vec![host("127.0.0.1"), host("::1")], DnsFamily::All, &["127.0.0.1:80", "[::1]:80"]),
        ] {
            let settings = settings(family);
            resolver.follow([(&name, &hosts, &settings)].into_iter());
            // Once more changes nothing; were it a new task, its answer would come before the next one's.
            resolver.follow([(&name, &hosts, &settings)].into_iter());
            let Some(Message::Resolved(resolved)) = messages.recv().await else { panic!("an answer") };
            let addresses: Vec<String> = resolved
                .endpoints
                .unwrap()
                .endpoints
                .iter()
                .map(|endpoint| endpoint.address.to_string())
                .collect();
            assert_eq!(addresses, expected, "{family:?}");
        }
    }
}

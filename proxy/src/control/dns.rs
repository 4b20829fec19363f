//! Addresses of the names in STRICT_DNS clusters, asked for again and again. A failure keeps the last answer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::Message;
use crate::model::cluster::DnsFamily;
use crate::model::endpoint::{Endpoint, EndpointSet, NamedEndpoint};

/// How long one look-up may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses that are taken for one name.
const MAX_ADDRESSES: usize = 256;

/// The addresses of a cluster's names.
#[derive(Debug)]
pub struct Resolved {
    /// The cluster.
    pub cluster: Arc<str>,
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
    refresh: Duration,
    family: DnsFamily,
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
        clusters: impl Iterator<Item = (&'a Arc<str>, &'a Vec<NamedEndpoint>, Duration, DnsFamily)>,
    ) {
        let mut old = std::mem::take(&mut self.tasks);
        for (name, hosts, refresh, family) in clusters {
            let asked = Asked { hosts: hosts.clone(), refresh, family };
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

async fn resolve(
    cluster: Arc<str>,
    Asked { hosts, refresh, family }: Asked,
    messages: mpsc::Sender<Message>,
) {
    loop {
        let mut endpoints = Vec::new();
        let mut failed = false;
        for host in &hosts {
            match timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((host.host.as_str(), host.port))).await {
                Ok(Ok(found)) => {
                    endpoints.extend(chosen(found.collect(), family).into_iter().map(|address| Endpoint {
                        address,
                        hostname: Some(host.host.as_str().into()),
                        weight: host.weight,
                        health: host.health,
                        locality: Arc::clone(&host.locality),
                        labels: host.labels.clone(),
                        checked: host.checked.clone(),
                    }))
                }
                Ok(Err(error)) => {
                    failed = true;
                    tracing::warn!(%cluster, host = host.host, %error, "name not resolved");
                }
                Err(_) => failed = true,
            }
        }
        endpoints.sort_by_key(|endpoint| endpoint.address);
        endpoints.dedup_by_key(|endpoint| endpoint.address);
        let endpoints = (!failed).then_some(EndpointSet { endpoints });
        let resolved = Resolved { cluster: Arc::clone(&cluster), endpoints };
        if messages.send(Message::Resolved(resolved)).await.is_err() {
            return;
        }
        sleep(refresh).await;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

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
        let hour = Duration::from_secs(3600);
        for (hosts, family, expected) in [
            (vec![host("127.0.0.1")], DnsFamily::V4Only, &["127.0.0.1:80"][..]),
            (vec![host("127.0.0.1")], DnsFamily::V6Only, &[]),
            (vec![host("127.0.0.1"), host("::1")], DnsFamily::All, &["127.0.0.1:80", "[::1]:80"]),
        ] {
            resolver.follow([(&name, &hosts, hour, family)].into_iter());
            // Once more changes nothing; were it a new task, its answer would come before the next one's.
            resolver.follow([(&name, &hosts, hour, family)].into_iter());
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

//! Who calls: identities of the mesh as the labels and addresses that a network knows.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::Labels;
use crate::compile::Settings;
use crate::compile::egress::masked;
use crate::object::Objects;
use crate::object::authorization::{Rule, Source};

/// Labels that differ from pod to pod, or from one rollout to the next.
const PASSING: [&str; 9] = [
    "pod-template-hash",
    "controller-revision-hash",
    "statefulset.kubernetes.io/pod-name",
    "controller-uid",
    "job-name",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
    "batch.kubernetes.io/job-completion-index",
    "apps.kubernetes.io/pod-index",
];
/// The label by which a namespace is known.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Somebody.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Peer {
    /// Whoever can reach it.
    Anybody,
    /// Whoever has an identity of the mesh.
    Mesh,
    /// Workloads of another mesh: nobody of ours.
    Elsewhere,
    /// The pods of the namespaces whose names begin so.
    Prefixed(String),
    /// The pods of a namespace.
    Namespace(String),
    /// The pods of a service account, by namespace and name.
    Account(String, String),
    /// An address, or many: who calls from outside.
    Block(String),
}

/// All who call.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers(BTreeSet<Peer>);

impl Peers {
    pub(super) fn add(&mut self, peer: Peer) {
        self.0.insert(peer);
    }

    /// Whom a rule lets in; without `from` that is anybody.
    pub(super) fn of_rule(&mut self, rule: &Rule, settings: &Settings) {
        if rule.from.is_empty() {
            self.add(Peer::Anybody);
        }
        for source in &rule.from {
            self.0.extend(of_source(source, settings));
        }
    }

    /// As the entries of `from`; `None` when it is anybody.
    pub(super) fn rendered(&self, objects: &Objects) -> Option<Vec<Value>> {
        // Workloads outside the cluster may register with addresses that nobody has written down.
        let outside = !objects.workloads.is_empty();
        if self.0.iter().any(|peer| match peer {
            Peer::Anybody | Peer::Elsewhere => true,
            Peer::Mesh | Peer::Prefixed(_) => outside,
            Peer::Namespace(_) | Peer::Account(..) | Peer::Block(_) => false,
        }) {
            return None;
        }
        let every = self.0.iter().any(|peer| matches!(peer, Peer::Mesh | Peer::Prefixed(_)));
        let mut all = Vec::new();
        if every {
            all.push(json!({"namespaceSelector": {}}));
        }
        for peer in &self.0 {
            match peer {
                Peer::Anybody | Peer::Mesh | Peer::Elsewhere | Peer::Prefixed(_) => {}
                // Somebody wider is among them.
                Peer::Namespace(_) | Peer::Account(..) if every => {}
                Peer::Account(namespace, _) if self.0.contains(&Peer::Namespace(namespace.clone())) => {}
                Peer::Namespace(name) => {
                    all.push(json!({"namespaceSelector": named(name)}));
                    all.extend(outsiders(name, None, objects));
                }
                Peer::Account(namespace, name) => {
                    all.extend(kinds(namespace, name, objects).into_iter().map(|kind| kind.peer()));
                    all.extend(outsiders(namespace, Some(name), objects));
                }
                Peer::Block(block) => all.push(json!({"ipBlock": {"cidr": block}})),
            }
        }
        all.dedup();
        Some(all)
    }

    /// The pods among them in the namespaces that are told of: whose way out leads there. An address is nobody of the
    /// mesh, so who is only known by one is not among them.
    pub(super) fn inside(&self, namespaces: &BTreeSet<&str>, objects: &Objects) -> BTreeSet<Pods> {
        let mut found = BTreeSet::new();
        for peer in &self.0 {
            let all = |prefix: &str| {
                let all = namespaces.iter().filter(|name| name.starts_with(prefix)).copied();
                all.map(Pods::of_namespace).collect::<Vec<_>>()
            };
            match peer {
                Peer::Anybody | Peer::Mesh => found.extend(all("")),
                Peer::Prefixed(prefix) => found.extend(all(prefix)),
                Peer::Namespace(name) => found.extend([Pods::of_namespace(name)]),
                Peer::Account(namespace, name) => found.extend(kinds(namespace, name, objects)),
                Peer::Elsewhere | Peer::Block(_) => {}
            }
        }
        found.retain(|pods| namespaces.contains(&*pods.namespace));
        found
    }
}

/// Pods that a network tells apart from others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pods {
    pub(super) namespace: String,
    /// All of the namespace when there are none.
    pub(super) labels: Labels,
    /// The service account, if it is one.
    pub(super) account: Option<String>,
}

impl Pods {
    pub(super) fn of_namespace(name: &str) -> Self {
        Self { namespace: name.to_owned(), labels: Labels::new(), account: None }
    }

    /// As an entry of `from` or `to`.
    pub(super) fn peer(&self) -> Value {
        if self.labels.is_empty() {
            return json!({"namespaceSelector": named(&self.namespace)});
        }
        json!({"namespaceSelector": named(&self.namespace), "podSelector": self.selector()})
    }

    /// As a `podSelector`.
    pub(super) fn selector(&self) -> Value {
        if self.labels.is_empty() { json!({}) } else { json!({"matchLabels": self.labels}) }
    }
}

/// All that a source says must hold, so the part of it that a network knows best is enough; exceptions are left to
/// the sidecar.
fn of_source(source: &Source, settings: &Settings) -> Vec<Peer> {
    if !source.service_accounts.is_empty() {
        let accounts = source.service_accounts.iter().filter_map(|account| account.split_once('/'));
        return accounts
            .map(|(namespace, name)| Peer::Account(namespace.to_owned(), name.to_owned()))
            .collect();
    }
    if !source.identities.is_empty() {
        return source.identities.iter().map(|identity| of_identity(identity, settings)).collect();
    }
    if !source.namespaces.is_empty() {
        return source.namespaces.iter().map(|name| Peer::Namespace(name.clone())).collect();
    }
    if !source.ip_blocks.is_empty() {
        let blocks = source.ip_blocks.iter();
        return blocks
            .map(|block| masked(*block))
            .map(|(ip, bits)| Peer::Block(format!("{ip}/{bits}")))
            .collect();
    }
    vec![Peer::Anybody]
}

fn of_identity(identity: &str, settings: &Settings) -> Peer {
    let own = format!("spiffe://{}/ns/", settings.trust_domain);
    let prefix = identity.strip_suffix('*');
    if prefix.is_some_and(|prefix| own.starts_with(prefix)) {
        return Peer::Anybody;
    }
    // Another trust domain's workloads are in another cluster.
    let Some(rest) = identity.strip_prefix(&own) else { return Peer::Elsewhere };
    match rest.split_once('/') {
        Some((namespace, account)) => match account.strip_prefix("sa/").filter(|name| !name.ends_with('*')) {
            Some(name) => Peer::Account(namespace.to_owned(), name.to_owned()),
            None => Peer::Namespace(namespace.to_owned()),
        },
        // The name of the namespace is not complete.
        None => Peer::Prefixed(rest.trim_end_matches('*').to_owned()),
    }
}

/// The pods of a service account by their labels, as far as they are known; else those of its namespace.
fn kinds(namespace: &str, name: &str, objects: &Objects) -> BTreeSet<Pods> {
    let of_account = objects
        .pods
        .values()
        .filter(|pod| *pod.key.namespace == *namespace && pod.spec.service_account() == name);
    let kinds: BTreeSet<Labels> = of_account
        .map(|pod| {
            let mut labels = pod.meta.labels.clone();
            labels.retain(|name, _| !PASSING.contains(&name.as_str()));
            labels
        })
        .collect();
    if kinds.is_empty() || kinds.contains(&Labels::new()) {
        return BTreeSet::from([Pods::of_namespace(namespace)]);
    }
    let one = |labels| Pods { namespace: namespace.to_owned(), labels, account: Some(name.to_owned()) };
    kinds.into_iter().map(one).collect()
}

/// The workloads of a namespace, or of a service account of it, that are outside the cluster.
fn outsiders(namespace: &str, account: Option<&str>, objects: &Objects) -> Vec<Value> {
    let all = objects.workloads.values().filter(|one| *one.key.namespace == *namespace);
    let all = all.filter(|one| account.is_none_or(|account| one.spec.service_account == account));
    all.map(|one| json!({"ipBlock": {"cidr": whole(one.spec.address)}})).collect()
}

/// An address as a range.
pub(super) fn whole(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

/// The selector of a namespace.
pub(super) fn named(namespace: &str) -> Value {
    json!({"matchLabels": {NAMESPACE_NAME: namespace}})
}

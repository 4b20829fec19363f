//! Who calls: identities of the mesh as the labels and addresses that a network knows.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Labels;
use crate::compile::Settings;
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
    /// Any pod.
    Cluster,
    /// The pods of a namespace.
    Namespace(String),
    /// The pods of a service account, by namespace and name.
    Account(String, String),
    /// An address, or many.
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
        if self.0.contains(&Peer::Anybody) {
            return None;
        }
        let every = self.0.contains(&Peer::Cluster);
        let mut all = Vec::new();
        for peer in &self.0 {
            match peer {
                Peer::Anybody => {}
                Peer::Cluster => all.push(json!({"namespaceSelector": {}})),
                // Somebody wider is among them.
                Peer::Namespace(_) | Peer::Account(..) if every => {}
                Peer::Account(namespace, _) if self.0.contains(&Peer::Namespace(namespace.clone())) => {}
                Peer::Namespace(name) => all.push(json!({"namespaceSelector": named(name)})),
                Peer::Account(namespace, name) => all.extend(account(namespace, name, objects)),
                Peer::Block(block) => all.push(json!({"ipBlock": {"cidr": block}})),
            }
        }
        all.dedup();
        Some(all)
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
        return blocks.map(|block| Peer::Block(format!("{}/{}", block.address, block.bits))).collect();
    }
    vec![Peer::Anybody]
}

fn of_identity(identity: &str, settings: &Settings) -> Peer {
    let own = format!("spiffe://{}/ns/", settings.trust_domain);
    // Another trust domain's workloads are in another cluster.
    let Some(rest) = identity.strip_prefix(&own) else { return Peer::Anybody };
    match rest.split_once('/') {
        Some((namespace, account)) => match account.strip_prefix("sa/").filter(|name| !name.ends_with('*')) {
            Some(name) => Peer::Account(namespace.to_owned(), name.to_owned()),
            None => Peer::Namespace(namespace.to_owned()),
        },
        // The name of the namespace is not complete.
        None => Peer::Cluster,
    }
}

/// The pods of a service account by their labels, as far as they are known.
fn account(namespace: &str, name: &str, objects: &Objects) -> Vec<Value> {
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
        return vec![json!({"namespaceSelector": named(namespace)})];
    }
    let one = |labels| json!({"namespaceSelector": named(namespace), "podSelector": {"matchLabels": labels}});
    kinds.into_iter().map(one).collect()
}

fn named(namespace: &str) -> Value {
    json!({"matchLabels": {NAMESPACE_NAME: namespace}})
}

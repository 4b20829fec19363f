//! What resources refer to: what is wanted of the control server, what of it is missing, and since when.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Kind, MISSING_AFTER, Store, UNRESOLVED_AFTER};
use crate::control::Wanted;
use crate::model::tls::{CertificateSource, TlsSettings, TrustSource};
use crate::model::{Discovery, FilterChains};

impl Store {
    /// What others refer to.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        let endpoints = self.clusters.values().filter_map(|kept| match &kept.compiled.discovery {
            Discovery::Eds(name) => Some(Arc::clone(name)),
            Discovery::Static(_) | Discovery::Dns { .. } | Discovery::OriginalDst => None,
        });
        let listeners = self.listeners.values().flat_map(|kept| kept.compiled.chains.named_routes());
        let routes = listeners.chain(self.demand.chains().flat_map(FilterChains::named_routes));
        let routes: BTreeSet<Arc<str>> = routes.cloned().collect();
        let contexts = self.contexts();
        Wanted {
            endpoints: endpoints.collect(),
            secrets: contexts.flat_map(secrets_of).collect(),
            clusters: self.demanded_clusters(&routes),
            destinations: self.demand.names().cloned().collect(),
            routes,
        }
    }

    fn contexts(&self) -> impl Iterator<Item = &TlsSettings> {
        let listeners = self.listeners.values().flat_map(|kept| kept.compiled.chains.all());
        let down = listeners.filter_map(|chain| chain.tls.as_ref().map(|tls| &tls.settings));
        let clusters = self.clusters.values();
        down.chain(clusters.filter_map(|kept| kept.compiled.tls.as_ref().map(|tls| &tls.settings)))
    }

    /// Takes note of what is referred to and not there, and since when.
    pub fn note_missing(&mut self, wanted: &Wanted) {
        let (routes, endpoints) = (&self.routes, &self.endpoints);
        let resolved = &self.resolved;
        let unresolved: BTreeSet<Arc<str>> = self
            .by_name()
            .map(|cluster| Arc::clone(&cluster.name))
            .filter(|name| !resolved.contains_key(name))
            .chain(self.missing_clusters(wanted).cloned())
            .collect();
        let needed = |kind: Kind, name: &Arc<str>| match kind {
            Kind::Routes => wanted.routes.contains(name) && !routes.contains_key(name),
            Kind::Endpoints => wanted.endpoints.contains(name) && !endpoints.contains_key(name),
            Kind::Cluster => unresolved.contains(name),
            Kind::Listener | Kind::Secret | Kind::Revocations | Kind::Faults | Kind::Destination => false,
        };
        self.missing.retain(|(kind, name), _| needed(*kind, name));
        let now = Instant::now();
        for name in wanted.routes.iter().filter(|name| needed(Kind::Routes, name)) {
            self.missing.entry((Kind::Routes, Arc::clone(name))).or_insert(now);
        }
        for name in wanted.endpoints.iter().filter(|name| needed(Kind::Endpoints, name)) {
            self.missing.entry((Kind::Endpoints, Arc::clone(name))).or_insert(now);
        }
        for name in &unresolved {
            self.missing.entry((Kind::Cluster, Arc::clone(name))).or_insert(now);
        }
    }

    pub(super) fn is_given_up(&self, kind: Kind, name: &Arc<str>) -> bool {
        self.missing.get(&(kind, Arc::clone(name))).is_some_and(|since| since.elapsed() >= patience(kind))
    }

    /// Whether nothing that is referred to is still waited for.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.missing.iter().all(|((kind, _), since)| since.elapsed() >= patience(*kind))
    }
}

/// The secrets of ADS that a context names.
fn secrets_of(settings: &TlsSettings) -> impl Iterator<Item = Arc<str>> + use<> {
    let certificate = match &settings.certificate {
        Some(CertificateSource::Named(name, true)) => Some(Arc::clone(name)),
        _ => None,
    };
    let trust = match &settings.trust {
        Some(TrustSource::Named(name, true)) => Some(Arc::clone(name)),
        _ => None,
    };
    certificate.into_iter().chain(trust)
}

/// How long something of this kind is waited for.
pub(super) const fn patience(kind: Kind) -> Duration {
    match kind {
        Kind::Cluster => UNRESOLVED_AFTER,
        Kind::Endpoints
        | Kind::Listener
        | Kind::Routes
        | Kind::Secret
        | Kind::Revocations
        | Kind::Faults
        | Kind::Destination => MISSING_AFTER,
    }
}

//! What all resources together refer to: gathered from them, to be asked for and waited for.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Kind, Store, Wanted};
use crate::model::Discovery;
use crate::model::filter_chain::FilterChains;
use crate::model::tls::{CertificateSource, TlsSettings, TrustSource};

impl Store {
    /// What others refer to.
    #[must_use]
    pub const fn wanted(&self) -> &Wanted {
        self.references.wanted()
    }

    /// Takes note of what is referred to and not there.
    pub fn follow_references(&mut self) {
        let endpoints = self.clusters.values().filter_map(|kept| match &kept.compiled.discovery {
            Discovery::Eds(name) => Some((Kind::Endpoints, Arc::clone(name))),
            Discovery::Static(_) | Discovery::Dns { .. } | Discovery::OriginalDst => None,
        });
        let routes = self.named_routes();
        let clusters = self.demanded_clusters(&routes);
        let unresolved = self.by_name().filter(|cluster| self.addresses(cluster).is_none());
        let unresolved = unresolved.map(|cluster| Arc::clone(&cluster.name));
        let unresolved = unresolved.chain(self.missing_clusters(&clusters).cloned()).collect();
        let of = |kind: Kind| move |name: Arc<str>| (kind, name);
        let names = endpoints
            .chain(routes.into_iter().map(of(Kind::Routes)))
            .chain(clusters.into_iter().map(of(Kind::Cluster)))
            .chain(self.demand.names().cloned().map(of(Kind::Destination)))
            .chain(self.contexts().flat_map(secrets_of).map(of(Kind::Secret)))
            .collect();
        let (routes, endpoints) = (&self.routes, &self.endpoints);
        self.references.follow(names, unresolved, |kind, name| match kind {
            Kind::Routes => routes.contains_key(name),
            Kind::Endpoints => endpoints.contains_key(name),
            Kind::Cluster
            | Kind::Listener
            | Kind::Secret
            | Kind::Revocations
            | Kind::Faults
            | Kind::Destination => true,
        });
    }

    /// The route configurations that listeners and destinations name.
    pub(super) fn named_routes(&self) -> BTreeSet<Arc<str>> {
        let listeners = self.listeners.values().map(|kept| &kept.compiled.chains);
        listeners.chain(self.demand.chains()).flat_map(FilterChains::named_routes).cloned().collect()
    }

    fn contexts(&self) -> impl Iterator<Item = &TlsSettings> {
        let listeners = self.listeners.values().flat_map(|kept| kept.compiled.chains.all());
        let down = listeners.filter_map(|chain| chain.tls.as_ref().map(|tls| &tls.settings));
        let clusters = self.clusters.values();
        down.chain(clusters.filter_map(|kept| kept.compiled.tls.as_ref().map(|tls| &tls.settings)))
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

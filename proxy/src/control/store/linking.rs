//! Listeners and the route configurations that they name: what goes together, and what has to wait.

use std::collections::BTreeMap;
use std::sync::Arc;

use outrider_proto::Fault;
use rustc_hash::FxHashMap;

use super::{Kind, Store};
use crate::model::filter_chain::FilterChains;
use crate::model::http_chain::HttpChain;
use crate::model::{Listener, RouteTable};

impl Store {
    /// Whether connections can be handled by these chains: their routes are there, or nobody waits for them, and say
    /// nothing that the chains do not hear. A policy of a route that no filter heard would leave open what it is to
    /// close. On demand the clusters are there, too.
    pub(super) fn is_complete(&self, chains: &FilterChains) -> bool {
        let routed =
            |(name, chain): (&Arc<str>, &HttpChain)| match self.routes.get(name).map(|kept| &kept.compiled) {
                Some(table) => chain.unheard(table).is_none() && self.are_there(table.clusters()),
                None => self.references.is_given_up(Kind::Routes, name),
            };
        chains.named_chains().all(routed) && self.are_there(chains.clusters())
    }

    /// Says why a listener is held back until its routes change too. It is not refused: the change may be on its way.
    pub(super) fn tell_unheard(&self, listener: &Listener) {
        for (name, chain) in listener.chains.named_chains() {
            if let Some(filter) = self.routes.get(name).and_then(|kept| chain.unheard(&kept.compiled)) {
                tracing::warn!(
                    listener = %listener.name,
                    routes = %name,
                    filter,
                    "held back: its routes say something to a filter that it does not have"
                );
            }
        }
    }

    /// Refuses routes that say something to a filter which a listener that uses them does not have.
    pub(super) fn check_heard(&self, table: &RouteTable) -> Result<(), Vec<Fault>> {
        let listeners = self.listeners.values().map(|kept| (&kept.compiled.name, &kept.compiled.chains));
        for (user, chains) in listeners.chain(self.demand.named()) {
            let mut chains = chains.named_chains().filter(|(name, _)| **name == table.name);
            if let Some(filter) = chains.find_map(|(_, chain)| chain.unheard(table)) {
                let reason = format!(
                    "names \"{filter}\", which is no filter that hears it in \"{user}\", which uses it"
                );
                return Err(vec![Fault::new("typed_per_filter_config", reason)]);
            }
        }
        Ok(())
    }

    /// The routes of chains that are published: the newest, else those of the last publication, which a server may
    /// have taken away too early. Where all that use them hear neither, there are none.
    pub(super) fn tables_of<'a>(
        &self,
        chains: impl Iterator<Item = &'a FilterChains>,
    ) -> FxHashMap<Arc<str>, Arc<RouteTable>> {
        let mut users: BTreeMap<&Arc<str>, Vec<&HttpChain>> = BTreeMap::new();
        for (name, chain) in chains.flat_map(FilterChains::named_chains) {
            users.entry(name).or_default().push(chain);
        }
        let mut tables = FxHashMap::default();
        for (name, chains) in users {
            let newest = self.routes.get(name).map(|kept| self.table_in_force(name, &kept.compiled));
            let lapsed = self.references.has_lapsed(Kind::Routes, name);
            let before = self.current.route_tables.get(name).filter(|_| !lapsed);
            let heard = |table: &&Arc<RouteTable>| chains.iter().all(|chain| chain.unheard(table).is_none());
            if let Some(table) = newest.into_iter().chain(before).find(heard) {
                tables.insert(Arc::clone(name), Arc::clone(table));
            }
        }
        tables
    }
}

//! The endpoints of a cluster in one worker, and the sets that attempts choose from.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::endpoint::EndpointState;
use super::host::Hosts;
use crate::balance::Wish;
use crate::balance::levels::{Levels, Member};
use crate::balance::zone::Home;
use crate::model::endpoint::Health;
use crate::model::labels::{Fallback, SubsetKey};
use crate::model::{Balancing, EndpointSet};

/// How often another endpoint is looked for at least when one comes up that was tried before.
const MIN_AGAIN: u32 = 3;

/// What an attempt knows when it chooses.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// Where the connection was going before it was redirected to us.
    pub original: SocketAddr,
    /// Endpoints that are avoided where there are others.
    pub tried: &'a [SocketAddr],
    /// How often another is looked for.
    pub again: u32,
    /// The hash of the request.
    pub hash: Option<u64>,
    /// Which endpoints it must be.
    pub subset: Option<&'a str>,
}

/// The endpoints and the choice among them.
#[derive(Debug, Default)]
pub struct Members {
    source: Arc<EndpointSet>,
    generation: u64,
    /// Where the proxy stands, if that counts.
    home: Option<Rc<Home>>,
    all: Vec<Rc<EndpointState>>,
    everybody: Levels,
    subsets: Option<SubsetLevels>,
}

/// The choices where a cluster is divided into sets.
#[derive(Debug)]
struct SubsetLevels {
    by_key: FxHashMap<SubsetKey, Levels>,
    /// What there is for who asks for none of them.
    fallback: Levels,
}

impl Choice<'_> {
    /// Any endpoint.
    #[must_use]
    pub const fn any(original: SocketAddr) -> Self {
        Self { original, tried: &[], again: 0, hash: None, subset: None }
    }
}

impl Members {
    /// Whether these are the endpoints of this set.
    #[must_use]
    pub fn is_of(&self, source: &Arc<EndpointSet>) -> bool {
        Arc::ptr_eq(&self.source, source) && !self.all.is_empty()
    }

    /// Whether the choice goes by this place of the proxy.
    #[must_use]
    pub fn is_at(&self, home: Option<&Rc<Home>>) -> bool {
        match (&self.home, home) {
            (Some(own), Some(other)) => Rc::ptr_eq(own, other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// The generation of the health that the choice goes by.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// All endpoints.
    #[must_use]
    pub fn all(&self) -> &[Rc<EndpointState>] {
        &self.all
    }

    /// An endpoint, one that was not tried where one comes up.
    #[must_use]
    pub fn pick(&self, choice: &Choice<'_>, random: &mut fastrand::Rng) -> Option<Rc<EndpointState>> {
        let levels = match &self.subsets {
            None => &self.everybody,
            Some(subsets) => {
                let wanted = choice.subset.and_then(|key| subsets.by_key.get(key));
                wanted.unwrap_or(&subsets.fallback)
            }
        };
        let mut wish = Wish { hash: choice.hash, again: 0 };
        let mut picked = levels.pick(&wish, random)?;
        if !choice.tried.is_empty() {
            for again in 1..=choice.again.max(MIN_AGAIN) {
                if !choice.tried.contains(&picked.address()) {
                    break;
                }
                wish.again = again;
                picked = levels.pick(&wish, random)?;
            }
        }
        Some(Rc::clone(picked))
    }

    /// These endpoints instead; those that stay keep their connections, the others are told to go.
    #[must_use]
    pub fn updated(
        &self,
        source: &Arc<EndpointSet>,
        (balancing, home): (&Balancing, Option<Rc<Home>>),
        hosts: &Hosts,
    ) -> Self {
        let known: FxHashMap<SocketAddr, &Rc<EndpointState>> =
            self.all.iter().map(|endpoint| (endpoint.address(), endpoint)).collect();
        let mut stay: FxHashMap<SocketAddr, ()> = FxHashMap::default();
        let all: Vec<Rc<EndpointState>> = source
            .endpoints
            .iter()
            .map(|endpoint| {
                stay.insert(endpoint.address, ());
                let old = known.get(&endpoint.address);
                if let Some(state) = old.filter(|state| state.more() == &endpoint.more) {
                    return Rc::clone(state);
                }
                if let Some(replaced) = old {
                    replaced.remove();
                }
                let (address, hostname) = (endpoint.address, endpoint.hostname.clone());
                let state = EndpointState::new(address, hostname, hosts.host(address));
                Rc::new(state.and_at(&endpoint.more))
            })
            .collect();
        for gone in self.all.iter().filter(|old| !stay.contains_key(&old.address())) {
            gone.remove();
        }
        Self::build(Arc::clone(source), all, (balancing, home), hosts.generation())
    }

    /// The same endpoints by their present health.
    #[must_use]
    pub fn rebuilt(&self, balancing: &Balancing, generation: u64) -> Self {
        let how = (balancing, self.home.clone());
        Self::build(Arc::clone(&self.source), self.all.clone(), how, generation)
    }

    fn build(
        source: Arc<EndpointSet>,
        all: Vec<Rc<EndpointState>>,
        (balancing, home): (&Balancing, Option<Rc<Home>>),
        generation: u64,
    ) -> Self {
        let members: Vec<Member> = source
            .endpoints
            .iter()
            .zip(&all)
            .map(|(endpoint, state)| {
                let ails = endpoint.health == Health::Well && !state.host().is_well();
                let health = if ails { Health::Unwell } else { endpoint.health };
                state.set_well(health == Health::Well);
                Member {
                    state: Rc::clone(state),
                    weight: endpoint.weight,
                    health,
                    locality: Arc::clone(&endpoint.locality),
                }
            })
            .collect();
        let levels = |members: &[Member]| Levels::new(members, balancing, home.as_deref());
        let subsets = SubsetLevels::build(&source, &members, balancing, levels);
        // Nobody chooses from all where there are subsets.
        let everybody = if subsets.is_some() { Levels::default() } else { levels(&members) };
        Self { source, generation, home, all, everybody, subsets }
    }
}

impl SubsetLevels {
    fn build(
        source: &EndpointSet,
        members: &[Member],
        balancing: &Balancing,
        levels: impl Fn(&[Member]) -> Levels,
    ) -> Option<Self> {
        let subsets = balancing.subsets.as_ref()?;
        let mut by_key: FxHashMap<SubsetKey, Vec<Member>> = FxHashMap::default();
        for selector in &subsets.selectors {
            for (endpoint, member) in source.endpoints.iter().zip(members) {
                if let Some(key) = endpoint.labels.key_of(selector) {
                    by_key.entry(key).or_default().push(member.clone());
                }
            }
        }
        let fallback = match &subsets.fallback {
            Fallback::None => Vec::new(),
            Fallback::Any => members.to_vec(),
            Fallback::Labels(labels) => {
                let pairs = source.endpoints.iter().zip(members);
                let fitting = pairs.filter(|(endpoint, _)| endpoint.labels.include(labels));
                fitting.map(|(_, member)| member.clone()).collect()
            }
        };
        Some(Self {
            by_key: by_key.iter().map(|(key, members)| (Arc::clone(key), levels(members))).collect(),
            fallback: levels(&fallback),
        })
    }
}

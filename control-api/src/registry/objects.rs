//! What became of the operator's objects: counted over proxies, each once.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use super::lock;
use super::proxy::{Proxy, ResourceState};
use crate::snapshot::Resources;

/// Refusals that are kept of one object.
pub const MAX_REJECTIONS: usize = 16;

/// "acknowledged by 12 of 13 proxies; rejected by X: FIELD: reason"
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectStatus {
    /// Proxies that get anything made of it.
    pub proxies: usize,
    /// Those of them that have accepted all of that, in its present version.
    pub acknowledged: usize,
    /// Those of them that have let go of something of it, because its lease was renewed too late.
    pub lapsed: usize,
    /// Those of them that have refused something of it.
    pub refused: usize,
    /// Who refused and why; the first few.
    pub rejections: Vec<Rejection>,
}

/// A refusal of something that was made of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The proxy's id.
    pub proxy: Arc<str>,
    /// Its words.
    pub detail: Arc<str>,
}

/// How one proxy stands with one object; the worst of its resources counts.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stand {
    Accepted,
    Sent,
    Lapsed,
    Refused(Arc<str>),
}

type Status = BTreeMap<Arc<str>, ObjectStatus>;

/// Looks at all proxies. Those that hold all of the same sets, and have accepted them, are looked at once.
pub(super) fn status(proxies: &[Arc<Mutex<Proxy>>]) -> Status {
    let mut all = Status::new();
    let mut alike: BTreeMap<Vec<usize>, (Vec<Arc<Resources>>, usize)> = BTreeMap::new();
    for proxy in proxies {
        let proxy = lock(proxy);
        let plain = proxy.kinds().all(|(_, one)| one.is_plain());
        if plain {
            let sets: Vec<_> = proxy.kinds().map(|(_, one)| Arc::clone(&one.told)).collect();
            let key = sets.iter().map(|set| Arc::as_ptr(set).addr()).collect();
            alike.entry(key).or_insert((sets, 0)).1 += 1;
        } else {
            count_one(&proxy, &mut all);
        }
    }
    for (sets, count) in alike.into_values() {
        let resources = sets.iter().flat_map(|set| set.values());
        let origins: BTreeSet<_> = resources.flat_map(|resource| resource.origin.all()).collect();
        for origin in origins {
            let status = all.entry(Arc::clone(origin)).or_default();
            status.proxies += count;
            status.acknowledged += count;
        }
    }
    all
}

fn count_one(proxy: &Proxy, all: &mut Status) {
    let mut stands: BTreeMap<&Arc<str>, Stand> = BTreeMap::new();
    for (_, one) in proxy.kinds() {
        for (name, resource) in one.held() {
            let stand = match one.state(name) {
                ResourceState::Accepted => Stand::Accepted,
                ResourceState::Refused(detail) => Stand::Refused(detail),
                ResourceState::Lapsed(_) => Stand::Lapsed,
                ResourceState::Sent | ResourceState::Missing => Stand::Sent,
            };
            for origin in resource.origin.all() {
                match stands.entry(origin) {
                    Entry::Vacant(free) => {
                        free.insert(stand.clone());
                    }
                    Entry::Occupied(mut before) => {
                        if worse(&stand) > worse(before.get()) {
                            before.insert(stand.clone());
                        }
                    }
                }
            }
        }
    }
    for (origin, stand) in stands {
        let status = all.entry(Arc::clone(origin)).or_default();
        status.proxies += 1;
        match stand {
            Stand::Accepted => status.acknowledged += 1,
            Stand::Sent => {}
            Stand::Lapsed => status.lapsed += 1,
            Stand::Refused(detail) => {
                status.refused += 1;
                if status.rejections.len() < MAX_REJECTIONS {
                    let proxy = Arc::clone(&proxy.info().id);
                    status.rejections.push(Rejection { proxy, detail });
                }
            }
        }
    }
}

fn worse(stand: &Stand) -> u8 {
    match stand {
        Stand::Accepted => 0,
        Stand::Sent => 1,
        Stand::Lapsed => 2,
        Stand::Refused(_) => 3,
    }
}

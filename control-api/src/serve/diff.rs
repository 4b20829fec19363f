//! What differs between two sets of resources. Thousands of proxies go from the same old set to the same new one, so
//! the last answers are remembered.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use outrider_proto::envoy::config::cluster::v3::{Cluster, cluster};
use prost::Message as _;

use crate::snapshot::{Kind, Resource, Resources};

/// Answers that are remembered. Each keeps its two sets in memory.
const REMEMBERED: usize = 32;
/// Smaller sets are compared again.
const WORTH_REMEMBERING: usize = 32;

/// What differs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Diff {
    /// New, or of another version.
    pub(super) changed: Vec<Arc<str>>,
    /// There before, and gone.
    pub(super) removed: Vec<Arc<str>>,
    /// Of clusters: the endpoints of those that changed. A client that takes a changed cluster waits for its
    /// endpoints anew, so they are sent again even if they are the same.
    pub(super) endpoints: Vec<Arc<str>>,
}

#[derive(Debug)]
struct Remembered {
    old: Arc<Resources>,
    new: Arc<Resources>,
    diff: Arc<Diff>,
}

/// Compares sets of resources.
#[derive(Debug, Default)]
pub struct Differ {
    remembered: Mutex<VecDeque<Remembered>>,
}

impl Differ {
    pub(super) fn diff(&self, kind: Kind, old: &Arc<Resources>, new: &Arc<Resources>) -> Arc<Diff> {
        if Arc::ptr_eq(old, new) {
            return Arc::default();
        }
        let small = old.len().max(new.len()) < WORTH_REMEMBERING;
        if !small && let Some(found) = self.find(old, new) {
            return found;
        }
        let diff = Arc::new(compare(kind, old, new));
        if !small {
            let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
            remembered.truncate(REMEMBERED - 1);
            let (old, new) = (Arc::clone(old), Arc::clone(new));
            remembered.push_front(Remembered { old, new, diff: Arc::clone(&diff) });
        }
        diff
    }

    fn find(&self, old: &Arc<Resources>, new: &Arc<Resources>) -> Option<Arc<Diff>> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = remembered.iter();
        let found = all.find(|one| Arc::ptr_eq(&one.old, old) && Arc::ptr_eq(&one.new, new))?;
        Some(Arc::clone(&found.diff))
    }
}

fn compare(kind: Kind, old: &Resources, new: &Resources) -> Diff {
    let mut diff = Diff::default();
    for (name, resource) in new {
        if old.get(name).is_none_or(|before| before.version != resource.version) {
            diff.changed.push(Arc::clone(name));
            if kind == Kind::Cluster {
                diff.endpoints.extend(endpoints_name(name, resource));
            }
        }
    }
    diff.removed.extend(old.keys().filter(|name| !new.contains_key(*name)).cloned());
    diff
}

/// The name under which a client asks for the endpoints of a cluster.
fn endpoints_name(name: &Arc<str>, resource: &Resource) -> Option<Arc<str>> {
    // The compiler has checked what it made; what cannot be read here is not for this place to report.
    let message = Cluster::decode(resource.body.clone()).ok()?;
    let eds = matches!(
        message.cluster_discovery_type,
        Some(cluster::ClusterDiscoveryType::Type(kind)) if kind == cluster::DiscoveryType::Eds as i32
    );
    let named = message.eds_cluster_config.map(|config| config.service_name).unwrap_or_default();
    eds.then(|| if named.is_empty() { Arc::clone(name) } else { named.into() })
}

//! What differs between two sets of resources. Thousands of proxies go from the same old set to the same new one, so
//! the last answers are remembered.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use outrider_proto::envoy::config::cluster::v3::{Cluster, cluster};
use prost::Message as _;

use crate::snapshot::{Kind, Resource, Resources};

/// Answers that are remembered, as long as somebody has the sets that they are about.
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
    /// While these are there no other set can have their addresses.
    old: Weak<Resources>,
    new: Weak<Resources>,
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
            remembered.retain(|one| one.old.strong_count() > 0 && one.new.strong_count() > 0);
            remembered.truncate(REMEMBERED - 1);
            let (old, new) = (Arc::downgrade(old), Arc::downgrade(new));
            remembered.push_front(Remembered { old, new, diff: Arc::clone(&diff) });
        }
        diff
    }

    fn find(&self, old: &Arc<Resources>, new: &Arc<Resources>) -> Option<Arc<Diff>> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = remembered.iter();
        let found = all.find(|one| {
            std::ptr::eq(one.old.as_ptr(), Arc::as_ptr(old))
                && std::ptr::eq(one.new.as_ptr(), Arc::as_ptr(new))
        })?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn set(version: usize) -> Arc<Resources> {
        let resource = |name: usize| Resource {
            version: if name == 0 { version.to_string() } else { "1".to_owned() }.into(),
            body: bytes::Bytes::new(),
            origin: "Test//a".into(),
        };
        Arc::new((0..WORTH_REMEMBERING).map(|name| (name.to_string().into(), resource(name))).collect())
    }

    #[test]
    fn an_answer_is_remembered_as_long_as_its_sets_are_there() {
        let (differ, old, new) = (Differ::default(), set(1), set(2));
        let first = differ.diff(Kind::Route, &old, &new);
        assert_eq!((first.changed.as_slice(), first.removed.len()), (&["0".into()][..], 0));
        assert!(Arc::ptr_eq(&first, &differ.diff(Kind::Route, &old, &new)));
        assert!(!Arc::ptr_eq(&first, &differ.diff(Kind::Route, &new, &old)), "the way back is another");
        drop(old);
        for version in 3..3 + 2 * REMEMBERED {
            differ.diff(Kind::Route, &new, &set(version));
        }
        let remembered = differ.remembered.lock().unwrap();
        assert!(remembered.len() <= 2, "{}", remembered.len());
    }
}

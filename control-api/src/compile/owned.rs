//! What single proxies have of their own, so that a proxy whose own resources have not changed is not compared again.
//!
//! It is known as long as somebody has it, which is the stream of the proxy: a caller that comes under one name after the
//! other leaves nothing behind.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use crate::snapshot::{Kind, Resources};

/// So many entries are never too many.
const FEW: usize = 64;

/// Resources by `node.id` and kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Owned {
    each: BTreeMap<(Arc<str>, Kind), Weak<Resources>>,
    /// How many there were when those were last taken out that nobody has any more.
    swept: usize,
}

impl Owned {
    /// What is equal to what this proxy was told before, by this mesh or the one before, becomes the same.
    pub(super) fn shared(
        &mut self,
        before: &Self,
        (proxy, kind): (&Arc<str>, Kind),
        resources: Resources,
    ) -> Arc<Resources> {
        let key = (Arc::clone(proxy), kind);
        let known = |all: &Self| all.each.get(&key).and_then(Weak::upgrade);
        let old = known(self).or_else(|| known(before)).filter(|old| **old == resources);
        let resources = old.unwrap_or_else(|| Arc::new(resources));
        if self.each.len() >= FEW.max(2 * self.swept) {
            self.each.retain(|_, one| one.strong_count() > 0);
            self.swept = self.each.len();
        }
        self.each.insert(key, Arc::downgrade(&resources));
        resources
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Resource;

    fn resources(version: &str) -> Resources {
        let one = Resource { version: version.into(), body: bytes::Bytes::new(), origin: "Test/a/b".into() };
        Resources::from([("r".into(), one)])
    }

    #[test]
    fn it_is_the_same_as_long_as_somebody_has_it_and_nothing_is_kept_of_who_has_gone() {
        let (mut owned, none) = (Owned::default(), Owned::default());
        let proxy: Arc<str> = "a".into();
        let first = owned.shared(&none, (&proxy, Kind::Listener), resources("1"));
        let again = owned.shared(&none, (&proxy, Kind::Listener), resources("1"));
        let mut next = Owned::default();
        let later = next.shared(&owned, (&proxy, Kind::Listener), resources("1"));
        assert!(Arc::ptr_eq(&first, &again) && Arc::ptr_eq(&first, &later));
        assert!(!Arc::ptr_eq(&first, &next.shared(&owned, (&proxy, Kind::Listener), resources("2"))));
        for number in 0..10 * FEW {
            drop(next.shared(&owned, (&number.to_string().into(), Kind::Cluster), resources("1")));
        }
        assert!(next.each.len() <= FEW, "{}", next.each.len());
        // Those who are there are not forgotten, however many they are.
        let held: Vec<_> = (0..10 * FEW)
            .map(|number| next.shared(&owned, (&number.to_string().into(), Kind::Cluster), resources("1")))
            .collect();
        for (number, one) in held.iter().enumerate() {
            let again = next.shared(&owned, (&number.to_string().into(), Kind::Cluster), resources("1"));
            assert!(Arc::ptr_eq(one, &again));
        }
    }
}

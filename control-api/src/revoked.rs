//! Who is cut off now: what the authority, and the streams of proxies, look at before they give anything to anybody.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::object::{Objects, revocation};
use crate::proxy_info::Identity;

/// Who is cut off, and by which `Revocation`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// By whole SPIFFE ID.
    identities: BTreeMap<Box<str>, Arc<str>>,
    /// By serial number in its one spelling.
    serials: BTreeMap<Box<str>, Arc<str>>,
}

impl Revoked {
    /// What all objects say, but of the one identity that nobody can be spared from.
    #[must_use]
    pub fn of(objects: &Objects, spared: &str) -> Self {
        let mut all = Self::default();
        for object in objects.revocations.values() {
            let name = &object.key.name;
            for identity in object.spec.identities.iter().filter(|one| **one != *spared) {
                all.identities.entry(identity.as_str().into()).or_insert_with(|| Arc::clone(name));
            }
            for serial in object.spec.serial_numbers.iter().filter_map(|one| revocation::serial(one)) {
                all.serials.entry(serial).or_insert_with(|| Arc::clone(name));
            }
        }
        all
    }

    /// How many identities and certificates are.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.identities.len() + self.serials.len()
    }

    /// Whether both say the same, as far as it costs nothing to know.
    #[must_use]
    pub fn is_of_the_same(old: &Objects, new: &Objects) -> bool {
        let (old, new) = (&old.revocations, &new.revocations);
        old.len() == new.len() && old.values().zip(new.values()).all(|(old, new)| Arc::ptr_eq(old, new))
    }

    /// Why this identity is; `None` if it is not.
    #[must_use]
    pub fn identity(&self, identity: &Identity) -> Option<String> {
        if self.identities.is_empty() {
            return None;
        }
        let text = identity.to_string();
        let by = self.identities.get(text.as_str())?;
        Some(format!("{text} is revoked by Revocation {by}"))
    }

    /// Why whoever shows a certificate with this serial number is; `None` if they are not.
    #[must_use]
    pub fn serial(&self, serial: &str) -> Option<String> {
        let by = self.serials.get(serial)?;
        Some(format!("the certificate with the serial number {serial} is revoked by Revocation {by}"))
    }
}

/// What is cut off at each time.
#[derive(Clone, Debug)]
pub struct Revocations(watch::Receiver<Arc<Revoked>>);

impl Default for Revocations {
    /// Nobody ever is.
    fn default() -> Self {
        Self(watch::channel(Arc::default()).1)
    }
}

impl Revocations {
    /// As somebody else says.
    #[must_use]
    pub const fn new(source: watch::Receiver<Arc<Revoked>>) -> Self {
        Self(source)
    }

    /// Who is cut off now.
    #[must_use]
    pub fn now(&self) -> Arc<Revoked> {
        Arc::clone(&self.0.borrow())
    }

    /// Waits until `why` finds a reason. It may be dropped at any time; nothing is missed.
    pub async fn until<T>(&mut self, why: impl Fn(&Revoked) -> Option<T>) -> T {
        let found = self.0.wait_for(|revoked| why(revoked).is_some()).await.ok().and_then(|now| why(&now));
        match found {
            Some(reason) => reason,
            // Who says it is gone: there is nothing to come.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use serde_json::{Value, json};

    use super::*;
    use crate::object::{AnyObject, Place};

    /// Whom a `Revocation` called `stolen` cuts off.
    pub(crate) fn revoked(spec: &Value, spared: &str) -> Arc<Revoked> {
        let mut objects = Objects::default();
        let object = json!({"apiVersion": "mesh.outrider.dev/v1alpha1", "kind": "Revocation",
            "metadata": {"name": "stolen"}, "spec": spec});
        objects.insert(AnyObject::from_value(object, &Place::default()).unwrap());
        Arc::new(Revoked::of(&objects, spared))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::parse;

    #[test]
    fn it_is_said_who_and_by_what() {
        let spared = "spiffe://a/ns/mesh/sa/control";
        let spec =
            json!({"identities": ["spiffe://a/ns/shop/sa/cart", spared], "serialNumbers": ["00:0A:ff"]});
        let revoked = testing::revoked(&spec, spared);
        let of = |text: &str| revoked.identity(&parse(text).unwrap());
        assert_eq!(
            of("spiffe://a/ns/shop/sa/cart").as_deref(),
            Some("spiffe://a/ns/shop/sa/cart is revoked by Revocation stolen")
        );
        assert_eq!((of("spiffe://a/ns/shop/sa/car"), of(spared)), (None, None));
        assert!(revoked.serial("aff").is_some_and(|why| why.ends_with("revoked by Revocation stolen")));
        assert_eq!((revoked.serial("ff"), revoked.entries()), (None, 2));
    }

    #[tokio::test]
    async fn whoever_waits_hears_of_it_and_nobody_else() {
        let (say, source) = watch::channel(Arc::default());
        let mut waiting = Revocations::new(source);
        let why = |revoked: &Revoked| revoked.serial("7");
        assert!(at_once(waiting.until(why)).await.is_none());
        let serials = [("7".into(), "r".into())].into();
        say.send_replace(Arc::new(Revoked { serials, ..Revoked::default() }));
        assert!(waiting.until(why).await.contains("number 7"));
        assert!(at_once(Revocations::default().until(why)).await.is_none());
    }

    async fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = future => Some(done),
            () = std::future::ready(()) => None,
        }
    }
}

//! `Revocation`: who is cut off from the mesh before their certificates end.

use outrider_proto::Path;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{ObjectKind, Spec};
use crate::auth::trust_domain_of;

/// Most identities, and most serial numbers, of one object; there may be any number of objects.
pub const MAX_ENTRIES: usize = 1000;
/// Longest reason, in characters.
const MAX_REASON: usize = 1024;
/// Hexadecimal digits of a serial number (RFC 5280 section 4.1.2.2 allows 20 bytes; some authorities use more). Proxies
/// take no longer ones.
const MAX_SERIAL_DIGITS: usize = 64;

/// Whom proxies refuse, and whose connections they close, at once and as long as the object is there.
///
/// It lives in no namespace: whoever owns one namespace must not cut off the workloads of another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Revocation {
    /// Whole SPIFFE IDs. They also get no certificate and no configuration.
    #[serde(default)]
    #[schemars(
        length(max = 1000),
        inner(
            length(min = 1, max = 2048),
            regex(pattern = r"^spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)+$")
        )
    )]
    pub identities: Vec<String>,
    /// Serial numbers of certificates in hexadecimal, in any case, with or without colons: for certificates of an identity
    /// that may go on with others.
    #[serde(default)]
    #[schemars(
        length(max = 1000),
        inner(length(min = 1, max = 127), regex(pattern = r"^[0-9A-Fa-f]+(:[0-9A-Fa-f]+)*$"))
    )]
    pub serial_numbers: Vec<String>,
    /// Why, for people.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub reason: Option<String>,
}

impl Spec for Revocation {
    const KIND: ObjectKind = ObjectKind::Revocation;

    fn check(&self, path: &mut Path) {
        if self.identities.is_empty() && self.serial_numbers.is_empty() {
            path.fault("cuts nobody off: set identities or serialNumbers, or remove the object");
        }
        for (list, name) in [(&self.identities, "identities"), (&self.serial_numbers, "serialNumbers")] {
            if list.len() > MAX_ENTRIES {
                path.fault_at(name, format!("more than {MAX_ENTRIES}; write a second Revocation"));
            }
        }
        for (index, identity) in self.identities.iter().enumerate() {
            if trust_domain_of(identity).is_none() {
                path.item("identities", index, |path| {
                    path.fault("not a whole SPIFFE ID, as in spiffe://cluster.local/ns/shop/sa/cart");
                });
            }
        }
        for (index, number) in self.serial_numbers.iter().enumerate() {
            if serial(number).is_none() {
                path.item("serialNumbers", index, |path| path.fault("not a positive number in hexadecimal"));
            }
        }
        let reason = self.reason.as_deref().unwrap_or_default();
        if reason.chars().count() > MAX_REASON || reason.chars().any(char::is_control) {
            path.fault_at("reason", format!("must be one line of at most {MAX_REASON} characters"));
        }
    }
}

/// A serial number in its one spelling: lower case, without colons and leading zeros; `None` where it is none.
#[must_use]
pub fn serial(text: &str) -> Option<Box<str>> {
    let parts = text.split(':');
    let hexadecimal = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !parts.clone().all(hexadecimal) {
        return None;
    }
    let digits: String = parts.collect::<String>().to_ascii_lowercase();
    let plain = digits.trim_start_matches('0');
    (!plain.is_empty() && digits.len() <= MAX_SERIAL_DIGITS).then(|| plain.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::{AnyObject, Place};

    fn faults(spec: &serde_json::Value) -> Vec<String> {
        let object = json!({"apiVersion": "mesh.outrider.dev/v1alpha1", "kind": "Revocation",
            "metadata": {"name": "r"}, "spec": spec});
        match AnyObject::from_value(object, &Place::default()) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn whom_it_cuts_off_is_said_in_full() {
        let good = json!({"identities": ["spiffe://a/ns/b/sa/c", "spiffe://other.example/vm/7"],
            "serialNumbers": ["00:0A:ff", "7", "f".repeat(64)], "reason": "the key was stolen"});
        assert_eq!(faults(&good), Vec::<String>::new());
        for (spec, expected) in [
            (json!({}), "spec: cuts nobody off"),
            (json!({"identities": ["spiffe://a/ns/b/sa/*"]}), "spec.identities[0]: not a whole"),
            (
                json!({"identities": ["spiffe://a/ns/b/sa/c", "spiffe://a"]}),
                "spec.identities[1]: not a whole",
            ),
            (json!({"identities": ["spiffe://A/ns/b/sa/c"]}), "spec.identities[0]: not a whole"),
            (json!({"identities": ["c"]}), "spec.identities[0]: not a whole"),
            (json!({"identities": vec!["spiffe://a/b"; 1001]}), "spec.identities: more than 1000"),
            (json!({"serialNumbers": ["xy"]}), "spec.serialNumbers[0]: not a positive"),
            (json!({"serialNumbers": ["00"]}), "spec.serialNumbers[0]: not a positive"),
            (json!({"serialNumbers": [""]}), "spec.serialNumbers[0]: not a positive"),
            (json!({"serialNumbers": ["a::b"]}), "spec.serialNumbers[0]: not a positive"),
            (json!({"serialNumbers": ["f".repeat(65)]}), "spec.serialNumbers[0]: not a positive"),
            (json!({"serialNumbers": ["1"], "reason": "a\nb"}), "spec.reason: must be one line"),
            (json!({"identity": "spiffe://a/b"}), "spec.identity: unknown field"),
        ] {
            let faults = faults(&spec);
            assert!(faults.first().is_some_and(|one| one.starts_with(expected)), "{spec}: {faults:?}");
        }
        assert_eq!(serial("00:0A:ff").as_deref(), Some("aff"));
    }

    #[test]
    fn it_lives_in_no_namespace() {
        let object = json!({"apiVersion": "mesh.outrider.dev/v1alpha1", "kind": "Revocation",
            "metadata": {"name": "r", "namespace": "shop"}, "spec": {"identities": ["spiffe://a/b"]}});
        let faults = AnyObject::from_value(object, &Place::default()).unwrap_err();
        assert!(faults[0].to_string().starts_with("metadata.namespace: "), "{faults:?}");
    }
}

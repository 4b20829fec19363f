//! What holds in place of an object of which there is no good version, and which was written to close something: a mistake
//! in it must not leave that open.
//!
//! In place of an `AuthorizationPolicy`, nobody may talk to whom it may be about. In place of a `Revocation`, those are cut
//! off who can be read in it.

use serde_json::{Map, Value, json};

use crate::auth::trust_domain_of;
use crate::digest;
use crate::object::{AnyObject, ObjectKind, Place, revocation};

/// The name of a stand-in for a policy whose own name cannot be used.
const UNNAMED: &str = "policy-without-a-good-name";
/// What that of a revocation begins with.
const UNNAMED_REVOCATION: &str = "revocation-without-a-good-name";

/// What closes in place of this; `None` for what closes nothing.
pub(super) fn in_place_of(value: &Value, place: &Place) -> Option<AnyObject> {
    let ours = |kind: ObjectKind| {
        let version = value.get("apiVersion").and_then(Value::as_str);
        // A version that is wrong is a mistake in an object of ours; another group's is somebody else's.
        let ours = version.is_none_or(|version| version.split('/').next() == Some(kind.group()));
        ours && value.get("kind").and_then(Value::as_str) == Some(kind.as_str())
    };
    if ours(ObjectKind::AuthorizationPolicy) {
        denial(value, place)
    } else if ours(ObjectKind::Revocation) {
        readable(value, place)
    } else {
        None
    }
}

/// A revocation of those entries that can be read; `None` when there are none.
fn readable(value: &Value, place: &Place) -> Option<AnyObject> {
    let entries = |name: &str, good: &dyn Fn(&str) -> bool| -> Vec<Value> {
        let all = value.get("spec").and_then(|spec| spec.get(name)).and_then(Value::as_array);
        let good = all.into_iter().flatten().filter(|one| one.as_str().is_some_and(good));
        good.take(revocation::MAX_ENTRIES).cloned().collect()
    };
    let spec = json!({
        "identities": entries("identities", &|text| trust_domain_of(text).is_some()),
        "serialNumbers": entries("serialNumbers", &|text| revocation::serial(text).is_some()),
    });
    let name = value.get("metadata").and_then(|metadata| metadata.get("name")).and_then(Value::as_str);
    let made = |name: &str| made(ObjectKind::Revocation, &json!({"name": name}), &spec, place);
    // Each its own name: none of several may stand in another's place.
    let unnamed = || format!("{UNNAMED_REVOCATION}-{}", digest::short(spec.to_string().as_bytes()));
    name.and_then(made).or_else(|| made(&unnamed()))
}

/// An object of the version that is preferred.
fn made(kind: ObjectKind, metadata: &Value, spec: &Value, place: &Place) -> Option<AnyObject> {
    let (version, kind) = (format!("{}/{}", kind.group(), kind.versions().first()?), kind.as_str());
    let object = json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec});
    AnyObject::from_value(object, place).ok()
}

/// A policy that denies everything, for the same workloads if it can be read which these are, else for its namespace, which
/// is the whole mesh in the mesh's own.
///
/// A namespace that there cannot be has no workloads, and nothing to close.
fn denial(value: &Value, place: &Place) -> Option<AnyObject> {
    let member =
        |parent: &str, name: &str| value.get(parent)?.get(name).filter(|one| !one.is_null()).cloned();
    // A namespace that looks like a number was meant as a name.
    let number = |one: Value| one.as_number().map(|number| number.to_string().into()).unwrap_or(one);
    let (name, namespace) = (member("metadata", "name"), member("metadata", "namespace").map(number));
    let selector = member("spec", "selector");
    let made = |name: &Option<Value>, selector: &Option<Value>| {
        let fields = [("name", name.clone()), ("namespace", namespace.clone())];
        let metadata: Map<String, Value> =
            fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        let mut spec = json!({"action": "Deny", "rules": [{}]});
        if let (Some(spec), Some(selector)) = (spec.as_object_mut(), selector) {
            spec.insert("selector".to_owned(), selector.clone());
        }
        made(ObjectKind::AuthorizationPolicy, &Value::Object(metadata), &spec, place)
    };
    made(&name, &selector).or_else(|| made(&name, &None)).or_else(|| made(&Some(UNNAMED.into()), &None))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key, and the labels that are selected; `-` where nothing is closed.
    fn closed(policy: &Value) -> String {
        let Some(AnyObject::AuthorizationPolicy(made)) = in_place_of(policy, &Place::default()) else {
            return "-".to_owned();
        };
        assert_eq!((made.spec.rules.len(), &made.spec.rules[0]), (1, &Default::default()));
        assert_eq!(made.spec.action, crate::object::authorization::Action::Deny);
        assert_eq!(made.spec.mode, crate::object::authorization::Mode::Enforce);
        let labels =
            made.spec.selector.as_ref().map_or("all".to_owned(), |one| format!("{:?}", one.match_labels));
        format!("{} {labels}", made.key)
    }

    #[test]
    fn who_can_be_read_in_a_revocation_is_cut_off() {
        let closed = |metadata: Value, spec: Value| {
            let version = "mesh.outrider.dev/v1alpha1";
            let object =
                json!({"apiVersion": version, "kind": "Revocation", "metadata": metadata, "spec": spec});
            let Some(AnyObject::Revocation(made)) = in_place_of(&object, &Place::default()) else {
                return "-".to_owned();
            };
            format!("{} {:?} {:?}", made.key, made.spec.identities, made.spec.serial_numbers)
        };
        let mistaken = json!({"identities": ["spiffe://a/ns/b/sa/c", "d", 7], "serialNumbers": ["x", "0A"]});
        let read = "[\"spiffe://a/ns/b/sa/c\"] [\"0A\"]";
        assert_eq!(closed(json!({"name": "r"}), mistaken.clone()), format!("Revocation//r {read}"));
        let elsewhere = json!({"name": "r", "namespace": "shop"});
        assert_eq!(closed(elsewhere, mistaken.clone()), format!("Revocation//r {read}"));
        for unnamed in [json!({"name": "a b"}), Value::Null] {
            let closed = closed(unnamed, mistaken.clone());
            assert!(closed.starts_with("Revocation//revocation-without-a-good-name-"), "{closed}");
            assert!(closed.ends_with(read), "{closed}");
        }
        for nothing in
            [json!({"identities": ["d"]}), json!({"identity": ["spiffe://a/ns/b/sa/c"]}), json!([])]
        {
            assert_eq!(closed(json!({"name": "r"}), nothing), "-");
        }
    }

    #[test]
    fn what_can_be_read_of_a_policy_says_whom_it_closes() {
        let policy = |version: &str, metadata: Value, selector: Value| {
            json!({"apiVersion": version, "kind": "AuthorizationPolicy", "metadata": metadata,
                "spec": {"selector": selector, "rules": [{"form": []}]}})
        };
        let (ours, named) = ("mesh.outrider.dev/v1alpha1", json!({"name": "a", "namespace": "shop"}));
        let db = json!({"matchLabels": {"app": "db"}});
        for (version, metadata, selector, expected) in [
            (ours, named.clone(), db.clone(), "AuthorizationPolicy/shop/a {\"app\": \"db\"}"),
            (ours, named.clone(), Value::Null, "AuthorizationPolicy/shop/a all"),
            (ours, named.clone(), json!({"matchLabel": {"app": "db"}}), "AuthorizationPolicy/shop/a all"),
            (ours, named.clone(), json!("db"), "AuthorizationPolicy/shop/a all"),
            (ours, json!({"name": "a"}), db.clone(), "AuthorizationPolicy/default/a {\"app\": \"db\"}"),
            (
                ours,
                json!({"name": "a", "label": {}}),
                db.clone(),
                "AuthorizationPolicy/default/a {\"app\": \"db\"}",
            ),
            (ours, json!({"name": "a", "namespace": 7}), Value::Null, "AuthorizationPolicy/7/a all"),
            (
                ours,
                json!({"name": "a b", "namespace": "shop"}),
                db.clone(),
                "AuthorizationPolicy/shop/policy-without-a-good-name all",
            ),
            (
                ours,
                json!({"namespace": "shop"}),
                db.clone(),
                "AuthorizationPolicy/shop/policy-without-a-good-name all",
            ),
            (ours, Value::Null, db.clone(), "AuthorizationPolicy/default/policy-without-a-good-name all"),
            (ours, json!({"name": "a", "namespace": "no such"}), Value::Null, "-"),
            ("mesh.outrider.dev/v2", named.clone(), Value::Null, "AuthorizationPolicy/shop/a all"),
            ("security.example/v1", named, Value::Null, "-"),
        ] {
            let policy = policy(version, metadata, selector);
            assert_eq!(closed(&policy), expected, "{policy}");
        }
        assert_eq!(
            closed(&json!({"apiVersion": ours, "kind": "EgressPolicy", "metadata": {"name": "a"}})),
            "-"
        );
        assert_eq!(closed(&json!([])), "-");
        let bare = json!({"kind": "AuthorizationPolicy", "metadata": {"name": "a"}, "spec": []});
        assert_eq!(closed(&bare), "AuthorizationPolicy/default/a all");
    }
}

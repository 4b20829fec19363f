//! What holds in place of an `AuthorizationPolicy` of which there is no good version: nobody may talk to whom it may be
//! about. Without that, a mistake in a policy would open what the policy was written to close.

use serde_json::{Map, Value, json};

use crate::object::{AnyObject, ObjectKind, Place};

/// The name of a stand-in for a policy whose own name cannot be used.
const UNNAMED: &str = "policy-without-a-good-name";

/// A policy that denies everything, for the same workloads if it can be read which these are, else for its namespace, which
/// is the whole mesh in the mesh's own. `None` for what is no policy of ours.
///
/// A namespace that there cannot be has no workloads, and nothing to close.
pub(super) fn in_place_of(value: &Value, place: &Place) -> Option<AnyObject> {
    let kind = ObjectKind::AuthorizationPolicy;
    let version = value.get("apiVersion").and_then(Value::as_str);
    // A version that is wrong is a mistake in a policy of ours; another group's policy is somebody else's.
    let ours = version.is_none_or(|version| version.split('/').next() == Some(kind.group()));
    if !ours || value.get("kind").and_then(Value::as_str) != Some(kind.as_str()) {
        return None;
    }
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
        let (version, kind) = (format!("{}/{}", kind.group(), kind.versions().first()?), kind.as_str());
        let object = json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec});
        AnyObject::from_value(object, place).ok()
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

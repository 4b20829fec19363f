//! The status of an object as Kubernetes keeps it: `metav1.Condition`s, in routes for each parent. What others have
//! written into it stays.

use serde_json::{Value, json};

use crate::conditions::Condition;
use crate::object::{Key, ObjectKind};

/// Who says it, in the statuses of routes (`controllerName`).
pub const CONTROLLER: &str = "mesh.outrider.dev/control-server";
/// The conditions that are ours.
const OURS: [&str; 4] = ["Accepted", "ResolvedRefs", "PartiallyInvalid", "Programmed"];
/// Longest message, in characters; the limit of the schemas is far above it.
const MAX_MESSAGE_CHARS: usize = 4096;

/// The merge patch that brings an object's status up to date; `None` when it is. The patch is refused if the object has
/// changed since. `now` is RFC 3339.
#[must_use]
pub fn patch(key: &Key, object: &Value, conditions: &[Condition], now: &str) -> Option<Value> {
    let generation = generation(object);
    let is_route = matches!(key.kind, ObjectKind::HttpRoute | ObjectKind::GrpcRoute | ObjectKind::TcpRoute);
    let field = if is_route { "parents" } else { "conditions" };
    let before = object.pointer(&format!("/status/{field}")).and_then(Value::as_array);
    let before = before.map_or(&[] as &[Value], Vec::as_slice);
    let after = if is_route {
        let mut after: Vec<Value> = before.iter().filter(|one| !is_ours(one)).cloned().collect();
        after.extend(parents(key, object, before, &|parent, before| {
            let of_it = conditions.iter().filter(|one| one.parent.is_empty() || one.parent == parent);
            entries(of_it, before, generation, now)
        }));
        after
    } else {
        let others = before.iter().filter(|one| !OURS.contains(&text(one, "type"))).cloned();
        others.chain(entries(conditions.iter(), before, generation, now)).collect()
    };
    if after == before {
        return None;
    }
    let version = object.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
    Some(json!({"metadata": {"resourceVersion": version}, "status": {field: after}}))
}

/// Which change of its specification an object is at.
#[must_use]
pub fn generation(object: &Value) -> i64 {
    object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default()
}

/// For each service that a route is attached to, what is said of it there.
fn parents(
    key: &Key,
    object: &Value,
    before: &[Value],
    entries: &dyn Fn(&str, &[Value]) -> Vec<Value>,
) -> Vec<Value> {
    let refs = object.pointer("/spec/parentRefs").and_then(Value::as_array);
    let mut parents = Vec::new();
    for reference in refs.into_iter().flatten() {
        // The group of a service is empty, and has to be said.
        let is_service = reference.get("group").and_then(Value::as_str) == Some("");
        if !is_service || text(reference, "kind") != "Service" {
            continue;
        }
        let same = |one: &&Value| is_ours(one) && one.get("parentRef") == Some(reference);
        let known = before.iter().find(same).and_then(|one| one.get("conditions")).and_then(Value::as_array);
        let conditions = entries(&shown(key, reference), known.map_or(&[] as &[Value], Vec::as_slice));
        if !conditions.is_empty() {
            let parent =
                json!({"parentRef": reference, "controllerName": CONTROLLER, "conditions": conditions});
            parents.push(parent);
        }
    }
    parents
}

/// A parent as the conditions call it.
fn shown(key: &Key, reference: &Value) -> String {
    let namespace = match text(reference, "namespace") {
        "" => &*key.namespace,
        namespace => namespace,
    };
    let service = Key::new(ObjectKind::Service, namespace, text(reference, "name"));
    match reference.get("port").and_then(Value::as_u64) {
        Some(port) => format!("{service}:{port}"),
        None => service.to_string(),
    }
}

fn is_ours(parent: &Value) -> bool {
    text(parent, "controllerName") == CONTROLLER
}

/// Conditions in the form of Kubernetes. The time is that of the last change of `status`, as it was if there was none.
fn entries<'a>(
    conditions: impl Iterator<Item = &'a Condition>,
    before: &[Value],
    generation: i64,
    now: &str,
) -> Vec<Value> {
    let entry = |condition: &Condition| {
        let same =
            |one: &&Value| text(one, "type") == condition.r#type && text(one, "status") == condition.status;
        let since = before.iter().find(same).and_then(|one| one.get("lastTransitionTime"));
        let message: String = condition.message.chars().take(MAX_MESSAGE_CHARS).collect();
        json!({
            "type": condition.r#type,
            "status": condition.status,
            "reason": condition.reason,
            "message": message,
            "observedGeneration": generation,
            "lastTransitionTime": since.cloned().unwrap_or_else(|| now.into()),
        })
    };
    conditions.map(entry).collect()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(status: &'static str, message: &str, parent: &str) -> Condition {
        let (message, parent) = (message.to_owned(), parent.to_owned());
        Condition { r#type: "Accepted", status, reason: "Because", message, parent }
    }

    fn applied(mut object: Value, patch: &Value) -> Value {
        object["status"] = patch["status"].clone();
        object
    }

    #[test]
    fn a_status_is_written_once_and_keeps_its_time_until_it_turns() {
        let key = Key::new(ObjectKind::Workload, "shop", "a");
        let other = json!({"type": "Elsewhere", "status": "True"});
        let object = json!({
            "metadata": {"generation": 3, "resourceVersion": "7"},
            "status": {"conditions": [other]},
        });
        let first = patch(&key, &object, &[condition("True", "", "")], "T1").unwrap();
        assert_eq!(first["metadata"]["resourceVersion"], "7");
        let conditions = &first["status"]["conditions"];
        assert_eq!((&conditions[0], &conditions[1]["lastTransitionTime"]), (&other, &json!("T1")));
        assert_eq!(conditions[1]["observedGeneration"], 3);
        let object = applied(object, &first);
        assert_eq!(patch(&key, &object, &[condition("True", "", "")], "T2"), None, "nothing new");
        let reworded = patch(&key, &object, &[condition("True", "12 of 13", "")], "T2").unwrap();
        assert_eq!(reworded["status"]["conditions"][1]["lastTransitionTime"], "T1");
        let turned = patch(&key, &object, &[condition("False", "", "")], "T3").unwrap();
        assert_eq!(turned["status"]["conditions"][1]["lastTransitionTime"], "T3");
    }

    #[test]
    fn a_route_has_what_concerns_each_parent_and_others_keep_theirs() {
        let key = Key::new(ObjectKind::HttpRoute, "shop", "r");
        let service = json!({"group": "", "kind": "Service", "name": "web", "port": 80});
        let elsewhere = json!({"group": "", "kind": "Service", "name": "db", "namespace": "data"});
        let gateway = json!({"name": "front"});
        let foreign = json!({"parentRef": gateway, "controllerName": "x.y/z", "conditions": []});
        let object = json!({
            "metadata": {"generation": 1, "resourceVersion": "7"},
            "spec": {"parentRefs": [gateway, service, elsewhere]},
            "status": {"parents": [foreign]},
        });
        let said =
            [condition("True", "", "Service/shop/web:80"), condition("False", "no", "Service/data/db")];
        let written = patch(&key, &object, &said, "T1").unwrap();
        let parents = written["status"]["parents"].as_array().unwrap();
        assert_eq!(parents.len(), 3);
        assert_eq!(parents[0], foreign);
        assert_eq!(
            (&parents[1]["parentRef"], &parents[1]["conditions"][0]["status"]),
            (&service, &json!("True"))
        );
        assert_eq!(parents[2]["conditions"][0]["message"], "no");
        assert_eq!(patch(&key, &applied(object.clone(), &written), &said, "T2"), None);
        // What cannot be read at all is said to every parent.
        let invalid = patch(&key, &object, &[condition("False", "spec", "")], "T1").unwrap();
        assert_eq!(invalid["status"]["parents"][2]["conditions"][0]["message"], "spec");
        // A route that has left the mesh loses what was said of it.
        let mut left = applied(object, &written);
        left["spec"]["parentRefs"] = json!([gateway]);
        assert_eq!(patch(&key, &left, &[], "T2").unwrap()["status"]["parents"], json!([foreign]));
    }
}

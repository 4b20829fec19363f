//! What an admission webhook answers: the changes as a JSON patch (RFC 6902).

use serde_json::{Value, json};

/// The operations that make `to` of `from`. Lists of another length are replaced as a whole: the patch is for the very
/// object that was looked at.
#[must_use]
pub fn diff(from: &Value, to: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    walk("", (from, to), &mut operations);
    operations
}

/// No deeper than the documents are; the API server and the reader of files bound that.
fn walk(path: &str, (from, to): (&Value, &Value), operations: &mut Vec<Value>) {
    if from == to {
        return;
    }
    match (from, to) {
        (Value::Object(before), Value::Object(after)) => {
            for name in before.keys().filter(|name| !after.contains_key(*name)) {
                operations.push(json!({"op": "remove", "path": member(path, name)}));
            }
            for (name, value) in after {
                let path = member(path, name);
                match before.get(name) {
                    Some(before) => walk(&path, (before, value), operations),
                    None => operations.push(json!({"op": "add", "path": path, "value": value})),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, pair) in before.iter().zip(after).enumerate() {
                walk(&format!("{path}/{index}"), pair, operations);
            }
        }
        _ => operations.push(json!({"op": "replace", "path": path, "value": to})),
    }
}

/// A JSON pointer one level deeper (RFC 6901 section 3).
fn member(path: &str, name: &str) -> String {
    format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_those_of_the_rfc() {
        let from = json!({"a": {"x/y~": 1, "gone": 2}, "same": [1], "list": [{"n": 1}, 2], "longer": [1]});
        let to = json!({"a": {"x/y~": 2}, "same": [1], "list": [{"n": 1, "m": 3}, 4], "longer": [1, 2], "new": null});
        let expected = json!([
            {"op": "remove", "path": "/a/gone"},
            {"op": "replace", "path": "/a/x~1y~0", "value": 2},
            {"op": "add", "path": "/list/0/m", "value": 3},
            {"op": "replace", "path": "/list/1", "value": 4},
            {"op": "replace", "path": "/longer", "value": [1, 2]},
            {"op": "add", "path": "/new", "value": null},
        ]);
        assert_eq!(Value::from(diff(&from, &to)), expected);
        assert_eq!(diff(&to, &to), Vec::<Value>::new());
    }
}

//! What operators are not shown: private keys that stand in the configuration itself.

use serde_json::Value;

/// What stands in place of a key.
const REDACTED: &str = "[redacted]";

/// Takes private keys, and the passwords of them, out of a dump.
pub(super) fn private_keys(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                if matches!(name.as_str(), "private_key" | "privateKey" | "password") {
                    inline(field);
                } else {
                    private_keys(field);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(private_keys),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The content of a data source; where it comes from may be seen.
fn inline(source: &mut Value) {
    let Value::Object(fields) = source else { return };
    for (name, field) in fields {
        if name.starts_with("inline") {
            *field = REDACTED.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_not_shown_and_everything_else_is() {
        let mut dump = serde_json::json!({"a": [{"tls_certificates": [
            {"certificate_chain": {"inline_string": "cert"}, "private_key": {"inline_string": "key"}},
            {"privateKey": {"inlineBytes": "a2V5"}},
            {"private_key": {"filename": "/key"}},
        ]}]});
        private_keys(&mut dump);
        let shown = dump.to_string();
        assert!(!shown.contains("\"key\"") && !shown.contains("a2V5"), "{shown}");
        assert!(shown.contains("cert") && shown.contains("/key") && shown.matches(REDACTED).count() == 2);
    }
}

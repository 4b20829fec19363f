//! The files that a start-up file names, found before any of it is understood: what is known here is known whichever
//! message names it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;

/// Files by what is done with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedFiles {
    /// `filename` of data sources: certificates, keys, bodies.
    pub read: BTreeSet<PathBuf>,
    /// `path` of access logs.
    pub write: BTreeSet<PathBuf>,
}

impl NamedFiles {
    /// All files in a message's JSON form.
    #[must_use]
    pub fn from_json(json: &Value) -> Self {
        let mut files = Self::default();
        files.add(json);
        files
    }

    /// As deep as the parser has let it become.
    fn add(&mut self, json: &Value) {
        match json {
            Value::Object(fields) => {
                let kind = fields.get("@type").and_then(Value::as_str).unwrap_or_default();
                for (name, value) in fields {
                    let is_log = name == "path" && kind.ends_with(".FileAccessLog");
                    match value.as_str() {
                        Some(path) if name == "filename" => {
                            self.read.insert(path.into());
                        }
                        Some(path) if is_log => {
                            self.write.insert(path.into());
                        }
                        Some(_) => {}
                        None => self.add(value),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.add(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_wherever_they_are_named() {
        let files = NamedFiles::from_json(&serde_json::json!({
            "a": [{"tls": {"certificate_chain": {"filename": "/c/tls.crt"}}}],
            "log": {"@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": "/l/a.log"},
            "match": {"path": "/not/a/file"},
        }));
        assert_eq!(files.read, BTreeSet::from(["/c/tls.crt".into()]));
        assert_eq!(files.write, BTreeSet::from(["/l/a.log".into()]));
    }
}

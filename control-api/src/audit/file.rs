//! The pods of manifests, audited.

use serde_json::Value;

use super::{Exemption, Finding, Level, audit, exemption};
use crate::inject::manifest;

/// A pod, or what makes pods, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited {
    /// The file; `-` is standard input.
    pub file: String,
    /// The line where its document begins.
    pub line: usize,
    /// Kind, namespace and name.
    pub object: String,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Audits all pods of a file.
///
/// # Errors
/// When a document cannot be read; which one, and why.
pub fn audit_text(
    file: &str,
    text: &str,
    (level, exemptions, own_image): (Level, &[Exemption], Option<&str>),
) -> Result<Vec<Audited>, String> {
    let mut all = Vec::new();
    for (index, document) in manifest::documents(text).iter().enumerate() {
        let value = document
            .value()
            .map_err(|reason| format!("{file}: document {}: not valid YAML: {reason}", index + 1))?;
        all.extend(audit_value((file, document.line), &value, (level, exemptions, own_image)));
    }
    Ok(all)
}

/// Audits a pod, what makes pods, or a list of such; anything else is nothing.
#[must_use]
pub fn audit_value(
    (file, line): (&str, usize),
    value: &Value,
    (level, exemptions, own_image): (Level, &[Exemption], Option<&str>),
) -> Vec<Audited> {
    let mut all = Vec::new();
    for object in manifest::objects(value) {
        let Some(pointer) = manifest::pointer(object) else { continue };
        let Some(pod) = object.pointer(pointer) else { continue };
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
        let mut findings = audit(pod, level, own_image);
        exemption::apply(exemptions, (namespace, account(pod)), &mut findings);
        let prefix = pointer.trim_start_matches('/').replace('/', ".");
        for finding in findings.iter_mut().filter(|_| !prefix.is_empty()) {
            finding.fault.path = format!("{prefix}.{}", finding.fault.path);
        }
        let (kind, name) = (object["kind"].as_str().unwrap_or_default(), &object["metadata"]["name"]);
        let object = format!("{kind}/{namespace}/{}", name.as_str().unwrap_or_default());
        all.push(Audited { file: file.to_owned(), line, object, findings });
    }
    all
}

/// The service account of a pod.
#[must_use]
pub fn account(pod: &Value) -> &str {
    match pod["spec"]["serviceAccountName"].as_str() {
        None | Some("") => "default",
        Some(name) => name,
    }
}

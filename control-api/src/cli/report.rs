//! A report as text for people, as JSON for programs, and as SARIF 2.1.0 for code review.

use std::io::{self, Write};

use clap::ValueEnum;
use serde_json::{Value, json};

use super::validate::Report;
use crate::source::{Diagnostic, InForce, Severity};

/// The form of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// A line for each finding, and one at the end.
    Text,
    /// One JSON object.
    Json,
    /// SARIF 2.1.0.
    Sarif,
}

const SARIF_SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

/// What the rules mean, by their names.
const RULES: [(&str, &str); 6] = [
    ("duplicate", "Two objects have one kind, namespace and name."),
    ("invalid-object", "An object does not have the form that its kind asks for."),
    ("not-accepted", "An object has no effect."),
    ("partly-without-effect", "A part of an object has no effect."),
    ("unreadable", "A file or a document of it cannot be read."),
    ("unresolved-reference", "An object refers to something that is not there."),
];

/// Writes a report.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write(report: &Report, output: Output, out: &mut dyn Write) -> io::Result<()> {
    match output {
        Output::Text => text(report, out),
        Output::Json => writeln!(out, "{:#}", json_form(report)),
        Output::Sarif => writeln!(out, "{:#}", sarif(report)),
    }
}

fn text(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    for diagnostic in &report.diagnostics {
        writeln!(out, "{diagnostic}")?;
    }
    let (errors, warnings) = (report.errors(), report.diagnostics.len() - report.errors());
    let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let good = if report.objects == 1 { "is good in itself" } else { "are good in themselves" };
    let objects = counted(report.objects, "object");
    writeln!(out, "{objects} {good}; {}, {}", counted(errors, "error"), counted(warnings, "warning"))
}

fn json_form(report: &Report) -> Value {
    let each = report.diagnostics.iter().map(|one| {
        json!({
            "file": &*one.place.file,
            "line": one.place.line,
            "document": one.place.document,
            "object": one.object.as_ref().map(ToString::to_string),
            "field": one.fault.path,
            "reason": one.fault.reason,
            "severity": one.severity.to_string(),
            "rule": one.rule,
            "denied": one.in_force == InForce::Denial,
        })
    });
    json!({
        "objects": report.objects,
        "errors": report.errors(),
        "findings": each.collect::<Vec<_>>(),
    })
}

fn sarif(report: &Report) -> Value {
    let rules = RULES.map(|(id, text)| json!({"id": id, "shortDescription": {"text": text}}));
    let results: Vec<Value> = report.diagnostics.iter().map(result).collect();
    json!({
        "$schema": SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "outrider validate",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn result(one: &Diagnostic) -> Value {
    let object = one.object.as_ref().map(|object| format!("{object}: ")).unwrap_or_default();
    let level = match one.severity {
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    let rule = RULES.iter().position(|(id, _)| *id == one.rule);
    let mut result = json!({
        "ruleId": one.rule,
        "level": level,
        "message": {"text": format!("{object}{}", one.fault)},
        "locations": [{"physicalLocation": {
            "artifactLocation": {"uri": uri(&one.place.file)},
            // SARIF counts from 1.
            "region": {"startLine": one.place.line.max(1)},
        }}],
    });
    if let (Some(rule), Some(fields)) = (rule, result.as_object_mut()) {
        fields.insert("ruleIndex".to_owned(), rule.into());
    }
    if let (Some(object), Some(fields)) = (&one.object, result.as_object_mut()) {
        let logical = json!([{"fullyQualifiedName": object.to_string()}]);
        if let Some(location) = fields.get_mut("locations").and_then(|all| all.get_mut(0)) {
            location["logicalLocations"] = logical;
        }
    }
    result
}

/// A path as a relative reference (RFC 3986 section 3.3): what may not stand in one is escaped.
fn uri(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/!$&'()*+,;=@".contains(&byte);
    path.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

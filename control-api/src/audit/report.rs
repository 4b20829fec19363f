//! What an audit found: as text for people, as JSON for programs, as SARIF 2.1.0 for code review, as JUnit for CI.

use std::io::{self, Write};

use clap::ValueEnum;
use serde_json::{Value, json};

use super::{Audited, Finding, Level, rules};

/// The form of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// A line for each finding, and one at the end.
    Text,
    /// One JSON object.
    Json,
    /// SARIF 2.1.0.
    Sarif,
    /// JUnit's XML: a test case for each pod.
    Junit,
}

const SARIF_SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

/// Writes a report.
///
/// # Errors
/// When it cannot be written.
pub fn write(all: &[Audited], form: Form, out: &mut dyn Write) -> io::Result<()> {
    match form {
        Form::Text => text(all, out),
        Form::Json => writeln!(out, "{:#}", json_form(all)),
        Form::Sarif => writeln!(out, "{:#}", sarif(all)),
        Form::Junit => out.write_all(junit(all).as_bytes()),
    }
}

fn text(all: &[Audited], out: &mut dyn Write) -> io::Result<()> {
    for audited in all {
        for finding in &audited.findings {
            writeln!(out, "{}:{}: {}: {finding}", audited.file, audited.line, audited.object)?;
        }
    }
    let findings: usize = all.iter().map(|audited| audited.findings.len()).sum();
    let wrong = all.iter().filter(|audited| !audited.findings.is_empty()).count();
    writeln!(out, "{} pods and templates, {wrong} of them with {findings} findings", all.len())
}

fn json_form(all: &[Audited]) -> Value {
    let findings =
        all.iter().flat_map(|audited| audited.findings.iter().map(move |finding| (audited, finding)));
    let findings: Vec<Value> = findings
        .map(|(audited, finding)| {
            json!({
                "file": audited.file,
                "line": audited.line,
                "object": audited.object,
                "field": finding.fault.path,
                "reason": finding.fault.reason,
                "rule": finding.rule.name,
                "level": finding.rule.level.name(),
            })
        })
        .collect();
    json!({"audited": all.len(), "findings": findings})
}

fn sarif(all: &[Audited]) -> Value {
    let rules: Vec<Value> = rules()
        .into_iter()
        .map(|rule| {
            json!({
                "id": rule.name,
                "shortDescription": {"text": rule.about},
                "properties": {"tags": ["security", rule.level.name()]},
            })
        })
        .collect();
    let results: Vec<Value> = all
        .iter()
        .flat_map(|audited| audited.findings.iter().map(move |finding| result(audited, finding)))
        .collect();
    json!({
        "$schema": SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "outrider audit", "version": env!("CARGO_PKG_VERSION"), "rules": rules}},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn result(audited: &Audited, finding: &Finding) -> Value {
    json!({
        "ruleId": finding.rule.name,
        "ruleIndex": rules().iter().position(|rule| rule.name == finding.rule.name),
        "level": match finding.rule.level {
            Level::Baseline => "error",
            Level::Restricted => "warning",
        },
        "message": {"text": format!("{}: {}", audited.object, finding.fault)},
        "locations": [{
            "physicalLocation": {
                "artifactLocation": {"uri": uri(&audited.file)},
                "region": {"startLine": audited.line.max(1)},
            },
            "logicalLocations": [{"fullyQualifiedName": format!("{}:{}", audited.object, finding.fault.path)}],
        }],
    })
}

/// A path as a relative reference (RFC 3986 section 3.3): what may not stand in one is escaped.
fn uri(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/!$&'()*+,;=@".contains(&byte);
    path.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn junit(all: &[Audited]) -> String {
    let failures = all.iter().filter(|audited| !audited.findings.is_empty()).count();
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"outrider audit\" tests=\"{0}\" \
         failures=\"{failures}\">\n<testsuite name=\"outrider audit\" tests=\"{0}\" failures=\"{failures}\">\n",
        all.len()
    );
    for audited in all {
        let case =
            format!("<testcase classname=\"{}\" name=\"{}\"", xml(&audited.file), xml(&audited.object));
        out.push_str(&case);
        if audited.findings.is_empty() {
            out.push_str("/>\n");
            continue;
        }
        let lines: Vec<String> = audited.findings.iter().map(ToString::to_string).collect();
        out.push_str(&format!(
            ">\n<failure message=\"{} findings\" type=\"audit\">{}</failure>\n</testcase>\n",
            lines.len(),
            xml(&lines.join("\n"))
        ));
    }
    out.push_str("</testsuite>\n</testsuites>\n");
    out
}

/// Text in XML; characters that XML 1.0 cannot hold at all are replaced.
fn xml(text: &str) -> String {
    text.chars()
        .map(|letter| match letter {
            '&' => "&amp;".to_owned(),
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            '"' => "&quot;".to_owned(),
            '\n' | '\t' => letter.to_string(),
            control if control.is_control() || matches!(control, '\u{FFFE}' | '\u{FFFF}') => {
                "\u{FFFD}".to_owned()
            }
            other => other.to_string(),
        })
        .collect()
}

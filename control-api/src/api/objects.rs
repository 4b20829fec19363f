//! The operator's objects with their conditions, and what is wrong with the files.

use std::sync::Arc;

use serde::Serialize;

use super::Api;
use crate::conditions::{Condition, Findings};
use crate::object::{AnyObject, Key};
use crate::source::{Diagnostic, InForce, Severity};

/// All objects.
#[derive(Debug, Serialize)]
pub(super) struct All {
    objects: Vec<Object>,
    /// What is wrong, object or not.
    problems: Vec<Problem>,
}

/// An object.
#[derive(Debug, Serialize)]
pub(super) struct Object {
    /// `Kind/namespace/name`
    key: String,
    /// Where it stands.
    file: Arc<str>,
    line: usize,
    conditions: Vec<Condition>,
    /// Proxies that are told something of it, those that have accepted it, and those that refuse it.
    proxies: usize,
    acknowledged: usize,
    refused: usize,
    problems: Vec<Problem>,
}

/// Something that is wrong in a file.
#[derive(Debug, Serialize)]
struct Problem {
    file: Arc<str>,
    line: usize,
    object: Option<String>,
    severity: &'static str,
    rule: &'static str,
    reason: String,
    /// Whether the last good version stays in force.
    kept: bool,
    /// Whether everything is denied that it may be about.
    denied: bool,
}

pub(super) fn all(api: &Api) -> All {
    let findings = Findings::new(api.engine.compiled(), &api.registry);
    let mut objects: Vec<Object> =
        findings.compiled.mesh.objects().all().map(|object| Object::new(&object, &findings)).collect();
    objects.extend(findings.bad().filter_map(|key| Object::bad(key, &findings)));
    All { objects, problems: findings.compiled.diagnostics.iter().map(Problem::new).collect() }
}

pub(super) fn one(api: &Api, key: &str) -> Option<Object> {
    let findings = Findings::new(api.engine.compiled(), &api.registry);
    let found = findings.compiled.mesh.objects().all().find(|object| object.key().to_string() == key);
    let bad = || findings.bad().find(|bad| bad.to_string() == key);
    found
        .map(|object| Object::new(&object, &findings))
        .or_else(|| bad().and_then(|key| Object::bad(key, &findings)))
}

impl Object {
    fn new(object: &AnyObject, findings: &Findings) -> Self {
        let place = object.place();
        Self::at(object.key(), (&place.file, place.line), findings)
    }

    /// An object of which there is no version that is good.
    fn bad(key: &Key, findings: &Findings) -> Option<Self> {
        let first = findings.problems(key).next()?;
        Some(Self::at(key, (&first.place.file, first.place.line), findings))
    }

    fn at(key: &Key, (file, line): (&Arc<str>, usize), findings: &Findings) -> Self {
        let status = findings.proxies(key);
        Self {
            key: key.to_string(),
            file: Arc::clone(file),
            line,
            conditions: findings.conditions(key),
            proxies: status.proxies,
            acknowledged: status.acknowledged,
            refused: status.refused,
            problems: findings.problems(key).map(Problem::new).collect(),
        }
    }
}

impl Problem {
    fn new(diagnostic: &Diagnostic) -> Self {
        Self {
            file: Arc::clone(&diagnostic.place.file),
            line: diagnostic.place.line,
            object: diagnostic.object.as_ref().map(ToString::to_string),
            severity: match diagnostic.severity {
                Severity::Warning => "warning",
                Severity::Error => "error",
            },
            rule: diagnostic.rule,
            reason: diagnostic.fault.to_string(),
            kept: diagnostic.in_force == InForce::LastGood,
            denied: diagnostic.in_force == InForce::Denial,
        }
    }
}

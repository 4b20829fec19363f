//! The operator's objects with their conditions, and what is wrong with the files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::Api;
use crate::compile::status::Condition as Compiled;
use crate::engine;
use crate::object::AnyObject;
use crate::registry::ObjectStatus;
use crate::source::{Diagnostic, Severity};

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

/// A condition, in the words of Kubernetes.
#[derive(Debug, Serialize)]
struct Condition {
    r#type: &'static str,
    status: &'static str,
    reason: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    /// Which parent it is about, for routes.
    #[serde(skip_serializing_if = "String::is_empty")]
    parent: String,
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
}

pub(super) fn all(api: &Api) -> All {
    let compiled = api.engine.compiled();
    let told = api.registry.objects();
    let mut objects: Vec<Object> =
        compiled.mesh.objects().all().map(|object| Object::new(&object, &compiled, &told)).collect();
    let known: BTreeSet<String> = objects.iter().map(|object| object.key.clone()).collect();
    // Of these there is no version that is good.
    let bad: BTreeSet<String> =
        compiled.diagnostics.iter().filter_map(|one| Some(one.object.as_ref()?.to_string())).collect();
    objects.extend(bad.difference(&known).filter_map(|key| Object::bad(key, &compiled)));
    All { objects, problems: compiled.diagnostics.iter().map(Problem::new).collect() }
}

pub(super) fn one(api: &Api, key: &str) -> Option<Object> {
    let compiled = api.engine.compiled();
    let found = compiled.mesh.objects().all().find(|object| object.key().to_string() == key);
    let told = api.registry.objects();
    found.map(|object| Object::new(&object, &compiled, &told)).or_else(|| Object::bad(key, &compiled))
}

impl Object {
    fn new(object: &AnyObject, compiled: &engine::Compiled, told: &BTreeMap<Arc<str>, ObjectStatus>) -> Self {
        let key = object.key().to_string();
        let statuses = compiled.mesh.statuses().of(object.key());
        let parents = statuses.iter().flat_map(|status| &status.parents);
        let mut conditions: Vec<Condition> = parents
            .flat_map(|(parent, all)| all.iter().map(move |one| Condition::compiled(one, parent)))
            .collect();
        let problems: Vec<Problem> = problems(&key, compiled).collect();
        if let Some(newer) = problems.iter().find(|problem| problem.kept) {
            // What holds is not what is written.
            conditions.retain(|condition| condition.r#type != "Accepted");
            conditions.insert(0, Condition::invalid(newer));
        }
        let none = ObjectStatus::default();
        let status = told.get(key.as_str()).unwrap_or(&none);
        conditions.extend(Condition::programmed(status));
        let place = object.place();
        Self {
            file: Arc::clone(&place.file),
            line: place.line,
            conditions,
            proxies: status.proxies,
            acknowledged: status.acknowledged,
            refused: status.refused,
            problems,
            key,
        }
    }

    /// An object of which there is no version that is good.
    fn bad(key: &str, compiled: &engine::Compiled) -> Option<Self> {
        let problems: Vec<Problem> = problems(key, compiled).collect();
        let first = problems.first()?;
        Some(Self {
            key: key.to_owned(),
            file: Arc::clone(&first.file),
            line: first.line,
            conditions: vec![Condition::invalid(first)],
            proxies: 0,
            acknowledged: 0,
            refused: 0,
            problems,
        })
    }
}

fn problems(key: &str, compiled: &engine::Compiled) -> impl Iterator<Item = Problem> {
    let of_it = compiled
        .diagnostics
        .iter()
        .filter(move |one| one.object.as_ref().is_some_and(|object| object.to_string() == key));
    of_it.map(Problem::new)
}

impl Condition {
    fn compiled(condition: &Compiled, parent: &str) -> Self {
        Self {
            r#type: condition.kind.as_str(),
            status: if condition.holds { "True" } else { "False" },
            reason: condition.reason,
            message: condition.message.clone(),
            parent: parent.to_owned(),
        }
    }

    fn invalid(problem: &Problem) -> Self {
        Self {
            r#type: "Accepted",
            status: "False",
            reason: "Invalid",
            message: problem.reason.clone(),
            parent: String::new(),
        }
    }

    /// "acknowledged by 12 of 13 proxies; rejected by X: FIELD: reason"; nothing where no proxy is told of it.
    fn programmed(status: &ObjectStatus) -> Option<Self> {
        if status.proxies == 0 {
            return None;
        }
        let mut message = format!("acknowledged by {} of {} proxies", status.acknowledged, status.proxies);
        for rejection in &status.rejections {
            message.push_str(&format!("; rejected by {}: {}", rejection.proxy, rejection.detail));
        }
        let (status, reason) = match (status.refused, status.acknowledged == status.proxies) {
            (0, true) => ("True", "Programmed"),
            (0, false) => ("Unknown", "Pending"),
            (_, _) => ("False", "Rejected"),
        };
        Some(Self { r#type: "Programmed", status, reason, message, parent: String::new() })
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
            kept: diagnostic.kept,
        }
    }
}

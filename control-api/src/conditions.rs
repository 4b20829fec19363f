//! What is said about objects: what compiling found, what their proxies answer, and what could not even be read. Shown by
//! the API, and written back to Kubernetes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::compile::status::Condition as Found;
use crate::engine::Compiled;
use crate::object::Key;
use crate::registry::{ObjectStatus, Registry};
use crate::source::{Diagnostic, InForce};

/// A condition, in the words of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// Which one.
    pub r#type: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// A word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Which parent it is about, for routes; empty when it is about all of them.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub parent: String,
}

/// All that is known of objects at a moment.
#[derive(Debug)]
pub struct Findings {
    /// What is in force.
    pub compiled: Compiled,
    proxies: BTreeMap<Arc<str>, ObjectStatus>,
    problems: BTreeMap<Key, Vec<usize>>,
}

impl Findings {
    /// Of what is in force now, and what the proxies say of it.
    #[must_use]
    pub fn new(compiled: Compiled, registry: &Registry) -> Self {
        Self::of(compiled, registry.objects())
    }

    /// Of what is in force now, and how proxies stand with it, by the names of objects.
    #[must_use]
    pub fn of(compiled: Compiled, proxies: BTreeMap<Arc<str>, ObjectStatus>) -> Self {
        let mut problems: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
        for (index, problem) in compiled.diagnostics.iter().enumerate() {
            if let Some(key) = &problem.object {
                problems.entry(key.clone()).or_default().push(index);
            }
        }
        Self { compiled, proxies, problems }
    }

    /// What is wrong with an object as it is written.
    pub fn problems(&self, key: &Key) -> impl Iterator<Item = &Diagnostic> {
        let found = self.problems.get(key).into_iter().flatten();
        found.filter_map(|index| self.compiled.diagnostics.get(*index))
    }

    /// The objects of which there is no version that is good.
    pub fn bad(&self) -> impl Iterator<Item = &Key> {
        let objects = self.compiled.mesh.objects();
        self.problems.keys().filter(|key| objects.object(key).is_none())
    }

    /// What is made of the mesh as a whole and of no object, as far as somebody refuses it.
    pub fn refused_of_mesh(&self) -> impl Iterator<Item = (&Arc<str>, &ObjectStatus)> {
        self.proxies.iter().filter(|(origin, status)| origin.starts_with("Mesh//") && status.refused > 0)
    }

    /// How its proxies stand with an object.
    #[must_use]
    pub fn proxies(&self, key: &Key) -> ObjectStatus {
        self.proxies.get(key.to_string().as_str()).cloned().unwrap_or_default()
    }

    /// What is to be said about an object; nothing when it is not known.
    #[must_use]
    pub fn conditions(&self, key: &Key) -> Vec<Condition> {
        if self.compiled.mesh.objects().object(key).is_none() {
            return self.problems(key).take(1).map(Condition::invalid).collect();
        }
        let statuses = self.compiled.mesh.statuses().of(key);
        let parents = statuses.iter().flat_map(|status| &status.parents);
        let mut conditions: Vec<Condition> = parents
            .flat_map(|(parent, all)| all.iter().map(move |one| Condition::found(one, parent)))
            .collect();
        if let Some(newer) = self.problems(key).find(|problem| problem.in_force != InForce::Nothing) {
            // What holds is not what is written.
            conditions.retain(|condition| condition.r#type != "Accepted");
            conditions.insert(0, Condition::invalid(newer));
        }
        conditions.extend(Condition::programmed(&self.proxies(key)));
        conditions
    }
}

impl Condition {
    fn found(condition: &Found, parent: &str) -> Self {
        Self {
            r#type: condition.kind.as_str(),
            status: if condition.holds { "True" } else { "False" },
            reason: condition.reason,
            message: condition.message.clone(),
            parent: parent.to_owned(),
        }
    }

    fn invalid(problem: &Diagnostic) -> Self {
        let message = match problem.in_force {
            InForce::Nothing | InForce::LastGood => problem.fault.to_string(),
            InForce::Denial => format!("{}; {}", problem.fault, problem.in_force.said()),
        };
        Self { r#type: "Accepted", status: "False", reason: "Invalid", message, parent: String::new() }
    }

    /// "acknowledged by 12 of 13 proxies; rejected by X: FIELD: reason"; nothing where no proxy is told of it.
    pub(crate) fn programmed(status: &ObjectStatus) -> Option<Self> {
        if status.proxies == 0 {
            return None;
        }
        let mut message = format!("acknowledged by {} of {} proxies", status.acknowledged, status.proxies);
        for rejection in &status.rejections {
            message.push_str(&format!("; rejected by {}: {}", rejection.proxy, rejection.detail));
        }
        if status.lapsed > 0 {
            message.push_str(&format!("; lapsed at {}", status.lapsed));
        }
        let (status, reason) = match (status.refused, status.lapsed) {
            (0, 0) if status.acknowledged == status.proxies => ("True", "Programmed"),
            (0, 0) => ("Unknown", "Pending"),
            (0, _) => ("False", "Lapsed"),
            (_, _) => ("False", "Rejected"),
        };
        Some(Self { r#type: "Programmed", status, reason, message, parent: String::new() })
    }
}

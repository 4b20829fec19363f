//! Pods that could break out: the Pod Security Standards of Kubernetes, and the paths out of a container that those do
//! not name. A pod in, findings out; the admission webhook and `outrider audit` are two ways to ask.
//!
//! Source of the standards: <https://kubernetes.io/docs/concepts/security/pod-security-standards/>, as of 1.36. They
//! loosen some rules for pods of Windows, and for pods with users of their own (`hostUsers: false`).

#![expect(
    clippy::indexing_slicing,
    reason = "a member that a JSON value lacks reads as null; written to are only objects that are made or checked here"
)]

mod baseline;
mod breakout;
pub mod exemption;
mod file;
mod pod;
pub mod report;
mod restricted;

use outrider_proto::Fault;
use serde_json::Value;

pub use exemption::Exemption;
pub use file::{Audited, account, audit_text, audit_value};

/// How much is asked of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Level {
    /// No known way out.
    Baseline,
    /// And no more rights than an application needs.
    Restricted,
}

impl Level {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// A rule: its name, which never changes, and what it is about.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// One word.
    pub name: &'static str,
    /// From which level on it holds.
    pub level: Level,
    /// What could happen.
    pub about: &'static str,
}

/// One thing that a pod has and should not have, or the other way round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule.
    pub rule: &'static Rule,
    /// The field, and what to change.
    pub fault: Fault,
}

impl std::fmt::Display for Finding {
    /// `FIELD: REASON [RULE]`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} [{}]", self.fault, self.rule.name)
    }
}

/// What is wrong with a pod, or a pod's template, at a level; in the order of the rules. The init container of
/// redirection is the mesh's own if its image is `own_image` and it does nothing else; its `NET_ADMIN` is no finding.
#[must_use]
pub fn audit(pod: &Value, level: Level, own_image: Option<&str>) -> Vec<Finding> {
    let pod = pod::Pod::new(pod, own_image);
    let mut findings = Vec::new();
    baseline::check(&pod, &mut findings);
    breakout::check(&pod, &mut findings);
    if level == Level::Restricted {
        restricted::check(&pod, &mut findings);
    }
    findings.retain(|finding| finding.rule.level <= level);
    findings
}

/// All rules.
#[must_use]
pub fn rules() -> Vec<&'static Rule> {
    [baseline::RULES, breakout::RULES, restricted::RULES].concat()
}

#[cfg(test)]
mod standard_tests;
#[cfg(test)]
mod tests;

//! Policies that are decided together.

use std::sync::Arc;

use super::index::Index;
use super::rule::{Reading, Rule, Subject};

/// What a match means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Allowed is what matches, and nothing else.
    Allow,
    /// Denied is what matches, and nothing else.
    Deny,
    /// Everything is allowed; a match is only recorded.
    Log,
}

/// One policy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Its name in answers and logs.
    pub name: Arc<str>,
    /// Its name in metrics: with the filter's prefix.
    pub label: Arc<str>,
    /// What it is about: what is done, and who does it.
    pub rule: Rule,
}

/// The policies of one filter, in the order in which they are tried.
#[derive(Debug)]
pub struct PolicySet {
    action: Action,
    policies: Box<[Policy]>,
    index: Index,
    /// What metrics say where no policy matched.
    pub(super) none: Arc<str>,
}

impl PolicySet {
    /// Puts policies into the order of their names, as Envoy tries them; `prefix` stands before names in metrics.
    #[must_use]
    pub fn new(action: Action, mut policies: Vec<Policy>, prefix: &str) -> Self {
        policies.sort_by(|left, right| left.name.cmp(&right.name));
        let index = Index::new(policies.iter().map(|policy| &policy.rule));
        let none = format!("{prefix}none").into();
        Self { action, policies: policies.into(), index, none }
    }

    /// What a match means.
    #[must_use]
    pub const fn action(&self) -> Action {
        self.action
    }

    /// Whether the subject is allowed, and the first policy that matches it. Allocates nothing.
    #[must_use]
    pub fn decide(&self, subject: &Subject<'_>) -> (bool, Option<&Policy>) {
        let reading = self.reading();
        let accept = |position: u32| {
            self.policies.get(position as usize).is_some_and(|policy| policy.rule.matches(subject, reading))
        };
        let position = self.index.first(subject, accept);
        self.verdict(position.and_then(|position| self.policies.get(position as usize)))
    }

    /// The same by trying one policy after the other: what the index must agree with.
    #[must_use]
    pub fn decide_by_scan(&self, subject: &Subject<'_>) -> (bool, Option<&Policy>) {
        let reading = self.reading();
        self.verdict(self.policies.iter().find(|policy| policy.rule.matches(subject, reading)))
    }

    const fn reading(&self) -> Reading {
        match self.action {
            Action::Allow => Reading::All,
            Action::Deny | Action::Log => Reading::Any,
        }
    }

    fn verdict<'a>(&self, matched: Option<&'a Policy>) -> (bool, Option<&'a Policy>) {
        let allowed = match self.action {
            Action::Allow => matched.is_some(),
            Action::Deny => matched.is_none(),
            Action::Log => true,
        };
        (allowed, matched)
    }
}

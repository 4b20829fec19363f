//! A filter: the rules that are enforced, and those that are only watched.

use std::sync::Arc;

use super::rule::Subject;
use super::set::{Action, PolicySet};

/// A compiled filter. Nothing is denied where it has no rules.
#[derive(Debug, Default)]
pub struct Filter {
    /// What is enforced.
    pub rules: Option<PolicySet>,
    /// What is decided beside and recorded.
    pub shadow: Option<PolicySet>,
}

/// What a set of policies says.
#[derive(Clone, Copy, Debug)]
pub struct Verdict<'a> {
    /// Whether it allows.
    pub allowed: bool,
    /// The name of the policy that matched.
    pub policy: Option<&'a Arc<str>>,
    /// How metrics call it.
    pub label: &'a Arc<str>,
    /// Whether the access log is to mark the request: whether a policy of a set that logs matched.
    pub log: Option<bool>,
}

/// What a filter says.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'a> {
    /// What is enforced; `None` without rules.
    pub enforced: Option<Verdict<'a>>,
    /// What would be; `None` without shadow rules.
    pub shadow: Option<Verdict<'a>>,
}

impl Decision<'_> {
    /// Whether it may go on.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.enforced.is_none_or(|verdict| verdict.allowed)
    }
}

impl Filter {
    /// Decides. Allocates nothing.
    #[must_use]
    pub fn decide(&self, subject: &Subject<'_>) -> Decision<'_> {
        Decision {
            enforced: self.rules.as_ref().map(|set| set.judge(subject)),
            shadow: self.shadow.as_ref().map(|set| set.judge(subject)),
        }
    }

    /// Whether it decides anything at all.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.rules.is_none() && self.shadow.is_none()
    }
}

impl PolicySet {
    fn judge(&self, subject: &Subject<'_>) -> Verdict<'_> {
        let (allowed, matched) = self.decide(subject);
        Verdict {
            allowed,
            policy: matched.map(|policy| &policy.name),
            label: matched.map_or(&self.none, |policy| &policy.label),
            log: (self.action() == Action::Log).then_some(matched.is_some()),
        }
    }
}

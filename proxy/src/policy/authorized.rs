//! What policies have said about one request or connection, for its log line.

use std::sync::Arc;

use super::filter::{Decision, Verdict};

/// What the filters of one request or connection have said together.
#[derive(Clone, Debug, Default)]
pub struct Authorized {
    /// What was enforced; `None` without rules.
    pub enforced: Option<Ruling>,
    /// What would have been; `None` without shadow rules.
    pub shadow: Option<Ruling>,
    /// Whether a policy of a set that logs matched; `None` without such a set.
    pub log: Option<bool>,
}

/// What one set of policies said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// Whether it allowed.
    pub allowed: bool,
    /// The policy that matched.
    pub policy: Option<Arc<str>>,
}

impl Ruling {
    /// As in Envoy's dynamic metadata.
    #[must_use]
    pub const fn result(&self) -> &'static str {
        if self.allowed { "allowed" } else { "denied" }
    }
}

impl From<&Verdict<'_>> for Ruling {
    fn from(verdict: &Verdict<'_>) -> Self {
        Self { allowed: verdict.allowed, policy: verdict.policy.cloned() }
    }
}

impl Authorized {
    /// Adds what one filter said. Of several the first denial counts, or else the last word.
    pub fn add(&mut self, decision: &Decision<'_>) {
        for (said, verdict) in
            [(&mut self.enforced, &decision.enforced), (&mut self.shadow, &decision.shadow)]
        {
            if let Some(verdict) = verdict
                && said.as_ref().is_none_or(|said| said.allowed)
            {
                *said = Some(verdict.into());
            }
        }
        if let Some(log) = decision.enforced.and_then(|verdict| verdict.log) {
            self.log = Some(self.log.unwrap_or(false) || log);
        }
    }
}

//! What is said about objects: conditions, with the reasons of Gateway API.

use std::collections::BTreeMap;

use crate::object::Key;

/// A condition of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Which one.
    pub kind: ConditionKind,
    /// Whether it holds.
    pub holds: bool,
    /// A word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// The conditions that compiling knows of. Serving adds `Programmed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionKind {
    /// The object has an effect.
    Accepted,
    /// What it refers to is there.
    ResolvedRefs,
    /// A part of it has no effect; there only when it holds.
    PartiallyInvalid,
}

impl ConditionKind {
    /// As in the field `type`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::PartiallyInvalid => "PartiallyInvalid",
        }
    }
}

/// The conditions of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectStatus {
    /// By parent, in the order of `parentRefs`, for routes (`Service/NAMESPACE/NAME`, with `:PORT` where it names one);
    /// the name is empty for other objects.
    pub parents: BTreeMap<String, Vec<Condition>>,
}

impl ObjectStatus {
    /// What is not as it should be.
    pub fn problems(&self) -> impl Iterator<Item = (&str, &Condition)> {
        self.parents.iter().flat_map(|(parent, conditions)| {
            conditions
                .iter()
                .filter(|one| one.holds == (one.kind == ConditionKind::PartiallyInvalid))
                .map(move |one| (parent.as_str(), one))
        })
    }
}

/// The conditions of all objects that have any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statuses(BTreeMap<Key, ObjectStatus>);

impl Statuses {
    /// The conditions of an object.
    #[must_use]
    pub fn of(&self, key: &Key) -> Option<&ObjectStatus> {
        self.0.get(key)
    }

    /// All objects that have conditions.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &ObjectStatus)> {
        self.0.iter()
    }

    /// Says that an object (or its part for one parent) has an effect, unless something else was said.
    pub(super) fn accept(&mut self, key: &Key, parent: &str) {
        for kind in [ConditionKind::Accepted, ConditionKind::ResolvedRefs] {
            if !self.conditions(key, parent).iter().any(|one| one.kind == kind) {
                self.conditions(key, parent).push(Condition {
                    kind,
                    holds: true,
                    reason: kind.as_str(),
                    message: String::new(),
                });
            }
        }
        self.conditions(key, parent).sort_by_key(|one| one.kind);
    }

    /// Says what is wrong. Of several reasons the first one stands, with all messages.
    pub(super) fn refuse(
        &mut self,
        (key, parent): (&Key, &str),
        kind: ConditionKind,
        reason: &'static str,
        message: &str,
    ) {
        let holds = kind == ConditionKind::PartiallyInvalid;
        let conditions = self.conditions(key, parent);
        match conditions.iter_mut().find(|one| one.kind == kind) {
            Some(one) if one.holds == holds => {
                if !one.message.contains(message) {
                    one.message.push_str("; ");
                    one.message.push_str(message);
                }
            }
            Some(one) => *one = Condition { kind, holds, reason, message: message.to_owned() },
            None => conditions.push(Condition { kind, holds, reason, message: message.to_owned() }),
        }
        conditions.sort_by_key(|one| one.kind);
    }

    /// Says what is wrong with an object whatever its parent.
    pub(super) fn note(&mut self, key: &Key, kind: ConditionKind, reason: &'static str, message: &str) {
        let known = self.0.get(key).map(|status| status.parents.keys().cloned().collect::<Vec<_>>());
        let parents = known.filter(|parents| !parents.is_empty()).unwrap_or_else(|| vec![String::new()]);
        for parent in parents {
            self.refuse((key, &parent), kind, reason, message);
        }
    }

    fn conditions(&mut self, key: &Key, parent: &str) -> &mut Vec<Condition> {
        self.0.entry(key.clone()).or_default().parents.entry(parent.to_owned()).or_default()
    }
}

//! What is wrong with an object, or with the file that it stands in.

use std::fmt;

use outrider_proto::Fault;

use crate::object::{Key, Place};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The object works, but not as somebody may believe.
    Warning,
    /// The object, or a part of it, has no effect.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// What holds of an object that is bad now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InForce {
    /// Nothing.
    Nothing,
    /// An older version that was good.
    LastGood,
    /// It would have said who may talk to whom, and now nobody may.
    Denial,
}

impl InForce {
    /// A sentence about it; empty where there is nothing to say.
    #[must_use]
    pub fn said(self) -> &'static str {
        match self {
            Self::Nothing => "",
            Self::LastGood => "the last good version stays in force",
            Self::Denial => "until it is good, everything is denied that it may be about",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where.
    pub place: Place,
    /// The object, if it can be told.
    pub object: Option<Key>,
    /// The field, and what is wrong with it.
    pub fault: Fault,
    /// How bad it is.
    pub severity: Severity,
    /// What holds in place of what is written.
    pub in_force: InForce,
    /// What kind of finding it is; one word that never changes.
    pub rule: &'static str,
}

impl fmt::Display for Diagnostic {
    /// `FILE:LINE: SEVERITY: KIND/NAMESPACE/NAME: FIELD: REASON [RULE]`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.file.is_empty() {
            write!(f, "{}", self.place.file)?;
            if self.place.line > 0 {
                write!(f, ":{}", self.place.line)?;
            }
            write!(f, ": ")?;
        }
        write!(f, "{}: ", self.severity)?;
        if self.place.document > 1 {
            write!(f, "document {}: ", self.place.document)?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        write!(f, "{} [{}]", self.fault, self.rule)?;
        match self.in_force.said() {
            "" => Ok(()),
            said => write!(f, " ({said})"),
        }
    }
}

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
    /// Whether an older, good version of the object stays in force.
    pub kept: bool,
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
        if self.kept {
            write!(f, " (the last good version stays in force)")?;
        }
        Ok(())
    }
}

//! What a URL asks.

use crate::audit::Level;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// A pod with its sidecar.
    Inject {
        /// Whether the namespace is one whose pods get one when they say nothing.
        enabled: bool,
    },
    /// What could break out.
    Audit {
        /// What comes of a finding.
        mode: Mode,
        /// How much is asked.
        level: Level,
    },
}

/// What comes of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The pod is refused.
    Enforce,
    /// Who creates it is warned.
    Warn,
    /// It stands in the API server's audit log.
    Audit,
}

impl Question {
    /// Of a path; `None` for what is not known, because a typing error in a configuration must not turn enforcement
    /// off. What stands in the query is the API server's affair (how long it waits).
    pub(super) fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        match parts.as_slice() {
            ["inject"] => Some(Self::Inject { enabled: false }),
            ["inject", "enabled"] => Some(Self::Inject { enabled: true }),
            ["audit", mode, level] => {
                let mode = match *mode {
                    "enforce" => Mode::Enforce,
                    "warn" => Mode::Warn,
                    "audit" => Mode::Audit,
                    _ => return None,
                };
                let level =
                    [Level::Baseline, Level::Restricted].into_iter().find(|one| one.name() == *level)?;
                Some(Self::Audit { mode, level })
            }
            _ => None,
        }
    }
}

//! The proxy locks itself in: after its start it can neither run another program nor reach what it does not need, so
//! that whoever takes it over has gained a proxy and nothing else.
//!
//! Runs once, on the only thread there is then, after the configuration is read and before anything is listened on:
//! threads that come later inherit everything. What the kernel lacks is said in the log, in `/server_info` and in the
//! metric `outrider_lock_in`; what it has and refuses to do ends the start.
//!
//! | layer | where |
//! |---|---|
//! | no new privileges, no capabilities, no core dumps | [`privileges`] |
//! | files: only those that the configuration names ([`access`]) | [`files`] |
//! | system calls: only those that the proxy makes | [`calls`] |
//!
//! [`probe`] tries to get out.

pub mod access;
pub mod calls;
pub mod files;
pub mod privileges;
pub mod probe;
pub mod report;

use std::io;

pub use access::Access;
pub use report::{Report, State};

/// How far the proxy goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// What is not needed is refused.
    #[default]
    Enforce,
    /// System calls that would be refused are only logged, by the kernel; files are not restricted, because the kernel
    /// cannot only log there.
    Log,
    /// Nothing is done.
    Off,
}

impl Level {
    /// By its name in `OUTRIDER_LOCK_IN`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Enforce, Self::Log, Self::Off].into_iter().find(|level| level.name() == name)
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Log => "log",
            Self::Off => "off",
        }
    }
}

/// Why the proxy could not be locked in, although the kernel has what is needed for it.
#[derive(Debug, thiserror::Error)]
pub enum LockInError {
    /// A thread that runs already would be left out.
    #[error("{0} threads run already, and only the first would be locked in")]
    Threads(usize),
    /// The kernel refused.
    #[error("{layer}: {reason}; OUTRIDER_LOCK_IN=log or off starts without it")]
    Refused {
        /// Which layer.
        layer: &'static str,
        /// What the kernel said.
        reason: String,
    },
}

impl LockInError {
    fn new(layer: &'static str, error: &dyn std::fmt::Display) -> Self {
        Self::Refused { layer, reason: error.to_string() }
    }
}

/// Locks the process in, for ever.
///
/// # Errors
/// When it is not locked in as far as the kernel could.
pub fn lock(level: Level, access: &Access) -> Result<Report, LockInError> {
    let mut report = Report::new(level);
    if level == Level::Off {
        return Ok(report);
    }
    let threads = threads().map_err(|error| LockInError::new("threads", &error))?;
    if threads > 1 {
        return Err(LockInError::Threads(threads));
    }
    privileges::drop_all(access, &mut report)?;
    files::restrict(level, access, &mut report)?;
    // Last, because it would refuse all of the above.
    calls::filter(level, access, &mut report)?;
    Ok(report)
}

fn threads() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

//! Which core does what: the subject on one, the generator and the backend on another.

use std::process::{Child, Command};

use anyhow::{Context as _, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The division of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// Where the subject runs.
    pub subject: usize,
    /// Where the generator and the backend run.
    pub load: usize,
}

impl Cores {
    /// The first two cores that this process may use; the same one twice if there is only one.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn divide() -> Result<Self> {
        let allowed = sched_getaffinity(None).context("which cores may be used")?;
        let mut usable = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let subject = usable.next().context("no core may be used")?;
        Ok(Self { subject, load: usable.next().unwrap_or(subject) })
    }

    /// Whether the generator takes its time from the subject.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        self.subject == self.load
    }
}

/// Pins the calling thread, and so every thread and process that it starts afterwards.
///
/// # Errors
/// When the core may not be used.
pub fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on core {core}"))
}

/// Starts a command on one core, and leaves the caller on `home`.
///
/// A child inherits the affinity of the thread that starts it, so that none of its threads ever runs elsewhere.
///
/// # Errors
/// When the core may not be used or the command cannot be started.
pub fn spawn_on(command: &mut Command, core: usize, home: usize) -> Result<Child> {
    pin(core)?;
    let spawned = command.spawn();
    pin(home)?;
    spawned.with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_stays_on_its_core_and_the_caller_comes_home() {
        let cores = Cores::divide().unwrap();
        let mut child = spawn_on(Command::new("sleep").arg("30"), cores.subject, cores.load).unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let theirs = sched_getaffinity(Some(pid)).unwrap();
        let own = sched_getaffinity(None).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((theirs.count(), theirs.is_set(cores.subject)), (1, true));
        assert_eq!((own.count(), own.is_set(cores.load)), (1, true));
    }
}

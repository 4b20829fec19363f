//! Landlock: only those files can be opened that the proxy needs.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AddRuleError, AddRulesError, BitFlags, LandlockStatus, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};

use super::access::KERNEL;
use super::report::{Report, State};
use super::{Access, Level, LockInError};

const LAYER: &str = "landlock";
/// The newest version that is asked for; an older kernel gives what it has.
const NEWEST: ABI = ABI::V9;

/// Closes the filesystem but for what is opened.
pub(super) fn restrict(level: Level, access: &Access, report: &mut Report) -> Result<(), LockInError> {
    if level != Level::Enforce {
        let why = "files are not restricted: the kernel cannot only log that";
        report.add(LAYER, State::Logged(why.to_owned()));
        return Ok(());
    }
    let refused = |error: &dyn std::fmt::Display| LockInError::new(LAYER, error);
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|rules| rules.scope(Scope::AbstractUnixSocket | Scope::Signal))
        .and_then(Ruleset::create)
        .map_err(|error| refused(&error))?;
    let grants = access.grants(report);
    // A permission holds for an entry of /proc as long as the kernel keeps the entry in memory.
    report.hold(KERNEL.iter().filter_map(|path| PathFd::new(path).ok()).collect());
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::MakeReg;
    let kernel = KERNEL.iter().map(PathBuf::from).collect();
    for (paths, access) in [
        (&grants.read, read),
        (&kernel, read),
        (&grants.write, write),
        (&grants.sockets, AccessFs::ResolveUnix.into()),
    ] {
        for path in paths {
            allow(&mut rules, path, access)
                .map_err(|error| refused(&format!("{}: {error}", path.display())))?;
        }
    }
    let status = rules.restrict_self().map_err(|error| refused(&error))?;
    let state = match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            State::Lacking("the kernel has it, but not switched on: add landlock to its lsm= list".to_owned())
        }
        (RulesetStatus::NotEnforced, _) => {
            State::Lacking("the kernel has none: Linux 5.13 or newer is needed".to_owned())
        }
        (_, LandlockStatus::Available { effective_abi, .. }) => State::Held(format!(
            "version {}; {} places to read, {} to write",
            effective_abi as i32,
            grants.read.len() + KERNEL.len(),
            grants.write.len()
        )),
        (_, _) => State::Held("on".to_owned()),
    };
    report.add(LAYER, state);
    Ok(())
}

/// What is not there is left out: it was said when the access was worked out.
fn allow(rules: &mut RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<(), RulesetError> {
    let Ok(opened) = PathFd::new(path) else { return Ok(()) };
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
    match rules.add_rule(PathBeneath::new(opened, access)) {
        Ok(_) => Ok(()),
        // A pipe or a socket behind a name such as /dev/stderr: those need no rule.
        Err(RulesetError::AddRules(AddRulesError::Fs(AddRuleError::AddRuleCall { source, .. })))
            if source.raw_os_error() == Some(libc::EBADFD) =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

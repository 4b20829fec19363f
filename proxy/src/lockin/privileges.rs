//! No new privileges, no capabilities, no core dumps.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use super::report::{Report, State};
use super::{Access, LockInError};

/// Gives up whatever the process was started with.
pub(super) fn drop_all(access: &Access, report: &mut Report) -> Result<(), LockInError> {
    set_no_new_privs(true).map_err(|error| LockInError::new("no_new_privs", &error))?;
    report.add("no_new_privs", State::Held("no program can raise privileges".to_owned()));
    let kept = drop_capabilities(access).map_err(|error| LockInError::new("capabilities", &error))?;
    let detail = if kept.is_empty() {
        "none".to_owned()
    } else {
        "none but CAP_NET_BIND_SERVICE, for a port below 1024 in the start-up file".to_owned()
    };
    report.add("capabilities", State::Held(detail));
    no_core_dumps().map_err(|error| LockInError::new("core_dumps", &error))?;
    report
        .add("core_dumps", State::Held("off; memory is not readable for others of the same user".to_owned()));
    Ok(())
}

fn drop_capabilities(access: &Access) -> rustix::io::Result<CapabilitySet> {
    let had = capabilities(None)?;
    if had.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().iter() {
            match remove_capability_from_bounding_set(capability) {
                // An older kernel does not know the newest ones.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
        }
    }
    match clear_ambient_capability_set() {
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error),
    }
    let wanted = if access.low_ports { CapabilitySet::NET_BIND_SERVICE } else { CapabilitySet::empty() };
    let kept = wanted & had.permitted;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)?;
    Ok(kept)
}

/// A core dump holds private keys.
fn no_core_dumps() -> rustix::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

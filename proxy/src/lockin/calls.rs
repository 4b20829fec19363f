//! Seccomp: only those system calls are let through that the proxy makes.
//!
//! A list of what is allowed, because nobody can list what will be dangerous. What is not on it fails with `EPERM`,
//! and the proxy goes on. Not on it, among others: running programs, new processes, tracing, mounting, namespaces,
//! modules, `bpf`, `io_uring`, `userfaultfd`, keys, raw and packet sockets, code that was not there before, be it written or
//! mapped from a file.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::report::{Report, State};
use super::{Access, Level, LockInError};

const LAYER: &str = "seccomp";

/// Calls that are let through whatever their arguments.
const PLAIN: &[c_long] = &[
    // Files that are open, or that Landlock lets be opened.
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_getcwd,
    libc::SYS_pipe2,
    libc::SYS_splice,
    // Sockets that are open.
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
    // Waiting, and the time.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_membarrier,
    // Threads and signals of our own.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Questions.
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrandom,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrusage,
    // Answered by the other filter, so that the C library takes the older call.
    libc::SYS_clone3,
];
/// Those that only some processors have.
#[cfg(target_arch = "x86_64")]
const OLD: &[c_long] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_create,
    libc::SYS_pipe,
    libc::SYS_dup2,
    libc::SYS_time,
    libc::SYS_getrlimit,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[c_long] = &[];

/// What may be done with a descriptor by `fcntl`, beside setting its flags: not, among others, naming somebody who gets
/// signals for it, of which Landlock knows nothing before Linux 6.12.
const FCNTLS: [libc::c_int; 5] =
    [libc::F_DUPFD, libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL];
/// Families of sockets of which new ones can be made.
const INTERNET: [libc::c_int; 2] = [libc::AF_INET, libc::AF_INET6];
/// Kinds of them, without the flags that may be set with a kind.
const KINDS: [libc::c_int; 2] = [libc::SOCK_STREAM, libc::SOCK_DGRAM];
/// What of a kind's argument says the kind (`SOCK_TYPE_MASK` of the kernel).
const KIND_MASK: u64 = 0xf;
/// What a new thread is made with, and what a new process or namespace would be made with.
const THREAD: u64 = libc::CLONE_THREAD as u64;
const NAMESPACES: u64 = 0x7e02_0080;
/// Questions and answers about a descriptor: whether it blocks, survives an exec, is a terminal, has something to read.
const IOCTLS: [u64; 6] =
    [libc::FIONBIO, libc::FIOCLEX, libc::FIONCLEX, libc::TCGETS, libc::TIOCGWINSZ, libc::FIONREAD];
/// Options of sockets that put a program into the kernel.
const PROGRAMS: [libc::c_int; 4] = [
    libc::SO_ATTACH_FILTER,
    libc::SO_ATTACH_BPF,
    libc::SO_ATTACH_REUSEPORT_CBPF,
    libc::SO_ATTACH_REUSEPORT_EBPF,
];
/// Names of threads and of memory.
const PRCTLS: [libc::c_int; 4] =
    [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA, libc::PR_GET_DUMPABLE];

/// Puts the filters on this thread; threads that it starts have them too.
pub(super) fn filter(level: Level, access: &Access, report: &mut Report) -> Result<(), LockInError> {
    let (refusal, state) = match level {
        Level::Log => {
            (SeccompAction::Log, State::Logged("refused calls are only logged, by the kernel".to_owned()))
        }
        Level::Enforce | Level::Off => {
            let refusal = SeccompAction::Errno(libc::EPERM.unsigned_abs());
            (refusal, State::Held(format!("{} system calls of the kernel's", allowed(access).len())))
        }
    };
    let wrong = |error: BackendError| LockInError::new(LAYER, &error);
    let main = program(rules(access).map_err(wrong)?, refusal, SeccompAction::Allow).map_err(wrong)?;
    let no_clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let older = program(no_clone3, SeccompAction::Allow, missing).map_err(wrong)?;
    let done = seccompiler::apply_filter(&older).and_then(|()| seccompiler::apply_filter(&main));
    match done {
        Ok(()) => report.add(LAYER, state),
        Err(Error::Seccomp(error)) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => {
            report.add(LAYER, State::Lacking(format!("the kernel has no filters of system calls: {error}")));
        }
        Err(error) => return Err(LockInError::new(LAYER, &error)),
    }
    Ok(())
}

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

fn program(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, otherwise, matched, arch)?.try_into()
}

/// The calls that are let through, if only with some arguments.
fn allowed(access: &Access) -> Vec<c_long> {
    rules(access).map(|rules| rules.into_keys().collect()).unwrap_or_default()
}

fn rules(access: &Access) -> Result<Rules, BackendError> {
    let mut rules: Rules = PLAIN.iter().chain(OLD).map(|call| (*call, Vec::new())).collect();
    let is = |argument: u8, value: u64| SeccompCondition::new(argument, Dword, Eq, value);
    let has =
        |argument: u8, mask: u64, bits: u64| SeccompCondition::new(argument, Dword, MaskedEq(mask), bits);
    rules.insert(libc::SYS_socket, sockets(access)?);
    let general = number(libc::SOL_SOCKET);
    let mut harmless = vec![is(1, general)?];
    for option in PROGRAMS {
        harmless.push(SeccompCondition::new(2, Dword, Ne, number(option))?);
    }
    let elsewhere = SeccompRule::new(vec![SeccompCondition::new(1, Dword, Ne, general)?])?;
    rules.insert(libc::SYS_setsockopt, vec![elsewhere, SeccompRule::new(harmless)?]);
    // Signals are handed to the event loop through such a pair.
    let pair = vec![is(0, number(libc::AF_UNIX))?, has(1, KIND_MASK, number(libc::SOCK_STREAM))?];
    rules.insert(libc::SYS_socketpair, vec![SeccompRule::new(pair)?]);
    let thread = vec![has(0, THREAD | NAMESPACES, THREAD)?];
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(thread)?]);
    // All code is there already: where files can be written, one of them could be code too.
    let data = SeccompRule::new(vec![has(2, number(libc::PROT_EXEC), 0)?])?;
    rules.insert(libc::SYS_mmap, vec![data.clone()]);
    rules.insert(libc::SYS_mprotect, vec![data]);
    let mut descriptors = one_of(1, FCNTLS.map(number))?;
    descriptors
        .push(SeccompRule::new(vec![is(1, number(libc::F_SETFL))?, has(2, number(libc::O_ASYNC), 0)?])?);
    rules.insert(libc::SYS_fcntl, descriptors);
    rules.insert(libc::SYS_ioctl, one_of(1, IOCTLS)?);
    rules.insert(libc::SYS_prctl, one_of(0, PRCTLS.map(number))?);
    // A signal to ourselves: how the standard library ends the process.
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, one_of(0, [own])?);
    // Limits are read, never set.
    let read = SeccompCondition::new(2, seccompiler::SeccompCmpArgLen::Qword, Eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![read])?]);
    Ok(rules)
}

fn sockets(access: &Access) -> Result<Vec<SeccompRule>, BackendError> {
    let unix = access.socket.is_some().then_some(libc::AF_UNIX);
    let mut rules = Vec::new();
    for family in INTERNET.into_iter().chain(unix) {
        // The Workload API is a stream.
        let kinds = if family == libc::AF_UNIX { &KINDS[..1] } else { &KINDS[..] };
        for kind in kinds.iter().copied() {
            let own = if kind == libc::SOCK_STREAM { libc::IPPROTO_TCP } else { libc::IPPROTO_UDP };
            let protocols: &[libc::c_int] = if family == libc::AF_UNIX { &[0] } else { &[0, own] };
            for protocol in protocols {
                rules.push(SeccompRule::new(vec![
                    SeccompCondition::new(0, Dword, Eq, number(family))?,
                    SeccompCondition::new(1, Dword, MaskedEq(KIND_MASK), number(kind))?,
                    SeccompCondition::new(2, Dword, Eq, number(*protocol))?,
                ])?);
            }
        }
    }
    Ok(rules)
}

fn one_of<const N: usize>(argument: u8, values: [u64; N]) -> Result<Vec<SeccompRule>, BackendError> {
    let rule = |value| SeccompRule::new(vec![SeccompCondition::new(argument, Dword, Eq, value)?]);
    values.into_iter().map(rule).collect()
}

/// The constants of the C library that stand here are not negative.
const fn number(constant: libc::c_int) -> u64 {
    constant.unsigned_abs() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_unix_sockets_only_streams_are_made_and_only_where_one_is_needed() {
        let none = sockets(&Access::default()).unwrap();
        let with = sockets(&Access { socket: Some("/run/agent.sock".into()), ..Access::default() }).unwrap();
        let stream = SeccompRule::new(vec![
            SeccompCondition::new(0, Dword, Eq, number(libc::AF_UNIX)).unwrap(),
            SeccompCondition::new(1, Dword, MaskedEq(KIND_MASK), number(libc::SOCK_STREAM)).unwrap(),
            SeccompCondition::new(2, Dword, Eq, 0).unwrap(),
        ]);
        assert_eq!(with, [none, vec![stream.unwrap()]].concat());
    }
}

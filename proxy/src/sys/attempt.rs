//! System calls that must be refused once the proxy is locked in, made in a way that does no harm where they are not.

use std::io;

use libc::{c_int, c_long, c_void};

/// Wants signals for a descriptor.
pub const FIOASYNC: c_long = 0x5452;
/// Names who gets them, of a socket.
pub const SIOCSPGRP: c_long = 0x8902;

/// A call to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Runs a program that is not there.
    Exec,
    /// Starts a process, which ends at once.
    Fork,
    /// Traces a process that there is not.
    Trace,
    /// Reads no bytes of the parent's memory.
    ReadMemory,
    /// Sends no signal to the parent.
    Signal,
    /// Mounts on a directory that is not there.
    Mount,
    /// Takes a directory that is not there as the root.
    Chroot,
    /// Makes a namespace of host names for this thread.
    Unshare,
    /// Enters the namespace of no file.
    EnterNamespace,
    /// Loads no module.
    LoadModule,
    /// Sets up a ring without room.
    IoUring,
    /// Asks `bpf` for something that there is not.
    Bpf,
    /// Makes a descriptor for faults of memory.
    Userfaultfd,
    /// Counts no event.
    PerfEvent,
    /// Asks the key ring for something that there is not.
    Keys,
    /// Opens a file by no handle.
    OpenByHandle,
    /// Changes no user.
    SetUser,
    /// Makes a file in memory.
    MemoryFile,
    /// Maps memory that can be written and executed.
    WritableCode,
    /// Makes memory of ours executable.
    MakeExecutable,
    /// Maps no file as code.
    MapCode,
    /// Names somebody who gets signals for no descriptor.
    SignalOwner,
    /// Wants signals for no descriptor.
    SignalInput,
    /// Does this with no descriptor.
    Ioctl(c_long),
    /// Attaches no filter program to a socket.
    SocketProgram,
    /// Removes a file that is not there.
    Unlink,
    /// Makes a socket: its family, its kind, its protocol.
    Socket(c_int, c_int, c_int),
}

/// Makes the call.
///
/// # Errors
/// What the system says: that it refused, or that there is nothing to do.
pub fn attempt(call: Call) -> io::Result<()> {
    match numbers(call) {
        Some((number, arguments)) => system_call(number, arguments),
        None if call == Call::Fork => fork(),
        None if call == Call::WritableCode => map(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC),
        None if call == Call::MakeExecutable => make_executable(),
        None => attach_program(),
    }
}

fn attach_program() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let descriptor = c_long::from(std::os::fd::AsRawFd::as_raw_fd(&socket));
    let (level, option) = (c_long::from(libc::SOL_SOCKET), c_long::from(libc::SO_ATTACH_FILTER));
    system_call(libc::SYS_setsockopt, [descriptor, level, option, 0, 16])
}

/// The number of a call and its arguments, if that is all. A pointer is that of a constant text, or null.
fn numbers(call: Call) -> Option<(c_long, [c_long; 5])> {
    let nowhere = c"/nonexistent/outrider".as_ptr().expose_provenance().cast_signed() as c_long;
    let at_directory = c_long::from(libc::AT_FDCWD);
    let parent = c_long::from(std::os::unix::process::parent_id());
    Some(match call {
        Call::Exec => (libc::SYS_execve, [nowhere, 0, 0, 0, 0]),
        Call::Trace => (libc::SYS_ptrace, [c_long::from(libc::PTRACE_ATTACH), -1, 0, 0, 0]),
        Call::ReadMemory => (libc::SYS_process_vm_readv, [parent, 0, 0, 0, 0]),
        Call::Signal => (libc::SYS_kill, [parent, 0, 0, 0, 0]),
        Call::Mount => (libc::SYS_mount, [nowhere, nowhere, nowhere, 0, 0]),
        Call::Chroot => (libc::SYS_chroot, [nowhere, 0, 0, 0, 0]),
        Call::Unshare => (libc::SYS_unshare, [c_long::from(libc::CLONE_NEWUTS), 0, 0, 0, 0]),
        Call::EnterNamespace => (libc::SYS_setns, [-1, 0, 0, 0, 0]),
        Call::LoadModule => (libc::SYS_finit_module, [-1, nowhere, 0, 0, 0]),
        Call::IoUring => (libc::SYS_io_uring_setup, [0, 0, 0, 0, 0]),
        Call::Bpf => (libc::SYS_bpf, [c_long::from(c_int::MAX), 0, 0, 0, 0]),
        Call::Userfaultfd => (libc::SYS_userfaultfd, [c_long::from(libc::O_CLOEXEC), 0, 0, 0, 0]),
        Call::PerfEvent => (libc::SYS_perf_event_open, [0, 0, -1, -1, 0]),
        Call::Keys => (libc::SYS_keyctl, [c_long::from(c_int::MAX), 0, 0, 0, 0]),
        Call::OpenByHandle => (libc::SYS_open_by_handle_at, [at_directory, 0, 0, 0, 0]),
        Call::SetUser => (libc::SYS_setresuid, [-1, -1, -1, 0, 0]),
        Call::MemoryFile => (libc::SYS_memfd_create, [nowhere, 1, 0, 0, 0]),
        Call::MapCode => {
            let protection = c_long::from(libc::PROT_READ | libc::PROT_EXEC);
            (libc::SYS_mmap, [0, PAGE_BYTES as c_long, protection, c_long::from(libc::MAP_PRIVATE), -1])
        }
        Call::SignalOwner => (libc::SYS_fcntl, [-1, c_long::from(libc::F_SETOWN), 0, 0, 0]),
        Call::SignalInput => {
            (libc::SYS_fcntl, [-1, c_long::from(libc::F_SETFL), c_long::from(libc::O_ASYNC), 0, 0])
        }
        Call::Ioctl(what) => (libc::SYS_ioctl, [-1, what, 0, 0, 0]),
        Call::Unlink => (libc::SYS_unlinkat, [at_directory, nowhere, 0, 0, 0]),
        Call::Socket(family, kind, protocol) => {
            (libc::SYS_socket, [family.into(), kind.into(), protocol.into(), 0, 0])
        }
        Call::Fork | Call::WritableCode | Call::MakeExecutable | Call::SocketProgram => return None,
    })
}

fn system_call(number: c_long, [a, b, c, d, e]: [c_long; 5]) -> io::Result<()> {
    // SAFETY: private to this module, whose arguments are numbers, null, and constant texts that end with a zero; none
    // of the calls writes to memory of ours through them. A descriptor that comes of it is left open, in a process
    // that only looks.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, 0) };
    if result >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn fork() -> io::Result<()> {
    // SAFETY: the child does nothing but end; the parent waits for it.
    unsafe {
        match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => libc::_exit(0),
            child => {
                libc::waitpid(child, std::ptr::null_mut(), 0);
                Ok(())
            }
        }
    }
}

const PAGE_BYTES: usize = 4096;

fn anonymous(protection: c_int) -> io::Result<*mut c_void> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: new memory at a place that the kernel chooses.
    let place = unsafe { libc::mmap(std::ptr::null_mut(), PAGE_BYTES, protection, flags, -1, 0) };
    if place == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(place) }
}

fn unmap(place: *mut c_void) {
    // SAFETY: memory that `anonymous` has mapped, and that nobody else knows of.
    unsafe {
        libc::munmap(place, PAGE_BYTES);
    }
}

fn map(protection: c_int) -> io::Result<()> {
    unmap(anonymous(protection)?);
    Ok(())
}

fn make_executable() -> io::Result<()> {
    let place = anonymous(libc::PROT_READ | libc::PROT_WRITE)?;
    // SAFETY: memory of our own, of which nobody else knows.
    let result = unsafe { libc::mprotect(place, PAGE_BYTES, libc::PROT_READ | libc::PROT_EXEC) };
    let outcome = if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    unmap(place);
    outcome
}

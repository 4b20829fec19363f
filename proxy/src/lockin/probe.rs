//! Tries what must be refused, from within. `outrider-proxy check-lock-in` locks itself in as the proxy would and does
//! this, so that anybody can see what holds on their own kernel.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use libc::{AF_INET, AF_NETLINK, AF_PACKET, AF_UNIX, AF_VSOCK, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM};

use crate::sys::attempt::{Call, FIOASYNC, SIOCSPGRP, attempt};

/// One thing to try.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Its name.
    pub name: &'static str,
    /// What somebody who has taken over the proxy would gain by it.
    pub gain: &'static str,
    /// What refuses it.
    pub refused_by: &'static str,
    how: How,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Call(Call),
    Read(&'static str),
    /// Reads the environment of the parent.
    ReadParent,
    /// Makes a file beside the start-up file.
    Create,
    /// Opens the start-up file for writing.
    Overwrite,
}

const SECCOMP: &str = "seccomp";
const LANDLOCK: &str = "Landlock";

const fn call(name: &'static str, gain: &'static str, call: Call) -> Attempt {
    Attempt { name, gain, refused_by: SECCOMP, how: How::Call(call) }
}

const fn file(name: &'static str, gain: &'static str, how: How) -> Attempt {
    Attempt { name, gain, refused_by: LANDLOCK, how }
}

/// Everything that is tried.
pub const ATTEMPTS: &[Attempt] = &[
    call("exec", "a shell, or any program", Call::Exec),
    call("fork", "a process that outlives the proxy", Call::Fork),
    call("ptrace", "other processes' memory and registers", Call::Trace),
    call("process_vm_readv", "other processes' memory", Call::ReadMemory),
    call("kill", "the end of other processes", Call::Signal),
    call("mount", "other filesystems", Call::Mount),
    call("chroot", "another root directory", Call::Chroot),
    call("unshare", "new namespaces, with all capabilities inside", Call::Unshare),
    call("setns", "other containers' namespaces", Call::EnterNamespace),
    call("finit_module", "code in the kernel", Call::LoadModule),
    call("bpf", "programs in the kernel", Call::Bpf),
    call("socket filter", "programs in the kernel", Call::SocketProgram),
    call("io_uring", "system calls past the filter", Call::IoUring),
    call("userfaultfd", "the upper hand in races with the kernel", Call::Userfaultfd),
    call("perf_event_open", "a large attack surface of the kernel", Call::PerfEvent),
    call("keyctl", "keys of the kernel's key rings", Call::Keys),
    call("open_by_handle_at", "files past their directories", Call::OpenByHandle),
    call("setresuid", "another user", Call::SetUser),
    call("unlink", "the end of files", Call::Unlink),
    call("memfd_create", "a place for programs that is in no filesystem", Call::MemoryFile),
    call("writable code", "code of one's own in the process", Call::WritableCode),
    call("executable data", "code of one's own in the process", Call::MakeExecutable),
    call("code of a file", "code of one's own in the process, where a file can be written", Call::MapCode),
    call("fcntl F_SETOWN", "signals to other processes", Call::SignalOwner),
    call("fcntl O_ASYNC", "signals to other processes", Call::SignalInput),
    call("ioctl FIOASYNC", "signals to other processes", Call::Ioctl(FIOASYNC)),
    call("ioctl SIOCSPGRP", "signals to other processes", Call::Ioctl(SIOCSPGRP)),
    call("raw socket", "forged packets", Call::Socket(AF_INET, SOCK_RAW, libc::IPPROTO_ICMP)),
    call("packet socket", "the traffic of the whole pod", Call::Socket(AF_PACKET, SOCK_RAW, 0)),
    call("netlink socket", "routes and packet filters", Call::Socket(AF_NETLINK, SOCK_RAW, 0)),
    call("unix socket", "the container runtime's socket", Call::Socket(AF_UNIX, SOCK_STREAM, 0)),
    call("unix datagrams", "the log of the machine", Call::Socket(AF_UNIX, SOCK_DGRAM, 0)),
    call("vsock", "the host, from a virtual machine", Call::Socket(AF_VSOCK, SOCK_STREAM, 0)),
    call(
        "MPTCP",
        "protocols that the proxy does not speak",
        Call::Socket(AF_INET, SOCK_STREAM, libc::IPPROTO_MPTCP),
    ),
    call(
        "UDP-Lite",
        "protocols that the proxy does not speak",
        Call::Socket(AF_INET, SOCK_DGRAM, libc::IPPROTO_UDPLITE),
    ),
    file("read /etc/shadow", "passwords", How::Read("/etc/shadow")),
    file("read /etc/passwd", "any file that is not the proxy's", How::Read("/etc/passwd")),
    file("read /proc/PID/environ", "secrets of other processes", How::ReadParent),
    file("create a file", "a foothold on the disk", How::Create),
    file("write the start-up file", "another configuration after the next start", How::Overwrite),
];

/// What came of an attempt.
#[derive(Debug)]
pub enum Outcome {
    /// Refused, with this.
    Refused(io::Error),
    /// Not refused: it worked, or failed for another reason.
    Passed(Option<io::Error>),
}

impl Outcome {
    /// Whether it was refused.
    #[must_use]
    pub const fn is_refused(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

impl Attempt {
    /// Tries it.
    #[must_use]
    pub fn make(&self, config: &Path) -> Outcome {
        let done = match self.how {
            How::Call(call) => attempt(call),
            How::Read(path) => OpenOptions::new().read(true).open(path).map(|_| ()),
            How::ReadParent => {
                let path = format!("/proc/{}/environ", std::os::unix::process::parent_id());
                OpenOptions::new().read(true).open(path).map(|_| ())
            }
            How::Create => {
                let path = config.with_extension("check-lock-in");
                let made = OpenOptions::new().write(true).create_new(true).open(&path).map(|_| ());
                if made.is_ok() {
                    // Only where it was not refused.
                    let _ = std::fs::remove_file(&path);
                }
                made
            }
            How::Overwrite => OpenOptions::new().append(true).open(config).map(|_| ()),
        };
        match done {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Outcome::Refused(error),
            done => Outcome::Passed(done.err()),
        }
    }
}

/// The attempts as a table of `docs/security.md`.
#[must_use]
pub fn as_markdown() -> String {
    let line = |one: &Attempt| format!("| {} | {} | {} |\n", one.name, one.gain, one.refused_by);
    let lines: String = ATTEMPTS.iter().map(line).collect();
    format!("| attempt | what would be gained | refused by |\n|---|---|---|\n{lines}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table stands between its heading and the next text; `UPDATE_DOCS=1` writes it.
    #[test]
    fn the_page_lists_what_is_tried() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md");
        let text = std::fs::read_to_string(&page).unwrap();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            let (before, rest) = text.split_once("| attempt |").unwrap();
            let after = rest.split_once("\n\n").map_or("", |(_, after)| after);
            std::fs::write(&page, format!("{before}{}\n{after}", as_markdown())).unwrap();
        }
        let text = std::fs::read_to_string(page).unwrap();
        assert!(text.contains(&as_markdown()), "run with UPDATE_DOCS=1");
    }
}

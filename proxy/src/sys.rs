//! System calls that the standard library does not have. The only unsafe code of the proxy.
#![expect(unsafe_code, reason = "calls of the system and of the C library that have no safe form")]

pub mod attempt;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

/// `IP6T_SO_ORIGINAL_DST` of the kernel's `netfilter_ipv6/ip6_tables.h`.
const IP6T_SO_ORIGINAL_DST: libc::c_int = 80;

/// Where a connection was going before netfilter redirected it to this socket.
///
/// # Errors
/// When it was not redirected, or the kernel keeps no connection tracking for it.
pub fn original_destination(socket: &impl AsRawFd, v6: bool) -> io::Result<SocketAddr> {
    if v6 {
        let mut address = libc::sockaddr_in6 {
            sin6_family: 0,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        };
        get(socket, libc::SOL_IPV6, IP6T_SO_ORIGINAL_DST, &mut address)?;
        let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
        Ok(SocketAddr::from((ip, u16::from_be(address.sin6_port))))
    } else {
        let mut address = libc::sockaddr_in {
            sin_family: 0,
            sin_port: 0,
            sin_addr: libc::in_addr { s_addr: 0 },
            sin_zero: [0; 8],
        };
        get(socket, libc::SOL_IP, libc::SO_ORIGINAL_DST, &mut address)?;
        let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
        Ok(SocketAddr::from((ip, u16::from_be(address.sin_port))))
    }
}

fn get<T>(socket: &impl AsRawFd, level: libc::c_int, option: libc::c_int, value: &mut T) -> io::Result<()> {
    let mut len = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open while `socket` is borrowed; `value` is a plain C structure of `len` bytes
    // that the kernel may fill with any bytes.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, std::ptr::from_mut(value).cast(), &raw mut len)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Raises the soft limit on open files to the hard one and says what it is then.
#[must_use]
pub fn raise_open_files() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is ours and of the type that both calls want.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        }
    }
    limit.rlim_cur
}

/// Gives memory that is free inside the process back to the system: reading a large configuration takes several times
/// of what is kept of it.
pub fn release_free_memory() {
    // SAFETY: malloc_trim has no preconditions; it takes the locks of the allocator itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives back the pages of code; those that are needed again come back from the page cache.
///
/// A sidecar is started once and then does little: what reads configuration, builds descriptors and parses arguments
/// would otherwise count as its memory for ever. Where the kernel does not say what is mapped, nothing is given back.
pub fn release_code() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().filter_map(executable_range).for_each(release);
}

/// Start and length of a mapping of a file that can be executed and cannot be written.
fn executable_range(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let is_code = fields.next()? == "r-xp" && fields.nth(3).is_some_and(|path| path.starts_with('/'));
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    is_code.then(|| (start, end.saturating_sub(start)))
}

fn release((start, len): (usize, usize)) {
    let address = std::ptr::with_exposed_provenance_mut::<libc::c_void>(start);
    // SAFETY: the range is a mapping of this process that is backed by a file and was never writable, so its pages are
    // the file's; the kernel maps them again, the same, when they are touched.
    unsafe {
        libc::madvise(address, len, libc::MADV_DONTNEED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_was_not_redirected_says_so() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(original_destination(&client, false).is_err());
    }

    #[test]
    fn code_can_be_given_back_and_goes_on_working() {
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        // Other tests need code meanwhile.
        let fell = (0..100).any(|_| {
            let before = resident();
            release_code();
            resident() < before
        });
        assert!(fell);
        assert_eq!(executable_range("55d0-55e0 r-xp 0 08:01 7 /bin/x"), Some((0x55d0, 0x10)));
        for other in [
            "55d0-55e0 r--p 0 08:01 7 /bin/x",
            "55d0-55e0 r-xp 0 00:00 0 [vdso]",
            "55d0-55e0 rwxp 0 08:01 7 /x",
            "",
        ] {
            assert_eq!(executable_range(other), None);
        }
    }

    #[test]
    fn open_files_are_counted() {
        assert!(raise_open_files() > 0);
    }
}

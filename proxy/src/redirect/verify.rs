//! Shows that connections are redirected, where somebody else has set the rules: a plugin of the node that lost a race,
//! or never ran, must not leave a pod without its proxy.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::plan::Plan;
use crate::sys;

/// Addresses for documentation (RFC 5737, RFC 3849): nobody answers there.
const NOBODY: [(IpAddr, IpAddr); 2] = [
    (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V4(Ipv4Addr::LOCALHOST)),
    (IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), IpAddr::V6(Ipv6Addr::LOCALHOST)),
];
/// A port that nobody leaves out.
const PORT: u16 = 61_613;
/// How long a connection may take that never leaves the pod.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why redirection cannot be relied on.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The proxy's place is taken.
    #[error("cannot listen on {0}: {1}; run this before the proxy")]
    Listen(SocketAddr, #[source] io::Error),
    /// The connection did not come.
    #[error("a connection to {0} was not redirected to port {1}: {2}")]
    NotRedirected(SocketAddr, u16, #[source] io::Error),
    /// The connection came, and nobody knows where it wanted to.
    #[error("a connection to {0} was redirected, but its destination is lost: {1}")]
    DestinationLost(SocketAddr, String),
}

/// Takes the place of the proxy's outbound listener for a moment and connects to somewhere else. Nothing is needed for it, but
/// it must not run as the proxy's user and group, which are left alone.
///
/// # Errors
/// What does not work, of the first family for which it does not. A family that this pod has no address of is left out.
pub fn verify(plan: &Plan) -> Result<(), VerifyError> {
    for (elsewhere, here) in NOBODY {
        if plan.families.has(elsewhere.is_ipv4()) {
            one(SocketAddr::new(elsewhere, PORT), SocketAddr::new(here, plan.outbound_port))?;
        }
    }
    Ok(())
}

fn one(target: SocketAddr, place: SocketAddr) -> Result<(), VerifyError> {
    let listener = match TcpListener::bind(place) {
        // IPv6 is switched off here.
        Err(error) if place.is_ipv6() && error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => return Ok(()),
        Err(error) if place.is_ipv6() && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => return Ok(()),
        bound => bound.map_err(|error| VerifyError::Listen(place, error))?,
    };
    let missed = |error| VerifyError::NotRedirected(target, place.port(), error);
    listener.set_nonblocking(true).map_err(missed)?;
    let connected = match TcpStream::connect_timeout(&target, PATIENCE) {
        // Without a route nothing goes out either; a pod of one family has none for the other.
        Err(error) if place.is_ipv6() && error.kind() == io::ErrorKind::NetworkUnreachable => return Ok(()),
        connected => connected.map_err(missed)?,
    };
    let (accepted, _) = listener.accept().map_err(missed)?;
    drop(connected);
    let lost = |reason: String| VerifyError::DestinationLost(target, reason);
    match sys::original_destination(&accepted, target.is_ipv6()) {
        Ok(destination) if destination == target => Ok(()),
        Ok(other) => Err(lost(format!("the kernel names {other}"))),
        Err(error) => Err(lost(error.to_string())),
    }
}

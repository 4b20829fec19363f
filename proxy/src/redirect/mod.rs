//! Transparent redirection: the packet filter rules that bring a pod's connections to its proxy.
//!
//! Runs once, before the proxy and as somebody else: whoever sets rules needs `CAP_NET_ADMIN`, and the proxy needs
//! nothing. [`plan`] says what is redirected and what is not, [`nftables`] and [`iptables`] write it down as pure
//! functions, [`apply`] hands the text to the system's own tool, [`verify`] shows that they work. The proxy finds the original destination with
//! [`crate::sys::original_destination`].
//!
//! What must hold, in both forms:
//! - The proxy's own connections are left alone, or none would ever leave the pod. Only a process that has both the
//!   proxy's user and its group counts as the proxy.
//! - Nobody connects to the proxy's redirect ports directly: the kernel would name that port as the original
//!   destination, and the proxy would connect to itself for ever.

pub mod apply;
pub mod iptables;
pub mod nftables;
pub mod plan;
pub mod verify;

pub use apply::{Backend, RedirectError};
pub use plan::{Families, Plan, PlanError, PortRange, Subnet};

#[cfg(test)]
mod tests;

//! Threads: the sockets, the workers that serve them, and their end.

pub mod listeners;
pub mod signals;
mod sockets;
pub mod workers;

pub use sockets::{BoundListener, Sockets};
pub use workers::{Published, Workers};

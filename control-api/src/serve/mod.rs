//! Serving: snapshots out to proxies, over ADS in both of its protocols.
//!
//! [`delta`] and [`sotw`] are the protocols without I/O and without a clock; `subscription` is what they share: what
//! a client asked for of one kind, and what of it is still to be said.

pub mod ads;
mod blame;
pub mod debounce;
pub mod delta;
mod diff;
pub mod identity;
pub mod listen;
pub mod node;
mod order;
pub(crate) mod peer;
mod protocol;
pub mod server;
pub mod sotw;
pub mod status;
pub mod stream;
mod subscription;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod tls;
mod uses;

pub(crate) use blame::blamed;
pub use diff::Differ;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::snapshot::{Kind, Resources};

/// Most names that a stream may ask for, of one kind.
pub const MAX_NAMES: usize = 200_000;
/// Longest name of a resource, in bytes.
pub const MAX_NAME_BYTES: usize = 1024;

/// Why a stream is ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Over [`MAX_NAMES`].
    #[error("resource_names: more than {MAX_NAMES} of {0}; ask for fewer")]
    TooManyNames(&'static str),
    /// Over [`MAX_NAME_BYTES`].
    #[error("resource_names: one of {0} bytes; at most {MAX_NAME_BYTES}")]
    NameTooLong(usize),
}

/// A resource of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its name.
    pub name: Arc<str>,
    /// Its version; `None` when the response says that it is not there.
    pub version: Option<Arc<str>>,
}

/// A response, and what of it is to be remembered until it is answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing<R> {
    /// What goes on the wire.
    pub response: R,
    /// What it is about.
    pub kind: Kind,
    /// Its nonce.
    pub nonce: Arc<str>,
    /// What it carries.
    pub items: Vec<Item>,
}

/// What a client says about a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What the response was about.
    pub kind: Kind,
    /// Its nonce.
    pub nonce: Arc<str>,
    /// Why something in it was refused; `None` when all was accepted.
    pub error: Option<String>,
    /// What it carried.
    pub items: Vec<Item>,
    /// What of it is refused because the client had let go of it before its lease was renewed.
    pub lapsed: Vec<Arc<str>>,
}

/// How a client stands with one kind.
#[derive(Clone, Debug)]
pub struct Standing {
    /// What it holds, as far as it asked for it, once it is told everything.
    pub told: Arc<Resources>,
    /// Whether it asked for all of it.
    pub wildcard: bool,
    /// What it asked for by name.
    pub named: Arc<BTreeSet<Arc<str>>>,
    /// Whether it was told everything, and has answered.
    pub settled: bool,
}

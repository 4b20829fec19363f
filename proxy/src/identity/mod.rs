//! Who is at the other end: SPIFFE IDs, the certificates that prove them, and TLS configurations that ask for them.
//!
//! `spiffe` reads names, `trust` holds roots, `verify` decides about a chain for rustls, `peer` is what is known of
//! a peer afterwards, `vouched` holds open connections to it, `config` builds what a handshake needs and `live` keeps
//! it up to date, `refusal` names what goes wrong. Nothing here touches a socket.

pub mod config;
pub mod live;
pub mod peer;
pub mod refusal;
pub mod revoked;
pub mod spent;
pub mod spiffe;
pub mod trust;
pub mod verify;
pub mod vouched;

pub use peer::PeerIdentity;
pub use refusal::Refusal;
pub use revoked::{Revocations, Revoked};
pub use spiffe::SpiffeId;
pub use trust::Trust;
pub use vouched::Vouched;

//! HTTP/2 (RFC 9113): the bridge between the `h2` crate and the proxy's own message types.

/// Bytes that may wait to be written on one stream.
pub const MAX_SEND_BUFFER_BYTES: usize = 256 * 1024;

pub mod convert;
pub mod link;
pub mod queue;
pub mod server;

pub use link::H2Link;
pub use queue::{Queue, Queued};

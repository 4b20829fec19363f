//! Byte streams and the memory they are read into, below every protocol.
//!
//! `stream` is what the rest of the proxy reads and writes; `tls` stands between it and the socket where a
//! connection is encrypted.

pub mod buffer;
pub mod cutoff;
pub mod fair;
pub mod stream;
pub mod tls;

pub use buffer::{Buffer, BufferPool};
pub use cutoff::{Cutoff, Registry};
pub use fair::Fair;
pub use stream::Transport;

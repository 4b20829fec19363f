//! Byte streams and the memory they are read into, below every protocol.

pub mod buffer;
pub mod stream;

pub use buffer::{Buffer, BufferPool};
pub use stream::Transport;

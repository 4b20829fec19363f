//! What is on the wire, without I/O: shared by the [`crate::load`] generator and the [`crate::backend`].

pub mod bulk;
pub mod grpc;
pub mod http1;
pub mod http2;
pub mod websocket;

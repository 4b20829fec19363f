//! The ADS client: delta xDS over one gRPC stream.
//!
//! [`client`] keeps the stream, [`session`] is the protocol without I/O: subscriptions, versions, answers.

pub mod client;
pub mod decode;
pub mod session;

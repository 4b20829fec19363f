//! HTTP/1.1 (RFC 9112), strictly: the only place that parses it.
//!
//! Between two hops that disagree about where a message ends an attacker hides a second one, so wherever the
//! RFC leaves a choice between repairing and refusing, this codec refuses. [`request`] and [`response`] read
//! heads, [`body`] reads what follows, [`mod@write`] writes, [`link`] binds them to a connection, and
//! [`server`] is the downstream side. [`field`] and `hop` are what heads have in common: lines and fields, and
//! the fields that mean this hop only.

pub mod body;
pub mod field;
mod hop;
pub mod link;
pub mod request;
pub mod response;
pub mod server;
pub mod write;

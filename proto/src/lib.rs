//! The wire: a strict subset of xDS v3.
//!
//! The `.proto` files beside this crate hold only the messages and fields that the proxy enforces, under
//! Envoy's names and numbers; they are the list of what is supported. What is not in them is refused with the
//! path of the field, whether it came over the wire ([`strict`]) or from a file ([`json`]). No logic beyond that.

pub mod fault;
pub mod fields;
mod generated;
pub mod json;
mod outside;
mod pool;
pub mod strict;
pub mod type_url;

pub use fault::{Fault, Path};
pub use generated::{envoy, google};
pub use strict::unpack;

#[cfg(test)]
mod roundtrip;

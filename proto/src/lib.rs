//! The wire: a strict subset of xDS v3, and how identities are got.
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
pub mod yaml;

pub use fault::{Fault, Path};
pub use generated::{envoy, google, grpc, opentelemetry, outrider};
pub use pool::release as release_descriptors;
pub use strict::unpack;

/// The SPIFFE Workload API, whose specification gives it no package.
pub mod workload_api {
    pub use crate::generated::{X509svid, X509svidRequest, X509svidResponse};
    pub use crate::generated::{spiffe_workload_api_client, spiffe_workload_api_server};
}

#[cfg(test)]
mod roundtrip;

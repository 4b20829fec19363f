//! The control server: operators' objects in, xDS out.
//!
//! ```text
//! source (files, Kubernetes) -> object -> compile -> snapshot per proxy -> serve (ADS)
//! ```

mod accept;
pub mod api;
pub mod audit;
pub mod auth;
pub mod ca;
pub mod cli;
pub mod compile;
pub mod conditions;
pub mod digest;
pub mod engine;
pub mod experiments;
pub mod inject;
pub mod kubernetes;
pub mod object;
pub mod proxy_info;
pub mod registry;
pub mod revoked;
pub mod segment;
pub mod serve;
pub mod server;
pub mod snapshot;
pub mod snapshots;
pub mod source;
pub mod webhook;

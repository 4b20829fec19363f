//! The control server: operators' objects in, xDS out.
//!
//! ```text
//! source (files, Kubernetes) -> object -> compile -> snapshot per proxy -> serve (ADS)
//! ```

pub mod cli;
pub mod compile;
pub mod digest;
pub mod object;
pub mod proxy_info;
pub mod snapshot;
pub mod source;

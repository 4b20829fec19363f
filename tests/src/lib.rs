//! What end-to-end tests share: real processes, a backend that records, clients that say exactly what they want.

pub mod authority;
pub mod backend;
pub mod client;
pub mod identity_server;
pub mod process;
pub mod workload_api;

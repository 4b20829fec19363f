//! What end-to-end tests share: real processes, a backend that records, clients that say exactly what they want.

pub mod backend;
pub mod client;
pub mod process;

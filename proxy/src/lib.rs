//! Outrider's data plane as a library, so that tests, fuzz targets and benchmarks reach its parts.
//!
//! Read `connection.rs` for the life of a connection and `exchange.rs` for the life of a request.

pub mod http;

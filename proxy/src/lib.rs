//! Outrider's data plane as a library, so that tests, fuzz targets and benchmarks reach its parts.
//!
//! Read `connection.rs` for the life of a connection and `exchange.rs` for the life of a request.

pub mod admin;
pub mod balance;
pub mod bootstrap;
pub mod cli;
pub mod connection;
pub mod control;
pub mod detect;
pub mod drain;
pub mod exchange;
pub mod export;
pub mod fault;
pub mod grpc;
pub mod http;
pub mod identity;
pub mod limit;
pub mod lockin;
pub mod model;
pub mod observe;
pub mod policy;
pub mod redirect;
pub mod retry;
pub mod route;
pub mod run;
pub mod runtime;
pub mod svid;
pub mod sys;
pub mod tcp;
pub mod transport;
pub mod upstream;
pub mod worker;
pub mod xds;

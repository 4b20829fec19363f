//! What end-to-end tests share: real processes, a backend that records, upstreams that misbehave, clients that say
//! exactly what they want.

pub mod ads;
pub mod authority;
pub mod backend;
pub mod client;
pub mod config;
pub mod faults;
pub mod frames;
pub mod identity_server;
pub mod lab;
pub mod mesh;
pub mod process;
pub mod upstream;
pub mod workload_api;

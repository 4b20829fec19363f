//! What end-to-end tests share: real processes, a backend that records, upstreams that misbehave, clients that say
//! exactly what they want.

pub mod admission;
pub mod ads;
pub mod ads_client;
pub mod authority;
pub mod backend;
pub mod beside;
pub mod client;
pub mod config;
pub mod control;
pub mod deaf;
pub mod faults;
pub mod frames;
pub mod identity_server;
pub mod kube;
pub mod lab;
pub mod mesh;
pub mod meshed;
pub mod names;
pub mod pods;
pub mod process;
pub mod trouble;
pub mod upstream;
pub mod workload_api;

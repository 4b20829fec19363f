//! The benchmark harness: what a sidecar costs, beside others, in one run on one machine.
//!
//! [`run`] goes through the table of [`scenario`]s; for each, every [`subject`] is configured and started, [`drive`] sends [`load`]
//! through it to the [`backend`], [`measure`] watches its processes from outside, and what comes of it is a [`report`]. Each of these knows only those
//! after it; what load and backend share stands in [`wire`]. The minimal proxies that we compare with stand in `floors/`.

pub mod backend;
pub mod drive;
pub mod load;
pub mod measure;
pub mod report;
pub mod run;
pub mod scenario;
pub mod subject;
pub mod wire;

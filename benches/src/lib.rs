//! The benchmark harness.

pub mod measure;
pub mod report;
pub mod subject;

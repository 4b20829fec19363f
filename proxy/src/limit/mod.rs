//! Limits on how often something may happen, shared by the workers without a lock.

pub mod bucket;

pub use bucket::Bucket;

//! Limits on how often something may happen, shared by the workers without a lock.

pub mod bucket;
pub mod descriptor;
pub mod gradient;
pub mod keyed;
mod places;
pub mod pressure;
pub mod rate;

pub use bucket::{Bucket, Rate};
pub use keyed::Keyed;
pub use rate::{Limited, RateLimit};

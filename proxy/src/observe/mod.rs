//! What the proxy says about what it does: reasons, metrics, access logs and its own log.

pub mod access_log;
pub mod flags;
pub mod format;
pub mod logging;
pub mod metrics;
pub mod reason;
pub mod series;

pub use flags::Flags;
pub use reason::Reason;

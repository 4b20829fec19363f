//! Sidecars for pods: whether a pod gets one, what the pod looks like then, and how it looked before.
//!
//! All of it is pure: a pod in, a pod out. The admission webhook and `outrider inject` are two ways to ask.
//!
//! ```text
//! pod -> plain (what an earlier injection did is undone) -> decide -> tuning (annotations) -> probes -> containers
//!     -> start-up file -> pod
//! ```

#![expect(
    clippy::indexing_slicing,
    reason = "a member that a JSON value lacks reads as null; written to are only objects that are made or checked here"
)]

mod bootstrap;
mod container;
pub mod decide;
pub mod flags;
pub mod manifest;
pub mod names;
pub mod patch;
mod plain;
mod pod;
mod probes;
pub mod settings;
pub mod tuning;
pub mod yaml;

pub use container::is_own_redirect;
pub use decide::{Decision, Surroundings};
pub use plain::plain;
pub use pod::{InjectError, Injected, Outcome, inject};
pub use settings::Settings;

#[cfg(test)]
mod tests;

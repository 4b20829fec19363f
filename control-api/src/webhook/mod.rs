//! The admission webhooks: sidecars for pods that are created, and an audit of what could break out.
//!
//! The API server asks over HTTPS with an `AdmissionReview` and says in the URL what holds for the namespace, which its
//! `namespaceSelector` has found out; so nothing need be known of namespaces here, and nothing is changed but the answer.
//!
//! | path | |
//! |---|---|
//! | `/inject` | a sidecar for pods that ask for one |
//! | `/inject/enabled` | a sidecar for pods that do not ask for none |
//! | `/audit/MODE/LEVEL` | `enforce`, `warn` or `audit`; `baseline` or `restricted` |

#![expect(
    clippy::indexing_slicing,
    reason = "a member that a JSON value lacks reads as null; written to are only objects that are made or checked here"
)]

pub mod bundle;
pub mod certificates;
pub mod configuration;
mod question;
mod review;
pub mod server;
#[cfg(test)]
mod tests;

use crate::audit::Exemption;
use crate::inject::Settings;

/// What the answers go by.
#[derive(Clone, Debug)]
pub struct Policy {
    /// How sidecars are made.
    pub settings: Settings,
    /// What the audit lets pass.
    pub exemptions: Vec<Exemption>,
    /// What becomes of a pod that should have a sidecar and can have none that works.
    pub on_error: OnError,
}

/// What becomes of a pod that should have a sidecar and can have none that works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnError {
    /// It is refused, and the message says what to change.
    Deny,
    /// It comes without a sidecar, with a warning.
    Allow,
}

//! Authorization: who may do what, decided by rules that were compiled beforehand.
//!
//! A decision is a pure function of what is known of a connection or request (a [`Subject`]) and needs no memory. It
//! stands behind path normalisation and the removal of what clients may not say, and before the request goes
//! anywhere: what is decided about is exactly what is forwarded.

mod authorized;
pub mod egress;
pub mod filter;
mod index;
mod ip;
mod keys;
mod rule;
mod set;
pub mod standing;

pub use authorized::{Authorized, Ruling};
pub use filter::{Decision, Filter, Verdict};
pub use ip::IpRange;
pub use rule::{Reading, Rule, Subject};
pub use set::{Action, Policy, PolicySet};
pub use standing::Standing;

#[cfg(test)]
mod tests;

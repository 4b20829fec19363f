//! Where objects come from. Every source hands on the same thing: all objects that are good, and what is wrong with
//! the others.

mod closed;
pub mod diagnostic;
pub mod files;
pub mod kubernetes;
mod yaml;

use std::sync::Arc;

pub use diagnostic::{Diagnostic, InForce, Severity};
pub(crate) use yaml::documents;

use crate::object::Objects;

/// What a source has at a moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The objects; of one that is bad now, its last good version. A policy that says who may talk to whom and has none
    /// is there as one that denies everything.
    pub objects: Arc<Objects>,
    /// What is wrong, in the order of files and documents.
    pub diagnostics: Arc<Vec<Diagnostic>>,
    /// Whether everything was read once: before, objects may be missing that are there.
    pub complete: bool,
    /// How many of the objects are policies that deny everything in place of ones that are not good.
    pub denials: usize,
}

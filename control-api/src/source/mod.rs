//! Where objects come from. Every source hands on the same thing: all objects that are good, and what is wrong with
//! the others.

pub mod diagnostic;
pub mod files;
pub mod kubernetes;
mod yaml;

use std::sync::Arc;

pub use diagnostic::{Diagnostic, Severity};
pub(crate) use yaml::documents;

use crate::object::Objects;

/// What a source has at a moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The objects; of one that is bad now, its last good version.
    pub objects: Arc<Objects>,
    /// What is wrong, in the order of files and documents.
    pub diagnostics: Arc<Vec<Diagnostic>>,
    /// Whether everything was read once: before, objects may be missing that are there.
    pub complete: bool,
}

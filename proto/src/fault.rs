//! What is wrong with a piece of configuration, and where.

use std::fmt;

/// Faults that are collected before the rest is left unsaid.
pub const MAX_FAULTS: usize = 100;

/// One thing that is wrong, with the path of the field in the names of the protobuf JSON mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// For example `filter_chains[0].filters[1].typed_config.stat_prefix`; empty for the whole.
    pub path: String,
    /// What is wrong and what to do about it.
    pub reason: String,
}

impl Fault {
    /// A fault at a path.
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.reason)
        } else {
            write!(f, "{}: {}", self.path, self.reason)
        }
    }
}

/// The faults of several parts in one line, for an error message.
#[must_use]
pub fn joined(faults: &[Fault]) -> String {
    faults
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// Where in a message we are, and what was found wrong so far.
#[derive(Debug, Default)]
pub struct Path {
    text: String,
    faults: Vec<Fault>,
}

impl Path {
    /// At the root, with nothing found.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// At a named place, with nothing found.
    #[must_use]
    pub fn at(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            faults: Vec::new(),
        }
    }

    /// Runs `body` one field deeper.
    pub fn field<T>(&mut self, name: &str, body: impl FnOnce(&mut Self) -> T) -> T {
        let mark = self.text.len();
        if mark > 0 && !name.starts_with('[') {
            self.text.push('.');
        }
        self.text.push_str(name);
        let result = body(self);
        self.text.truncate(mark);
        result
    }

    /// Runs `body` at an element of a list.
    pub fn index<T>(&mut self, index: usize, body: impl FnOnce(&mut Self) -> T) -> T {
        self.field(&format!("[{index}]"), body)
    }

    /// Runs `body` at an element of a repeated field.
    pub fn item<T>(&mut self, name: &str, index: usize, body: impl FnOnce(&mut Self) -> T) -> T {
        self.field(&format!("{name}[{index}]"), body)
    }

    /// Takes note of a fault here.
    pub fn fault(&mut self, reason: impl Into<String>) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(Fault::new(self.text.clone(), reason));
        }
    }

    /// Takes note of a fault at a field of what is here.
    pub fn fault_at(&mut self, name: &str, reason: impl Into<String>) {
        self.field(name, |path| path.fault(reason));
    }

    /// Takes note of a fault here and gives nothing back, for use at the end of a conversion.
    pub fn refuse<T>(&mut self, reason: impl Into<String>) -> Option<T> {
        self.fault(reason);
        None
    }

    /// How many faults were found.
    #[must_use]
    pub fn count(&self) -> usize {
        self.faults.len()
    }

    /// The result, if nothing was found wrong.
    ///
    /// # Errors
    /// What was found wrong.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Vec<Fault>> {
        match value {
            Some(value) if self.faults.is_empty() => Ok(value),
            Some(_) | None if !self.faults.is_empty() => Err(self.faults),
            Some(_) | None => Err(vec![Fault::new(self.text, "not understood")]),
        }
    }
}

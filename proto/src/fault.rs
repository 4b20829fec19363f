//! What is wrong with a piece of configuration, and where.

use std::fmt;

/// Faults that are collected; when there are more, the last one says so.
pub const MAX_FAULTS: usize = 100;

/// Bytes of a name from outside that are shown in a path or a reason.
const MAX_SHOWN_BYTES: usize = 128;

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
        Self { path: path.into(), reason: reason.into() }
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
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
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
        Self { text: text.into(), faults: Vec::new() }
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

    /// Runs `body` at an entry of a map; the key comes from outside and is shown escaped.
    pub fn key<T>(&mut self, key: &str, body: impl FnOnce(&mut Self) -> T) -> T {
        self.field(&format!("[{}]", quoted(key)), body)
    }

    /// Takes note of a fault here.
    pub fn fault(&mut self, reason: impl Into<String>) {
        match self.faults.len() + 1 {
            next if next < MAX_FAULTS => self.faults.push(Fault::new(self.text.clone(), reason)),
            MAX_FAULTS => {
                let reason = format!("more faults follow; the first {} are listed", self.faults.len());
                self.faults.push(Fault::new("", reason));
            }
            _ => {}
        }
    }

    /// Whether looking for more faults is of no use.
    pub(crate) fn is_full(&self) -> bool {
        self.faults.len() >= MAX_FAULTS
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

/// A name from outside in quotes, escaped so that it cannot break a log line, and cut when it is long.
pub(crate) fn quoted(text: &str) -> String {
    match text.get(..text.floor_char_boundary(MAX_SHOWN_BYTES)) {
        Some(head) if head.len() < text.len() => format!("{head:?}..."),
        _ => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_grows_and_shrinks() {
        let mut path = Path::root();
        path.item("clusters", 2, |path| {
            path.field("options", |path| path.key("a\"b\n", |path| path.fault("bad")));
            path.fault("worse");
        });
        path.fault("worst");
        let lines: Vec<_> = path.finish(Some(())).unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(lines, [r#"clusters[2].options["a\"b\n"]: bad"#, "clusters[2]: worse", "worst"]);
    }

    #[test]
    fn the_list_is_bounded_and_says_so() {
        let mut path = Path::root();
        for index in 0..10 * MAX_FAULTS {
            path.item("a", index, |path| path.fault("bad"));
        }
        let faults = path.finish(Some(())).unwrap_err();
        assert_eq!(faults.len(), MAX_FAULTS);
        assert_eq!(faults[MAX_FAULTS - 2].to_string(), "a[98]: bad");
        assert_eq!(faults[MAX_FAULTS - 1].to_string(), "more faults follow; the first 99 are listed");
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let shown = quoted(&"\u{e9}".repeat(1000));
        assert!(shown.ends_with("...") && shown.len() < 150, "{shown}");
    }
}

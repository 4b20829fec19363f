//! The bounds and the strictness that all YAML is read with, start-up files and objects alike, and how what is wrong with
//! it is said.

use std::borrow::Cow;

use serde_saphyr::{Error, Localizer, Location, UserMessageFormatter};

/// Deepest nesting of a document.
pub const MAX_DEPTH: usize = 64;

/// Most mappings, lists and scalars in a document, those that aliases repeat included. A route takes about ten, so
/// this is room for 100,000 of them.
pub const MAX_NODES: usize = 1_000_000;

/// No key twice, only `true` and `false` as booleans (YAML 1.2), and bounds that an "alias bomb" runs into.
#[must_use]
pub fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 4 * MAX_NODES,
            max_nodes: MAX_NODES,
            max_depth: MAX_DEPTH,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_NODES },
        strict_booleans: true,
        with_snippet: false,
    }
}

/// Where the reader stopped: line and column, both from 1. The text begins in the line `first` of its file.
#[must_use]
pub fn place(error: &Error, first: usize) -> Option<(usize, u64)> {
    let at = error.location()?;
    Some((in_file(&at, first), at.column()))
}

/// What is wrong, for people and without line breaks: a fault is one line. Where it is, [`place`] says.
#[must_use]
pub fn what(error: &Error, first: usize) -> String {
    let text = error.render_with_formatter(&UserMessageFormatter.with_localizer(&Lines { first }));
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Where and what, in one text.
#[must_use]
pub fn said(error: &Error, first: usize) -> String {
    let at = place(error, first).map(|(line, column)| format!("line {line}, column {column}: "));
    at.unwrap_or_default() + &what(error, first)
}

fn in_file(at: &Location, first: usize) -> usize {
    first + usize::try_from(at.line()).unwrap_or_default().saturating_sub(1)
}

/// Lines are those of the file, and the one of the error itself is said elsewhere.
struct Lines {
    first: usize,
}

impl Localizer for Lines {
    fn attach_location<'a>(&self, base: Cow<'a, str>, _: Location) -> Cow<'a, str> {
        base
    }

    fn alias_defined_at(&self, defined: Location) -> String {
        format!(" (defined in line {})", in_file(&defined, self.first))
    }

    fn alias_used_at(&self, used: Location) -> String {
        if used == Location::UNKNOWN {
            return String::new();
        }
        format!(" (used in line {})", in_file(&used, self.first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        let read = serde_saphyr::from_str_with_options::<serde_json::Value>(text, options());
        said(&read.unwrap_err(), 10)
    }

    #[test]
    fn there_is_one_line_number_and_it_is_that_of_the_file() {
        for (text, line) in [("a: 1\na: 2\n", 11), ("a: [\n", 10), ("a:\n  - b\n c: d\n", 12)] {
            let said = wrong(text);
            assert!(said.starts_with(&format!("line {line}, column ")), "{said}");
            assert_eq!(said.matches("line ").count(), 1, "{said}");
        }
    }

    #[test]
    fn nothing_is_said_of_the_program_that_reads() {
        assert_eq!(wrong("a: 1\na: 2\n"), "line 11, column 1: duplicate mapping key: a not allowed here");
    }
}

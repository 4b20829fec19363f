//! The bounds and the strictness that all YAML is read with, start-up files and objects alike.

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

/// What the reader says, without its line breaks: a fault is one line.
#[must_use]
pub fn said(error: &serde_saphyr::Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

//! The structure of the proxy's sources: layers import downwards only, files stay small.

use std::fs;
use std::path::{Path, PathBuf};

/// Most lines of a file, its tests not counted.
const MAX_LINES: usize = 460;

/// The modules of `proxy/src` from the bottom up: each may import those before it, and itself. Modules in one row
/// make one layer and may know each other.
const LAYERS: &[&[&str]] = &[
    &["sys", "drain", "detect", "redirect", "grpc"],
    &["transport", "identity"],
    // A log line needs a request's head, a header change needs a format, a policy, a fault or a limit asks for a header:
    // messages, model, policies, faults, limits and records know each other.
    &["http", "observe", "model", "policy", "fault", "limit"],
    &["route", "retry"],
    // A picker chooses among endpoints, and a cluster holds a picker.
    &["balance", "upstream"],
    &["worker"],
    &["exchange"],
    &["tcp"],
    &["connection"],
    &["runtime"],
    &["control"],
    &["svid", "lockin"],
    &["bootstrap", "xds", "export", "admin"],
    &["run"],
    &["cli"],
    &["lib", "main"],
];

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proxy/src");
    let (mut found, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(&root).unwrap().to_owned(), text));
            }
        }
    }
    found
}

fn code(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or_default()
}

fn is_test(path: &Path) -> bool {
    path.ends_with("tests.rs")
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

#[test]
fn imports_go_downwards() {
    let mut wrong = Vec::new();
    for (path, text) in sources().iter().filter(|(path, _)| !is_test(path)) {
        let first = path.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        let own = first.trim_end_matches(".rs");
        let own_layer = layer(own).unwrap_or_else(|| panic!("{own} has no layer; add it to LAYERS"));
        for part in code(text).split("crate::").skip(1) {
            let other: String =
                part.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
            if layer(&other).is_none_or(|layer| layer > own_layer) && other != "{" && !other.is_empty() {
                wrong.push(format!("{} imports crate::{other}", path.display()));
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_stay_small() {
    let long: Vec<String> = sources()
        .iter()
        .filter(|(path, _)| !is_test(path))
        .map(|(path, text)| (path, code(text).lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .map(|(path, lines)| format!("{}: {lines}", path.display()))
        .collect();
    assert!(long.is_empty(), "longer than {MAX_LINES} lines: {long:#?}");
}

#[test]
fn the_two_files_that_explain_the_product_are_short() {
    for (path, text) in sources() {
        if path == Path::new("connection.rs") || path == Path::new("exchange.rs") {
            assert!(text.lines().count() < 250, "{}", path.display());
        }
    }
}

#[test]
fn nothing_is_left_to_be_done_later() {
    for (path, text) in sources() {
        for word in ["todo!", "unimplemented!", "FIXME", "XXX"] {
            assert!(!text.contains(word), "{}: {word}", path.display());
        }
    }
}

//! What the proxy says about what it does: reasons, metrics, access logs and its own log.

pub mod access_log;
pub mod flags;
pub mod format;
pub mod logging;
pub mod metrics;
pub mod reason;
pub mod series;
pub mod trace;

pub use flags::Flags;
pub use reason::Reason;

/// The sources of the crate with their paths, for tests that hold pages and lists against them.
#[cfg(test)]
pub(crate) fn sources() -> Vec<(String, String)> {
    let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
    let (mut found, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root).unwrap().to_string_lossy().into_owned(), text));
            }
        }
    }
    found
}

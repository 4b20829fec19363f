//! Looks for the programs on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::{Floor, Kind, Subject};

/// What there is, and a line for each that is missing.
#[derive(Debug, Default)]
pub struct Found {
    /// In the order of the columns.
    pub subjects: Vec<Subject>,
    /// `NAME is missing: ...`.
    pub missing: Vec<String>,
}

/// The known names in the order of the columns.
const KNOWN: &[(&str, Kind)] = &[
    ("direct", Kind::Direct),
    ("outrider", Kind::Outrider),
    ("haproxy", Kind::Haproxy),
    ("nginx", Kind::Nginx),
    ("envoy", Kind::Envoy),
    ("floor-raw", Kind::Floor(Floor::Raw)),
    ("floor-tcp", Kind::Floor(Floor::Tcp)),
    ("floor-hyper", Kind::Floor(Floor::Hyper)),
    ("floor-rustls", Kind::Floor(Floor::Rustls)),
];

/// All known programs that are here, and those that are given as `NAME=PATH` or `NAME:KIND=PATH` besides; a known name with a
/// path is looked for there. `only` keeps the named ones, in their usual order.
///
/// # Errors
/// When an argument names nothing known or no program.
pub fn find(given: &[String], only: &[String]) -> Result<Found> {
    let given: Vec<(String, Kind, PathBuf)> = given.iter().map(|text| parse(text)).collect::<Result<_>>()?;
    let is_known = |name: &str| {
        KNOWN.iter().any(|(known, _)| *known == name) || given.iter().any(|(one, ..)| one == name)
    };
    if let Some(stranger) = only.iter().find(|name| !is_known(name)) {
        let names: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
        bail!("--subjects {stranger}: known are {}; add --subject {stranger}=PATH", names.join(", "));
    }
    let wanted = |name: &str| only.is_empty() || only.iter().any(|one| one == name);
    let mut found = Found::default();
    for (name, kind) in KNOWN.iter().filter(|(name, _)| wanted(name)) {
        if given.iter().any(|(one, ..)| one == name) {
            continue;
        }
        match usual_place(*kind) {
            Some(path) => found.subjects.push(Subject {
                name: (*name).to_owned(),
                kind: *kind,
                version: version(*kind, &path),
                path,
            }),
            None => found.missing.push(format!("{name} is missing and left out: {}", remedy(*kind))),
        }
    }
    for (name, kind, path) in given.into_iter().filter(|(name, ..)| wanted(name)) {
        if path.is_file() {
            found.subjects.push(Subject { version: version(kind, &path), name, kind, path });
        } else {
            found.missing.push(format!("{name} is missing and left out: no file at the path given"));
        }
    }
    Ok(found)
}

/// The names of the minimal proxies, which are compared with but are no products.
#[must_use]
pub fn floors() -> Vec<&'static str> {
    let floors = KNOWN.iter().filter(|(_, kind)| matches!(kind, Kind::Floor(_)));
    floors.map(|(name, _)| *name).collect()
}

fn parse(text: &str) -> Result<(String, Kind, PathBuf)> {
    let Some((name, path)) = text.split_once('=') else {
        bail!("--subject {text}: must be NAME=PATH or NAME:KIND=PATH");
    };
    let path = PathBuf::from(path);
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (name, kind) = name.split_once(':').map_or((name, file.as_str()), |(name, kind)| (name, kind));
    let kind = match kind {
        "outrider" | "outrider-proxy" => Kind::Outrider,
        "envoy" => Kind::Envoy,
        "haproxy" => Kind::Haproxy,
        "nginx" => Kind::Nginx,
        _ => Kind::Launcher,
    };
    if name.is_empty() {
        bail!("--subject {text}: the name is empty");
    }
    Ok((name.to_owned(), kind, path))
}

fn usual_place(kind: Kind) -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let beside = |name: &str| own.parent().map(|folder| folder.join(name));
    let found = match kind {
        Kind::Direct => return Some(PathBuf::new()),
        Kind::Outrider => {
            let named = std::env::var_os("OUTRIDER_BENCH_PROXY").map(PathBuf::from);
            // The harness may be built with another profile than the proxy.
            named.or_else(|| Some(own.parent()?.parent()?.join("release/outrider-proxy")))
        }
        Kind::Envoy => {
            std::env::var_os("OUTRIDER_TEST_ENVOY").map(PathBuf::from).or_else(|| in_path("envoy"))
        }
        Kind::Haproxy => in_path("haproxy"),
        Kind::Nginx => in_path("nginx"),
        Kind::Floor(Floor::Tcp) => beside("outrider-floor-tcp"),
        Kind::Floor(Floor::Raw) => beside("outrider-floor-raw"),
        Kind::Floor(Floor::Hyper) => beside("outrider-floor-hyper"),
        Kind::Floor(Floor::Rustls) => beside("outrider-floor-rustls"),
        Kind::Launcher => None,
    };
    found.filter(|path| path.is_file())
}

const fn remedy(kind: Kind) -> &'static str {
    match kind {
        Kind::Outrider => "`make bench` builds it",
        Kind::Floor(_) => "`make bench` builds the floors",
        Kind::Envoy | Kind::Haproxy | Kind::Nginx => "`make bench-setup` installs it",
        Kind::Direct | Kind::Launcher => "give its path",
    }
}

fn in_path(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    // Debian keeps servers where a user's path does not lead.
    let more = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&folders).chain(more).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// The first line of what it says of itself, without paths.
fn version(kind: Kind, path: &Path) -> String {
    let flag = match kind {
        Kind::Direct => return "no proxy".to_owned(),
        Kind::Floor(_) => return "of this checkout".to_owned(),
        Kind::Outrider | Kind::Envoy | Kind::Launcher => "--version",
        Kind::Haproxy | Kind::Nginx => "-v",
    };
    let Ok(output) = Command::new(path).arg(flag).output() else { return "unknown".to_owned() };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let text = if out.trim().is_empty() { err } else { out };
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("unknown").trim();
    short_version(line)
}

/// The words that tell the version, without those that tell more: addresses, hashes, the name twice.
fn short_version(line: &str) -> String {
    // Envoy: `PATH  version: HASH/1.40.0/Clean/RELEASE/BoringSSL`.
    if let Some(version) = line.split("version: ").nth(1)
        && let [_, number, .., tls] = version.split('/').collect::<Vec<_>>().as_slice()
    {
        return format!("{number} ({tls})");
    }
    let line = line.strip_prefix("nginx version: ").unwrap_or(line);
    let words: Vec<&str> = line
        .split_whitespace()
        .filter(|word| !word.starts_with('/') && !word.contains("://") && *word != "-")
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_told_by_its_file_or_by_its_kind() {
        let kinds = [
            ("old=/a/outrider-proxy", Kind::Outrider),
            ("e=/a/envoy", Kind::Envoy),
            ("old:outrider=/a/b", Kind::Outrider),
            ("linkerd=/a/linkerd.sh", Kind::Launcher),
        ];
        for (text, kind) in kinds {
            assert_eq!(parse(text).unwrap().1, kind, "{text}");
        }
        assert!(parse("nonsense").is_err() && parse("=/a").is_err());
    }

    #[test]
    fn versions_are_short() {
        let lines = [
            ("/opt/envoy  version: 9e55/1.40.0/Clean/RELEASE/BoringSSL", "1.40.0 (BoringSSL)"),
            ("HAProxy version 2.6.12 2026/10/17 - https://haproxy.org/", "HAProxy version 2.6.12 2026/10/17"),
            ("nginx version: nginx/1.22.1", "nginx/1.22.1"),
            ("outrider-proxy 0.1.0", "outrider-proxy 0.1.0"),
        ];
        for (line, expected) in lines {
            assert_eq!(short_version(line), expected);
        }
    }

    #[test]
    fn what_is_missing_is_said_and_what_is_unknown_refused() {
        let found = find(&["x=/nowhere/x".to_owned()], &["direct".to_owned(), "x".to_owned()]).unwrap();
        assert_eq!(found.subjects.len(), 1);
        assert_eq!(found.missing, ["x is missing and left out: no file at the path given"]);
        assert!(find(&[], &["y".to_owned()]).unwrap_err().to_string().starts_with("--subjects y: known are"));
    }
}

//! What the operating system knows of the process, under Prometheus' usual names.

use std::fmt::Write as _;

use crate::observe::metrics::{Family, Kind};

const BUILD_INFO: Family = gauge("outrider_build_info", &["version"], "1, for the version.");
const RESIDENT: Family = gauge("process_resident_memory_bytes", &[], "Memory that is resident.");
const THREADS: Family = gauge("process_threads", &[], "Threads of the operating system.");
const OPEN_FILES: Family = gauge("process_open_fds", &[], "Open file descriptors.");

/// All families of this module.
#[cfg(test)]
pub(crate) const FAMILIES: &[Family] = &[BUILD_INFO, RESIDENT, THREADS, OPEN_FILES];

/// The metrics as they are now, in Prometheus' text format. What cannot be read is left out.
#[must_use]
pub fn render() -> String {
    let mut out = String::new();
    show(&mut out, &BUILD_INFO, &format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), Some(1));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| -> Option<u64> {
        status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
    };
    show(&mut out, &RESIDENT, "", field("VmRSS:").map(|kib| kib * 1024));
    show(&mut out, &THREADS, "", field("Threads:"));
    let files = std::fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64);
    show(&mut out, &OPEN_FILES, "", files);
    out
}

fn show(out: &mut String, family: &Family, labels: &str, value: Option<u64>) {
    let Some(value) = value else { return };
    let (name, help, kind) = (family.name, family.help, family.kind.name());
    // Writing into a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{labels} {value}");
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, help, kind: Kind::Gauge, labels }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_shown_here() {
        let shown = render();
        for family in FAMILIES {
            assert!(shown.contains(&format!("\n# TYPE {} gauge\n{}", family.name, family.name)), "{shown}");
        }
    }
}

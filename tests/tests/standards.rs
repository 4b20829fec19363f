//! The example pods that Kubernetes publishes for each control of the Pod Security Standards, good and bad, through
//! `outrider audit`. They are read from the Go module `k8s.io/pod-security-admission` where `OUTRIDER_TEST_POD_SECURITY`
//! names its `test/testdata`; a table of our own with the same cases is in `control-api/src/audit`.

use std::fs;
use std::path::{Path, PathBuf};

use outrider_control::audit::{Level, audit_text, rules};

/// The version of the standards that is meant.
const VERSION: &str = "v1.35";
/// What the standards do not have.
const OURS: [&str; 7] = [
    "token-automount",
    "shared-processes",
    "dangerous-capability",
    "node-files",
    "runtime-socket",
    "mount-propagation",
    "proxy-identity",
];

/// The rule for a file's control: what its name begins with.
const CONTROLS: &[(&str, &str)] = &[
    ("allowprivilegeescalation", "privilege-escalation"),
    ("apparmorprofile", "apparmor"),
    ("capabilities_baseline", "capabilities"),
    ("capabilities_restricted", "capabilities-drop"),
    ("hostnamespaces", "host-namespaces"),
    ("hostpathvolumes", "host-path"),
    ("hostports", "host-ports"),
    ("hostprobesandhostlifecycle", "host-probes"),
    ("privileged", "privileged"),
    ("procmount", "proc-mount"),
    ("restrictedvolumes", "volume-types"),
    ("runasnonroot", "run-as-non-root"),
    ("runasuser", "run-as-user"),
    ("seccompprofile_baseline", "seccomp-unconfined"),
    ("seccompprofile_restricted", "seccomp"),
    ("selinuxoptions", "selinux"),
    ("sysctls", "sysctls"),
    ("windowshostprocess", "host-process"),
];

fn examples() -> Option<PathBuf> {
    let found =
        std::env::var_os("OUTRIDER_TEST_POD_SECURITY").map(PathBuf::from).filter(|path| path.is_dir());
    if found.is_none() {
        eprintln!("skipped: the examples of Kubernetes are not here; use `make test-kube`");
    }
    found
}

fn found(path: &Path, level: Level) -> Vec<&'static str> {
    let text = fs::read_to_string(path).unwrap();
    let audited = audit_text("example", &text, (level, &[], None)).unwrap();
    assert_eq!(audited.len(), 1, "{}", path.display());
    let names = audited[0].findings.iter().map(|finding| finding.rule.name);
    names.filter(|name| !OURS.contains(name)).collect()
}

#[test]
fn published_examples_are_classified_right() {
    let Some(examples) = examples() else { return };
    assert!(OURS.iter().all(|name| rules().iter().any(|rule| rule.name == *name)));
    let (mut count, mut wrong) = ((0, 0), Vec::new());
    for (level, folder) in [(Level::Baseline, "baseline"), (Level::Restricted, "restricted")] {
        let folder = examples.join(folder).join(VERSION);
        for entry in fs::read_dir(folder.join("pass")).unwrap() {
            let path = entry.unwrap().path();
            let found = found(&path, level);
            count.0 += 1;
            if !found.is_empty() {
                wrong.push(format!("{}: {found:?} and not good", path.display()));
            }
        }
        for entry in fs::read_dir(folder.join("fail")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let control = CONTROLS.iter().find(|(control, _)| name.starts_with(control));
            let (_, rule) = control.unwrap_or_else(|| panic!("{name}: a control that is not known"));
            let found = found(&path, level);
            count.1 += 1;
            if !found.contains(rule) {
                wrong.push(format!("{}: {found:?} and not {rule}", path.display()));
            }
        }
    }
    eprintln!("{} good and {} bad examples", count.0, count.1);
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count.0 >= 38 && count.1 >= 110, "{count:?}");
}

//! Writes an SVID for programs that read files: Envoy, gRPC libraries, anything.
//!
//! The three files are switched together, as Kubernetes does with volumes: each version has a directory of its own,
//! `..data` is a symbolic link to the newest, and `tls.crt`, `tls.key` and `ca.crt` are links through it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Svid, pem};

/// The link to the newest version.
const DATA: &str = "..data";
/// How the directories of versions begin.
const VERSION_PREFIX: &str = "..svid-";
/// The certificate chain, the key, and the roots of the SVID's own trust domain: others' roots must not vouch for it.
const FILES: [(&str, u32); 3] = [("tls.crt", 0o644), ("tls.key", 0o600), ("ca.crt", 0o644)];

/// Why the files could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct WriteError {
    /// What could not be written.
    path: PathBuf,
    source: io::Error,
}

/// Writes a version and switches to it. When it fails, the version before is still there, whole.
///
/// # Errors
/// Which file, and why.
pub fn write(directory: &Path, svid: &Svid) -> Result<(), WriteError> {
    at(directory, DirBuilder::new().recursive(true).mode(0o755).create(directory))?;
    let name = version_name();
    let version = directory.join(&name);
    let written = fill(&version, svid).and_then(|()| switch(directory, &name));
    if written.is_err() {
        // What is not used is taken away; if that fails too, the next version tries again.
        let _ = fs::remove_dir_all(&version);
    } else {
        remove_others(directory, &name);
    }
    written
}

/// Unique as long as one process writes into the directory; two at the same nanosecond fail with "exists".
fn version_name() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{VERSION_PREFIX}{}", since.as_nanos())
}

fn fill(version: &Path, svid: &Svid) -> Result<(), WriteError> {
    at(version, DirBuilder::new().mode(0o755).create(version))?;
    let roots = svid.bundles.get(svid.spiffe_id.trust_domain());
    let texts = [
        pem::write_certificates(&svid.chain),
        pem::write_key(&svid.key),
        pem::write_certificates(roots.map_or(&[], Vec::as_slice)),
    ];
    for ((name, mode), text) in FILES.iter().zip(texts) {
        let path = version.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(*mode).open(&path);
        let written = file.and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        at(&path, written)?;
    }
    at(version, sync(version))
}

fn switch(directory: &Path, version: &str) -> Result<(), WriteError> {
    replace_link(directory, DATA, version)?;
    for (name, _) in FILES {
        let through = format!("{DATA}/{name}");
        let link = directory.join(name);
        if fs::read_link(&link).is_ok_and(|target| target == Path::new(&through)) {
            continue;
        }
        replace_link(directory, name, &through)?;
    }
    at(directory, sync(directory))
}

/// Makes a link, in place of whatever file or link has the name.
fn replace_link(directory: &Path, name: &str, target: &str) -> Result<(), WriteError> {
    let next = directory.join(format!("..{}.next", name.trim_start_matches('.')));
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return at(&next, Err(error)),
        _ => {}
    }
    at(&next, symlink(target, &next))?;
    let link = directory.join(name);
    at(&link, fs::rename(&next, &link))
}

/// Takes older versions away, those of a process that was killed included.
fn remove_others(directory: &Path, current: &str) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_version =
            name.to_str().is_some_and(|name| name.starts_with(VERSION_PREFIX) && name != current);
        if is_version && let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::warn!(%error, path = %entry.path().display(), "an old version stays");
        }
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, WriteError> {
    result.map_err(|source| WriteError { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;
    use crate::svid::testing::{Authority, Directory};

    fn svid() -> Svid {
        let now = SystemTime::now();
        Authority::new("root").good(now, Duration::from_secs(60)).check(now).unwrap()
    }

    #[test]
    fn versions_replace_each_other_as_a_whole() {
        let directory = Directory::new("output");
        let out = directory.path().join("new/certs");
        let (first, second) = (svid(), svid());
        write(&out, &first).unwrap();
        let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
        assert_eq!(read("tls.crt"), pem::write_certificates(&first.chain));
        assert_eq!(read("ca.crt"), pem::write_certificates(&first.bundles["a.test"]));
        let old = fs::canonicalize(out.join("tls.crt")).unwrap();
        write(&out, &second).unwrap();
        assert_eq!(read("tls.key"), pem::write_key(&second.key));
        let mode = |name: &str| fs::metadata(out.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("tls.crt"), mode("tls.key"), mode("ca.crt")), (0o644, 0o600, 0o644));
        assert!(!old.exists(), "the old version is gone");
        let mut names: Vec<String> = fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.retain(|name| !name.starts_with(VERSION_PREFIX));
        names.sort();
        assert_eq!(names, [DATA, "ca.crt", "tls.crt", "tls.key"], "nothing temporary stays");
    }

    #[test]
    fn a_plain_file_gives_way_to_the_link_and_a_failure_changes_nothing() {
        let directory = Directory::new("output-plain");
        let out = directory.path();
        fs::write(out.join("tls.key"), "old").unwrap();
        let first = svid();
        write(out, &first).unwrap();
        assert_eq!(fs::read_to_string(out.join("tls.key")).unwrap(), pem::write_key(&first.key));

        // A directory in the way of the temporary link: the switch cannot happen.
        fs::create_dir(out.join("..data.next")).unwrap();
        assert!(write(out, &svid()).unwrap_err().to_string().contains("..data.next"));
        assert_eq!(fs::read_to_string(out.join("tls.key")).unwrap(), pem::write_key(&first.key));
        let versions = fs::read_dir(out).unwrap().flatten();
        let count =
            versions.filter(|entry| entry.file_name().to_str().unwrap().starts_with(VERSION_PREFIX)).count();
        assert_eq!(count, 1, "the failed version is gone");
    }
}

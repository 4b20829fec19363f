//! What the proxy needs after its start: files by name, and sockets.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::report::Report;
use crate::model::bootstrap::Bootstrap;
use crate::model::identity::{ControlTransport, IdentitySource};

/// Directories of everybody: of a file in one of them only the file itself is opened.
const SHARED: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/dev/shm",
    "/etc",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/local",
    "/usr/sbin",
    "/usr/share",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/run",
    "/var/spool",
    "/var/tmp",
];
/// What the C library reads to look up names. Modules for that, beside the files and DNS that are part of it, could not
/// be loaded any more.
const NAMES: &[&str] = &[
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
    "/etc/services",
];
/// What the proxy reads of the kernel: its own memory and files, and the name of the machine.
pub(super) const KERNEL: &[&str] = &["/proc/self", "/proc/sys/kernel/hostname"];

/// What the proxy needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Files that are read, also when they are replaced.
    pub read: BTreeSet<PathBuf>,
    /// Files that are written, also when they are moved away.
    pub write: BTreeSet<PathBuf>,
    /// The Unix socket that is connected to.
    pub socket: Option<PathBuf>,
    /// Whether a port below 1024 is listened on.
    pub low_ports: bool,
}

/// Files and directories that are opened for the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Grants {
    /// To read, and everything beneath.
    pub(super) read: BTreeSet<PathBuf>,
    /// To write to, and to make files in.
    pub(super) write: BTreeSet<PathBuf>,
    /// To connect to sockets in.
    pub(super) sockets: BTreeSet<PathBuf>,
}

impl Access {
    /// What a start-up file asks for. `more` are paths that an operator has named: read and written.
    #[must_use]
    pub fn new(
        config: &Path,
        bootstrap: &Bootstrap,
        identity: Option<&IdentitySource>,
        more: &(Vec<PathBuf>, Vec<PathBuf>),
    ) -> Self {
        let mut access = Self { read: bootstrap.files.read.clone(), ..Self::default() };
        // The access log knows this name as the standard output, which is open already.
        access
            .write
            .extend(bootstrap.files.write.iter().filter(|path| *path != Path::new("/dev/stdout")).cloned());
        access.read.insert(config.to_owned());
        match identity.or(bootstrap.identity.as_ref()) {
            Some(IdentitySource::Control(source)) => {
                access.read.insert(source.token_file.clone());
                if let ControlTransport::Tls { ca_file, .. } = &source.transport {
                    access.read.insert(ca_file.clone());
                }
            }
            Some(IdentitySource::Files(source)) => {
                access.read.insert(source.certificate_chain.clone());
                access.read.insert(source.private_key.clone());
                access.read.insert(source.trust_bundle.clone());
                access.read.extend(source.federated.values().cloned());
            }
            Some(IdentitySource::WorkloadApi(source)) => access.socket = Some(source.socket.clone()),
            None => {}
        }
        access.read.extend(more.0.iter().map(|path| marked(path)));
        access.write.extend(more.1.iter().map(|path| marked(path)));
        let listeners = bootstrap.resources.listeners.iter().map(|(_, listener)| listener.address);
        access.low_ports = listeners.chain(bootstrap.admin).any(is_low);
        access
    }

    /// The directories to open. Whole directories, because files are replaced by moving others into their place, and
    /// a permission holds for a file, not for its name.
    pub(super) fn grants(&self, report: &mut Report) -> Grants {
        let mut grants = Grants::default();
        for path in &self.read {
            open(path, &mut grants.read, report);
        }
        for path in &self.write {
            make(path);
            open(path, &mut grants.write, report);
        }
        if let Some(path) = &self.socket {
            open(path, &mut grants.sockets, report);
        }
        grants.read.extend(NAMES.iter().map(PathBuf::from));
        // Where it is a link, it is replaced in the directory that it points into.
        let resolver = Path::new("/etc/resolv.conf").canonicalize();
        grants.read.extend(resolver.ok().and_then(|path| place(&path)));
        grants
    }
}

/// Whether listening on it needs a capability.
#[must_use]
pub fn is_low(address: SocketAddr) -> bool {
    (1..1024).contains(&address.port())
}

/// A slash at the end of a name stands for the directory itself.
fn marked(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("") } else { path.to_owned() }
}

/// A file in a directory of everybody cannot be made later. Whether it can be now is seen when it is opened.
fn make(path: &Path) {
    if path.parent().is_some_and(is_shared) && !path.exists() {
        let _ = std::fs::OpenOptions::new().create(true).append(true).open(path);
    }
}

fn open(path: &Path, into: &mut BTreeSet<PathBuf>, report: &mut Report) {
    if is_directory(path) {
        into.insert(path.to_owned());
        return;
    }
    // Two places: where the name is, and where the link that it may be points to now.
    let names: BTreeSet<PathBuf> =
        [std::path::absolute(path).ok(), path.canonicalize().ok()].into_iter().flatten().collect();
    for path in names {
        let name = path.display();
        match place(&path) {
            Some(place) => {
                if place == path && path.is_file() {
                    report.note(format!(
                        "{name} is in a directory of everybody; once another file is moved into its place it cannot \
                         be opened any more: keep it in a directory of its own"
                    ));
                }
                into.insert(place);
            }
            None => report.note(format!(
                "{name} is not there, and neither is a directory of its own: it cannot be opened later"
            )),
        }
    }
}

fn is_directory(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/") && path.is_dir()
}

/// The directory of a file, or of the nearest directory above that is there; the file itself where that is one of
/// everybody's.
fn place(path: &Path) -> Option<PathBuf> {
    let above = path.ancestors().skip(1).find(|directory| directory.is_dir())?;
    if is_shared(above) { path.exists().then(|| path.to_owned()) } else { Some(above.to_owned()) }
}

fn is_shared(directory: &Path) -> bool {
    let home = directory.parent() == Some(Path::new("/home"));
    let kernel =
        directory.starts_with("/proc") || directory.starts_with("/sys") || directory.starts_with("/dev");
    home || kernel || SHARED.iter().any(|shared| directory == Path::new(shared))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lockin::Level;

    #[test]
    fn directories_are_opened_and_those_of_everybody_are_not() {
        let root = std::env::temp_dir().join(format!("outrider-access-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(root.join("certs/real")).unwrap();
        std::fs::write(root.join("certs/real/tls.crt"), "").unwrap();
        std::fs::create_dir(root.join("links")).unwrap();
        std::os::unix::fs::symlink("../certs/real/tls.crt", root.join("links/tls.crt")).unwrap();
        let opened = |path: &Path| {
            let (mut into, mut report) = (BTreeSet::new(), Report::new(Level::Enforce));
            open(path, &mut into, &mut report);
            (into.into_iter().collect::<Vec<_>>(), report.to_json()["notes"].as_array().unwrap().len())
        };
        let real = root.canonicalize().unwrap();
        assert_eq!(opened(&real.join("certs/real/tls.crt")), (vec![real.join("certs/real")], 0));
        assert_eq!(
            opened(&real.join("links/tls.crt")),
            (vec![real.join("certs/real"), real.join("links")], 0)
        );
        assert_eq!(opened(&real.join("certs/later/tls.crt")), (vec![real.join("certs")], 0));
        assert_eq!(opened(Path::new("/etc/passwd")).0, [Path::new("/etc/passwd")]);
        assert_eq!(opened(Path::new("/etc/passwd")).1, 1, "the operator is told");
        assert_eq!(opened(Path::new("/no-such-thing/tls.crt")), (vec![], 1));
        assert_eq!(opened(Path::new("/etc/no-such-thing")), (vec![], 1));
        assert_eq!(opened(&marked(Path::new("/etc"))).0[0], Path::new("/etc/"), "an operator's own word");
        std::fs::remove_dir_all(root).unwrap();
    }
}

//! An SVID from files that somebody else keeps fresh: cert-manager, Kubernetes, `fetch-svid`.
//!
//! They are looked at by polling: it sees a swapped symbolic link, a renamed file and a rewritten one alike, on every
//! filesystem. What does not fit together, because it is half written or half swapped, never takes effect.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::check::{Material, trust_domain_of};
use super::error::FetchError;
use super::keeper::{Clock, Keeper};
use super::{Bundles, Svid, pem};
use crate::model::identity::FilesSource;

/// How often the files are looked at.
pub const POLL: Duration = Duration::from_millis(250);
/// When files that could not be used are tried again although they look the same: a certificate may have become
/// valid, or a change may have been too quick for the clock of the filesystem.
const RETRY: Duration = Duration::from_secs(10);

/// Follows the files for ever.
pub async fn run(source: &FilesSource, keeper: &Keeper) {
    let mut watcher = Watcher::default();
    loop {
        match watcher.look(source, keeper.clock()) {
            // A file that was only touched brings nothing new.
            Some(Ok(svid)) => _ = keeper.publish(svid),
            Some(Err(error)) => keeper.failed(&error),
            None => {}
        }
        sleep(POLL).await;
    }
}

/// Reads the files once.
///
/// # Errors
/// A file that cannot be used, or files that do not fit together.
pub fn read(source: &FilesSource, clock: &Clock) -> Result<Svid, FetchError> {
    let chain = pem::certificates(&source.certificate_chain)?;
    let key = pem::private_key(&source.private_key)?;
    let mut bundles = Bundles::new();
    for (domain, file) in &source.federated {
        bundles.insert(domain.clone(), pem::certificates(file)?);
    }
    // A file of roots does not say whose they are: they are those of the SVID's own domain.
    bundles.insert(trust_domain_of(&chain)?, pem::certificates(&source.trust_bundle)?);
    Ok(Material { chain, key, bundles }.check(clock.now())?)
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        // Follows symbolic links: a swapped link shows as another inode.
        let seen = fs::metadata(path).ok()?;
        Some(Self {
            device: seen.dev(),
            inode: seen.ino(),
            bytes: seen.len(),
            modified: (seen.mtime(), seen.mtime_nsec()),
            changed: (seen.ctime(), seen.ctime_nsec()),
        })
    }
}

/// What was seen at the last look.
#[derive(Debug, Default)]
struct Watcher {
    stamps: Vec<Option<Stamp>>,
    /// What is wrong with them, and when to try again.
    wrong: Option<(String, Instant)>,
}

impl Watcher {
    /// A new SVID, or a reason why there is none that was not told yet.
    fn look(&mut self, source: &FilesSource, clock: &Clock) -> Option<Result<Svid, FetchError>> {
        let stamps = stamps(source);
        let retry = self.wrong.as_ref().is_some_and(|(_, at)| Instant::now() >= *at);
        if stamps == self.stamps && !retry {
            return None;
        }
        let read = read(source, clock);
        if self::stamps(source) != stamps {
            // Changed under our hands; what was read may be of two minds.
            self.stamps = Vec::new();
            return None;
        }
        self.stamps = stamps;
        match read {
            Ok(svid) => {
                self.wrong = None;
                Some(Ok(svid))
            }
            Err(error) => {
                let (text, again) = (error.to_string(), Instant::now() + RETRY);
                let told = self.wrong.replace((text.clone(), again));
                told.is_none_or(|(before, _)| before != text).then_some(Err(error))
            }
        }
    }
}

fn stamps(source: &FilesSource) -> Vec<Option<Stamp>> {
    let own = [&source.certificate_chain, &source.private_key, &source.trust_bundle];
    own.into_iter().chain(source.federated.values()).map(|path| Stamp::of(path)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::time::SystemTime;

    use super::*;
    use crate::svid::testing::{Authority, Directory};

    const HOUR: Duration = Duration::from_secs(3600);

    fn source(directory: &Path) -> FilesSource {
        FilesSource {
            certificate_chain: directory.join("tls.crt"),
            private_key: directory.join("tls.key"),
            trust_bundle: directory.join("ca.crt"),
            federated: [("b.test".to_owned(), directory.join("ca.crt"))].into(),
        }
    }

    fn write(directory: &Path, material: &Material) {
        let text = pem::write_certificates(&material.chain);
        fs::write(directory.join("tls.crt"), text).unwrap();
        fs::write(directory.join("tls.key"), pem::write_key(&material.key)).unwrap();
        let roots = pem::write_certificates(&material.bundles["a.test"]);
        fs::write(directory.join("ca.crt"), roots).unwrap();
    }

    /// As Kubernetes swaps the content of a volume.
    fn swap(directory: &Path, version: &str, material: &Material) {
        let inner = directory.join(version);
        fs::create_dir(&inner).unwrap();
        write(&inner, material);
        let next = directory.join("..data_tmp");
        symlink(version, &next).unwrap();
        fs::rename(next, directory.join("..data")).unwrap();
    }

    #[test]
    fn a_swapped_link_takes_effect_at_the_next_look() {
        let (directory, authority, clock) = (Directory::new("swap"), Authority::new("root"), Clock::system());
        let dir: PathBuf = directory.path().to_owned();
        swap(&dir, "..1", &authority.good(SystemTime::now(), HOUR));
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            symlink(format!("..data/{name}"), dir.join(name)).unwrap();
        }
        let mut watcher = Watcher::default();
        let first = watcher.look(&source(&dir), &clock).unwrap().unwrap();
        assert_eq!(first.bundles.keys().collect::<Vec<_>>(), ["a.test", "b.test"]);
        assert!(watcher.look(&source(&dir), &clock).is_none(), "nothing has changed");
        swap(&dir, "..2", &authority.good(SystemTime::now(), HOUR));
        let second = watcher.look(&source(&dir), &clock).unwrap().unwrap();
        assert_ne!(first.chain, second.chain);
    }

    #[test]
    fn what_is_half_written_never_takes_effect_and_is_told_once() {
        let (directory, authority, clock) = (Directory::new("half"), Authority::new("root"), Clock::system());
        let (dir, source) = (directory.path(), source(directory.path()));
        let mut watcher = Watcher::default();
        let missing = watcher.look(&source, &clock).unwrap().unwrap_err().to_string();
        assert!(missing.contains("tls.crt"), "{missing}");
        assert!(watcher.look(&source, &clock).is_none());
        write(dir, &authority.good(SystemTime::now(), HOUR));
        assert!(watcher.look(&source, &clock).unwrap().is_ok());

        // The new certificate is there, the new key is not.
        let next = authority.good(SystemTime::now(), HOUR);
        let text = pem::write_certificates(&next.chain);
        fs::write(dir.join("tls.crt"), &text).unwrap();
        assert!(watcher.look(&source, &clock).unwrap().is_err());
        assert!(watcher.look(&source, &clock).is_none(), "told once");
        // Half of a certificate, a whole one again with the key missing still, then the key.
        fs::write(dir.join("tls.crt"), &text.as_bytes()[..text.len() / 2]).unwrap();
        assert!(watcher.look(&source, &clock).unwrap().is_err());
        fs::write(dir.join("tls.crt"), &text).unwrap();
        fs::write(dir.join("tls.key"), pem::write_key(&next.key)).unwrap();
        let svid = watcher.look(&source, &clock).unwrap().unwrap();
        assert_eq!(svid.chain, next.chain);
        // The same again, under another time.
        fs::write(dir.join("tls.crt"), &text).unwrap();
        assert!(watcher.look(&source, &clock).unwrap().unwrap().is_same(&svid));
    }

    #[test]
    fn files_have_a_bound() {
        let directory = Directory::new("bound");
        let file = directory.path().join("large");
        fs::write(&file, vec![b'x'; usize::try_from(pem::MAX_FILE_BYTES).unwrap() + 1]).unwrap();
        assert!(pem::read(&file).unwrap_err().to_string().contains("more than"));
        fs::write(&file, "no certificate").unwrap();
        assert!(pem::certificates(&file).unwrap_err().to_string().contains("no certificate"));
    }
}

//! The state directory: what the control server must not lose, nor half-write, nor show to others.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Largest file that is read, in bytes: room for 20,000 workloads.
pub const MAX_FILE_BYTES: u64 = 32 * 1024 * 1024;
/// How the names of files begin that are still being written.
const UNFINISHED: &str = ".new-";

/// What went wrong, and with which file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct StateError {
    /// Which file or directory.
    pub path: PathBuf,
    /// What is wrong.
    pub reason: String,
}

impl StateError {
    /// About a file.
    pub fn new(path: &Path, reason: impl ToString) -> Self {
        Self { path: path.to_owned(), reason: reason.to_string() }
    }
}

/// A directory that only its owner can look into.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Opens it, and makes it if it is not there. Before it is written to it must be held: [`Self::lock`].
    ///
    /// # Errors
    /// When it cannot be made, or others can look into it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |error: io::Error| StateError::new(path, error);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        Self::existing(path)
    }

    /// Opens one that somebody else may hold, to read from it.
    ///
    /// # Errors
    /// When it is not there, or others can look into it.
    pub fn existing(path: &Path) -> Result<Self, StateError> {
        let failed = |error: io::Error| StateError::new(path, error);
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            let mode = mode & 0o777;
            let reason = format!(
                "mode {mode:o}: others can look into it; chmod 700, or name a directory below it that is not there yet"
            );
            return Err(StateError::new(path, reason));
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Where a file of it is.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The names of its files, in order.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn names(&self) -> Result<Vec<String>, StateError> {
        let failed = |error: io::Error| StateError::new(&self.path, error);
        let entries = fs::read_dir(&self.path).map_err(failed)?;
        let names =
            entries.map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned()));
        let mut names: Vec<String> = names.collect::<Result<_, StateError>>()?;
        names.sort();
        Ok(names)
    }

    /// What a file holds; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is too large.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        read(&self.file(name))
    }

    /// Writes a file as a whole, or not at all. It is on the disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written; the file before is then still there.
    pub fn write(&self, name: &str, content: &[u8], mode: u32) -> Result<(), StateError> {
        let unfinished = self.file(&format!("{UNFINISHED}{name}"));
        let failed = |error: io::Error| StateError::new(&self.file(name), error);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&unfinished)
            .map_err(failed)?;
        file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&unfinished, self.file(name)).map_err(failed)?;
        self.sync().map_err(failed)
    }

    /// Removes a file.
    ///
    /// # Errors
    /// When it stays.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        let failed = |error: io::Error| StateError::new(&self.file(name), error);
        fs::remove_file(self.file(name)).map_err(failed)?;
        self.sync().map_err(failed)
    }

    /// Holds the directory for this process, so that no second one writes into it. What a killed process left unfinished
    /// is taken away.
    ///
    /// # Errors
    /// When another process has it.
    pub fn lock(&self) -> Result<File, StateError> {
        let path = self.file("lock");
        let failed = |error: io::Error| StateError::new(&path, error);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        file.try_lock().map_err(|_| StateError::new(&path, "another control server uses this directory"))?;
        for name in self.names()?.iter().filter(|name| name.starts_with(UNFINISHED)) {
            let path = self.file(name);
            fs::remove_file(&path).map_err(|error| StateError::new(&path, error))?;
        }
        Ok(file)
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// A file of bounded size; `None` when there is none.
///
/// # Errors
/// When it cannot be read, or is too large.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    let failed = |error: io::Error| StateError::new(path, error);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut content = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(StateError::new(path, format!("more than {MAX_FILE_BYTES} bytes")));
    }
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::testing::Scratch;

    #[test]
    fn files_are_for_the_owner_and_are_never_half_there() {
        let scratch = Scratch::new("state");
        let state = StateDir::open(&scratch.path().join("a")).unwrap();
        state.write("key", b"one", 0o600).unwrap();
        state.write("key", b"two", 0o600).unwrap();
        fs::write(state.file(".new-key"), b"hal").unwrap();
        let held = state.lock().unwrap();
        assert_eq!(state.names().unwrap(), ["key", "lock"], "what was unfinished is gone");
        assert_eq!(state.read("key").unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(fs::metadata(state.file("key")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(state.read("none").unwrap(), None);
        fs::write(state.file(".new-key"), b"hal").unwrap();
        let other = StateDir::existing(&scratch.path().join("a")).unwrap();
        assert!(other.lock().is_err(), "one process at a time");
        assert_eq!(other.names().unwrap(), [".new-key", "key", "lock"], "what the other is writing stays");
        drop(held);
        assert!(state.lock().is_ok());
        fs::set_permissions(scratch.path().join("a"), fs::Permissions::from_mode(0o750)).unwrap();
        let error = StateDir::open(&scratch.path().join("a")).unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{error}");
        assert!(StateDir::existing(&scratch.path().join("none")).is_err(), "it is made by who holds it");
        assert!(!scratch.path().join("none").exists());
    }

    /// A volume of Kubernetes: its root is everybody's, or a group's that passes itself on, and cannot be changed.
    #[test]
    fn below_a_directory_that_others_may_use_it_makes_one_for_itself() {
        for mode in [0o777, 0o2777, 0o2770] {
            let scratch = Scratch::new("volume");
            fs::set_permissions(scratch.path(), fs::Permissions::from_mode(mode)).unwrap();
            let path = scratch.path().join("state");
            for _ in 0..2 {
                StateDir::open(&path).unwrap().write("key", b"one", 0o600).unwrap();
                assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700, "{mode:o}");
            }
            let error = StateDir::open(scratch.path()).unwrap_err().to_string();
            assert!(error.contains("name a directory below it"), "{error}");
        }
    }
}

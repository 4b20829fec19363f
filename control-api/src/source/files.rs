//! A directory of YAML files as a source.
//!
//! The directory is looked at again and again rather than watched: that works on every file system, and with the
//! symbolic links that Kubernetes swaps under a mounted `ConfigMap`. A change is taken when two looks in a row agree, so
//! that a file that is being written is not read half. What cannot be read keeps what was last good in force.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrider_proto::Fault;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::diagnostic::{Diagnostic, Severity};
use super::{View, yaml};
use crate::object::{AnyObject, Key, Objects, Place, any};

/// How often the directory is looked at.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// How long a change must have been still before it is taken.
const SETTLE: Duration = Duration::from_millis(50);
/// How often a change that does not become still is looked at again before it is taken all the same.
const MAX_SETTLE_LOOKS: usize = 20;
/// Largest file, bytes.
const MAX_FILE_BYTES: u64 = 32 << 20;
/// Most files in the directory and below it.
const MAX_FILES: usize = 20_000;
/// Deepest directory.
const MAX_DEPTH: usize = 16;
/// A file as young as this may change without a trace in its times, so it is read again.
const YOUNG: Duration = Duration::from_secs(2);

/// A directory, and what was found in it.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    files: BTreeMap<PathBuf, File>,
    good: Arc<Objects>,
}

/// A file as it was last read.
#[derive(Debug)]
struct File {
    stamp: Stamp,
    documents: Vec<Read>,
}

/// A document as it was read.
#[derive(Clone, Debug)]
enum Read {
    Good(AnyObject),
    /// The key is missing where the document could not even be parsed.
    Bad(Place, Option<Key>, Vec<Fault>),
}

/// What tells that a file changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    bytes: u64,
    inode: u64,
}

/// Looks at a directory until every receiver is gone. The first look has been taken when this returns.
///
/// # Errors
/// When the directory cannot be read at all; later that is a diagnostic.
pub async fn watch(root: &Path, interval: Duration) -> io::Result<(watch::Receiver<View>, JoinHandle<()>)> {
    let mut directory = Directory::new(root);
    fs::read_dir(root)?;
    let (view, mut directory) = blocking(move || {
        let view = directory.scan();
        (view, directory)
    })
    .await?;
    let (sender, receiver) = watch::channel(view);
    let task = tokio::spawn(async move {
        loop {
            tokio::select! {
                () = sender.closed() => return,
                () = tokio::time::sleep(interval) => {}
            }
            let looked = blocking(move || {
                let view = directory.changed().then(|| directory.settled());
                (view, directory)
            });
            let Ok((view, kept)) = looked.await else { return };
            directory = kept;
            if let Some(view) = view {
                sender.send_if_modified(|current| {
                    let differs =
                        current.diagnostics != view.diagnostics || !same(&current.objects, &view.objects);
                    *current = view;
                    differs
                });
            }
        }
    });
    Ok((receiver, task))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

fn same(left: &Objects, right: &Objects) -> bool {
    left.len() == right.len()
        && left.all().zip(right.all()).all(|(left, right)| {
            left.key() == right.key() && left.digest() == right.digest() && left.place() == right.place()
        })
}

impl Directory {
    /// A directory that was not looked at yet.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), files: BTreeMap::new(), good: Arc::default() }
    }

    /// Whether a look would find anything new.
    fn changed(&self) -> bool {
        let Ok(found) = list(&self.root) else { return true };
        let old_enough = |stamp: &Stamp| stamp.modified.elapsed().is_ok_and(|age| age > YOUNG);
        found.len() != self.files.len()
            || found.iter().any(|(path, stamp)| {
                self.files.get(path).is_none_or(|file| {
                    stamp.as_ref().is_none_or(|stamp| file.stamp != *stamp || !old_enough(stamp))
                })
            })
    }

    /// A look when two in a row agree on what is there.
    fn settled(&mut self) -> View {
        let mut before = list(&self.root).ok();
        for _ in 0..MAX_SETTLE_LOOKS {
            std::thread::sleep(SETTLE);
            let now = list(&self.root).ok();
            if now == before {
                break;
            }
            before = now;
        }
        self.scan()
    }

    /// Reads what is new. Never fails: what cannot be read is said in the diagnostics, and what was last good of it
    /// stays.
    pub fn scan(&mut self) -> View {
        let found = match list(&self.root) {
            Ok(found) => found,
            Err(error) => {
                let place = Place { file: self.root.display().to_string().into(), ..Place::default() };
                let kept = !self.good.is_empty();
                let fault = Fault::new("", format!("the directory cannot be read: {error}"));
                let diagnostic = Diagnostic {
                    place,
                    object: None,
                    fault,
                    severity: Severity::Error,
                    kept,
                    rule: "unreadable",
                };
                return View {
                    objects: Arc::clone(&self.good),
                    diagnostics: Arc::new(vec![diagnostic]),
                    complete: true,
                };
            }
        };
        let mut files = BTreeMap::new();
        for (path, stamp) in found {
            let young = |stamp: &Stamp| stamp.modified.elapsed().is_ok_and(|age| age <= YOUNG);
            let known = self
                .files
                .remove(&path)
                .filter(|file| stamp.is_some_and(|stamp| file.stamp == stamp && !young(&stamp)));
            let file = known.unwrap_or_else(|| self.read(&path, stamp));
            files.insert(path, file);
        }
        self.files = files;
        let (objects, diagnostics) = self.assemble();
        self.good = Arc::new(objects);
        View { objects: Arc::clone(&self.good), diagnostics: Arc::new(diagnostics), complete: true }
    }

    fn read(&self, path: &Path, stamp: Option<Stamp>) -> File {
        let shown = path.strip_prefix(&self.root).unwrap_or(path).display().to_string();
        let file: Arc<str> = shown.into();
        let documents = match text(path) {
            Ok(text) => {
                yaml::documents(&file, &text).into_iter().map(|(place, value)| read(place, value)).collect()
            }
            Err(reason) => {
                let place = Place { file, ..Place::default() };
                vec![Read::Bad(place, None, vec![Fault::new("", reason)])]
            }
        };
        let stamp = stamp.unwrap_or(Stamp { modified: SystemTime::now(), bytes: 0, inode: 0 });
        File { stamp, documents }
    }

    /// Good objects, last good versions of bad ones, and what is wrong.
    fn assemble(&self) -> (Objects, Vec<Diagnostic>) {
        let (mut objects, mut diagnostics) = (Objects::default(), Vec::new());
        let documents = || self.files.values().flat_map(|file| &file.documents);
        for document in documents() {
            let Read::Good(object) = document else { continue };
            match objects.object(object.key()) {
                Some(other) => diagnostics.push(duplicate(object, &other)),
                None => objects.insert(object.clone()),
            }
        }
        // Of a file in which something could not be parsed, nothing is taken for deleted.
        let mut unclear: BTreeSet<&str> = BTreeSet::new();
        for document in documents() {
            let Read::Bad(place, key, faults) = document else { continue };
            let mut kept = false;
            match key {
                Some(key) if objects.object(key).is_none() => {
                    if let Some(old) = self.good.object(key) {
                        objects.insert(old);
                        kept = true;
                    }
                }
                Some(_) => {}
                None => {
                    unclear.insert(&place.file);
                    kept = self.good.all().any(|object| object.place().file == place.file);
                }
            }
            diagnostics.extend(faults.iter().map(|fault| Diagnostic {
                place: place.clone(),
                object: key.clone(),
                fault: fault.clone(),
                severity: Severity::Error,
                kept,
                rule: if key.is_some() { "invalid-object" } else { "unreadable" },
            }));
        }
        for old in self.good.all() {
            if unclear.contains(&*old.place().file) && objects.object(old.key()).is_none() {
                objects.insert(old);
            }
        }
        diagnostics.sort_by(|left, right| left.place.cmp(&right.place));
        (objects, diagnostics)
    }
}

fn read(place: Place, value: Result<serde_json::Value, Fault>) -> Read {
    let value = match value {
        Ok(value) => value,
        Err(fault) => return Read::Bad(place, None, vec![fault]),
    };
    let key = any::key_of(&value);
    match AnyObject::from_value(value, &place) {
        Ok(object) => Read::Good(object),
        Err(faults) => Read::Bad(place, key, faults),
    }
}

fn duplicate(object: &AnyObject, other: &AnyObject) -> Diagnostic {
    let first = other.place();
    let reason = format!(
        "the same object stands in {} line {} already, which counts; remove one",
        first.file, first.line
    );
    Diagnostic {
        place: object.place().clone(),
        object: Some(object.key().clone()),
        fault: Fault::new("metadata.name", reason),
        severity: Severity::Error,
        kept: false,
        rule: "duplicate",
    }
}

fn text(path: &Path) -> Result<String, String> {
    let bytes = fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(format!("larger than {MAX_FILE_BYTES} bytes; use several files"));
    }
    fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))
}

/// Every YAML and JSON file below a directory, with its stamp if it has one. Names that begin with a dot are passed over,
/// as the ones that Kubernetes makes in a mounted `ConfigMap`.
fn list(root: &Path) -> io::Result<BTreeMap<PathBuf, Option<Stamp>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![(root.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
            if hidden {
                continue;
            }
            let metadata = fs::metadata(&path).ok();
            if metadata.as_ref().is_some_and(fs::Metadata::is_dir) {
                if depth < MAX_DEPTH {
                    folders.push((path, depth + 1));
                }
            } else if path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json") {
                if found.len() >= MAX_FILES {
                    return Err(io::Error::other(format!("more than {MAX_FILES} files")));
                }
                found.insert(path, metadata.as_ref().and_then(stamp));
            }
        }
    }
    Ok(found)
}

fn stamp(metadata: &fs::Metadata) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    Some(Stamp { modified: metadata.modified().ok()?, bytes: metadata.len(), inode: metadata.ino() })
}

#[cfg(test)]
mod tests;

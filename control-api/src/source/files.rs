//! A directory of YAML files as a source.
//!
//! The directory is looked at again and again rather than watched: that works on every file system, and with the
//! symbolic links that Kubernetes swaps under a mounted `ConfigMap`. A change is taken when two looks in a row agree, so
//! that a file that is being written is not read half. What cannot be read keeps what was last good in force; at the
//! start there is nothing to keep, and where a policy may be missing that is an error.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrider_proto::Fault;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::diagnostic::{Diagnostic, InForce, Severity};
use super::{View, closed, yaml};
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
/// What a file that holds a policy says somewhere.
const POLICY: &str = "AuthorizationPolicy";
/// How often a look is begun anew because something went away meanwhile.
const MAX_LOOKS: usize = 5;
/// A file as young as this may change without a trace in its times, so it is read again.
const YOUNG: Duration = Duration::from_secs(2);

/// A directory, and what was found in it.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// The last good versions of everything.
    good: Arc<Objects>,
    /// What is in force: those, and denials in place of policies that were never good.
    objects: Arc<Objects>,
    denials: usize,
}

/// A file as it was last read.
#[derive(Clone, Debug)]
struct File {
    stamp: Stamp,
    documents: Arc<[Read]>,
}

/// A document as it was read.
#[derive(Debug)]
enum Read {
    Good(AnyObject),
    Bad(Bad),
    /// Nobody knows which object it is, or which objects: the file cannot be read, or this is no YAML.
    Unclear(Place, Fault),
}

/// An object as it should not be.
#[derive(Clone, Debug)]
struct Bad {
    place: Place,
    /// Missing where its kind or its name is.
    key: Option<Key>,
    faults: Vec<Fault>,
    /// What holds in its place when there is no good version.
    closed: Option<AnyObject>,
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
/// When the directory cannot be read, or a file in it that may hold a policy; later that is a diagnostic.
pub async fn watch(root: &Path, interval: Duration) -> io::Result<(watch::Receiver<View>, JoinHandle<()>)> {
    let mut directory = Directory::new(root);
    let (view, mut directory) = blocking(move || {
        let view = directory.scan()?;
        match directory.unclear() {
            None => Ok((view, directory)),
            Some((place, fault)) => {
                let (file, line) = (&place.file, place.line);
                Err(io::Error::other(format!("{file}:{line}: {fault}; what is in it would be missing")))
            }
        }
    })
    .await??;
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
        let (files, good, objects) = (BTreeMap::new(), Arc::default(), Arc::default());
        Self { root: root.to_owned(), files, good, objects, denials: 0 }
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
        self.scan().unwrap_or_else(|error| self.unlisted(&error))
    }

    /// What holds while it cannot be said what there is: all that was last good.
    fn unlisted(&self, error: &io::Error) -> View {
        let place = Place { file: self.root.display().to_string().into(), ..Place::default() };
        let fault = Fault::new("", format!("the directory cannot be read: {error}"));
        let diagnostics = vec![diagnostic(&place, None, &fault, (InForce::LastGood, "unreadable"))];
        View {
            objects: Arc::clone(&self.objects),
            diagnostics: Arc::new(diagnostics),
            complete: true,
            denials: self.denials,
        }
    }

    /// Reads what is new. What cannot be read is said in the diagnostics, and what was last good of it stays.
    ///
    /// # Errors
    /// When it cannot be said which files there are. Everything is then as it was before.
    pub fn scan(&mut self) -> io::Result<View> {
        let mut looks = 1;
        self.files = loop {
            let found = list(&self.root)?;
            let (files, gone) = self.read_all(found);
            if !gone || looks == MAX_LOOKS {
                break files;
            }
            looks += 1;
        };
        let diagnostics = self.assemble();
        Ok(View {
            objects: Arc::clone(&self.objects),
            diagnostics: Arc::new(diagnostics),
            complete: true,
            denials: self.denials,
        })
    }

    /// These files, and whether one of them has gone since it was found.
    fn read_all(&self, found: BTreeMap<PathBuf, Option<Stamp>>) -> (BTreeMap<PathBuf, File>, bool) {
        let (mut files, mut gone) = (BTreeMap::new(), false);
        for (path, stamp) in found {
            let young = |stamp: &Stamp| stamp.modified.elapsed().is_ok_and(|age| age <= YOUNG);
            let same = |file: &&File| stamp.is_some_and(|stamp| file.stamp == stamp && !young(&stamp));
            let file = match self.files.get(&path).filter(same) {
                Some(known) => known.clone(),
                None => self.read(&path, stamp),
            };
            let unread = matches!(&*file.documents, [Read::Unclear(..)]);
            gone |= unread && stamp.is_some() && fs::metadata(&path).is_err_and(|error| has_gone(&error));
            files.insert(path, file);
        }
        (files, gone)
    }

    /// A document of which nobody knows what it is, in a file that may hold a policy: without it, everything that it
    /// forbids would be allowed.
    fn unclear(&self) -> Option<(&Place, &Fault)> {
        let may_hold_a_policy = |path: &Path| text(path).map_or(true, |text| text.contains(POLICY));
        self.files.iter().find_map(|(path, file)| {
            let unclear = file.documents.iter().find_map(|document| match document {
                Read::Unclear(place, fault) => Some((place, fault)),
                Read::Good(_) | Read::Bad(_) => None,
            });
            unclear.filter(|_| may_hold_a_policy(path))
        })
    }

    fn read(&self, path: &Path, stamp: Option<Stamp>) -> File {
        let below = path.strip_prefix(&self.root).ok().filter(|below| !below.as_os_str().is_empty());
        let shown = below.unwrap_or(path).display().to_string();
        let file: Arc<str> = shown.into();
        let documents: Arc<[Read]> = match text(path) {
            Ok(text) => {
                yaml::documents(&file, &text).into_iter().map(|(place, value)| read(place, value)).collect()
            }
            Err(reason) => {
                Arc::new([Read::Unclear(Place { file, ..Place::default() }, Fault::new("", reason))])
            }
        };
        let stamp = stamp.unwrap_or(Stamp { modified: SystemTime::now(), bytes: 0, inode: 0 });
        File { stamp, documents }
    }

    /// Puts together what is in force: good objects, last good versions of bad ones, and denials in place of policies
    /// that have none. What is wrong is returned.
    fn assemble(&mut self) -> Vec<Diagnostic> {
        let (mut objects, mut diagnostics) = (Objects::default(), Vec::new());
        let documents = || self.files.values().flat_map(|file| &*file.documents);
        for document in documents() {
            let Read::Good(object) = document else { continue };
            match objects.object(object.key()) {
                Some(other) => diagnostics.push(duplicate(object, &other)),
                None => objects.insert(object.clone()),
            }
        }
        // Of a file in which something is not known, nothing is taken for deleted.
        let mut unclear: BTreeSet<&str> = BTreeSet::new();
        let mut denials: BTreeMap<&Key, &AnyObject> = BTreeMap::new();
        for document in documents() {
            match document {
                Read::Good(_) => {}
                Read::Unclear(place, fault) => {
                    unclear.insert(&place.file);
                    let kept = self.good.all().any(|object| object.place().file == place.file);
                    let in_force = if kept { InForce::LastGood } else { InForce::Nothing };
                    diagnostics.push(diagnostic(place, None, fault, (in_force, "unreadable")));
                }
                Read::Bad(bad) => {
                    let mut in_force = self.in_place_of(bad, &mut objects);
                    if bad.key.is_none() {
                        unclear.insert(&bad.place.file);
                    }
                    if let (InForce::Nothing, Some(closed)) = (in_force, &bad.closed)
                        && objects.object(closed.key()).is_none()
                    {
                        denials.insert(closed.key(), closed);
                        in_force = InForce::Denial;
                    }
                    let rule = if bad.key.is_some() { "invalid-object" } else { "unreadable" };
                    let of_fault = |fault| diagnostic(&bad.place, bad.key.as_ref(), fault, (in_force, rule));
                    diagnostics.extend(bad.faults.iter().map(of_fault));
                }
            }
        }
        for old in self.good.all() {
            if unclear.contains(&*old.place().file) && objects.object(old.key()).is_none() {
                objects.insert(old);
            }
        }
        diagnostics.sort_by(|left, right| left.place.cmp(&right.place));
        self.good = Arc::new(objects);
        self.denials = denials.len();
        self.objects = Arc::clone(&self.good);
        if !denials.is_empty() {
            let mut all = Objects::clone(&self.good);
            denials.into_values().for_each(|closed| all.insert(closed.clone()));
            self.objects = Arc::new(all);
        }
        diagnostics
    }

    /// Keeps the last good version of a bad object, if there is one and no good document has taken its place.
    fn in_place_of(&self, bad: &Bad, objects: &mut Objects) -> InForce {
        let of_file = |object: &AnyObject| object.place().file == bad.place.file;
        match &bad.key {
            Some(key) if objects.object(key).is_some() => InForce::Nothing,
            Some(key) => match self.good.object(key) {
                Some(old) => {
                    objects.insert(old);
                    InForce::LastGood
                }
                None => InForce::Nothing,
            },
            None => {
                // All of the file are kept. Whether it was one of them nobody knows, but of a policy it must be known.
                let meant = |object: &AnyObject| {
                    bad.closed.as_ref().is_none_or(|closed| closed.key().kind == object.key().kind)
                };
                let kept = |object: AnyObject| of_file(&object) && meant(&object);
                if self.good.all().any(kept) { InForce::LastGood } else { InForce::Nothing }
            }
        }
    }
}

fn read(place: Place, value: Result<serde_json::Value, Fault>) -> Read {
    let value = match value {
        Ok(value) => value,
        Err(fault) => return Read::Unclear(place, fault),
    };
    let (key, closed) = (any::key_of(&value), closed::in_place_of(&value, &place));
    match AnyObject::from_value(value, &place) {
        Ok(object) => Read::Good(object),
        Err(faults) => Read::Bad(Bad { place, key, faults, closed }),
    }
}

fn diagnostic(
    place: &Place,
    object: Option<&Key>,
    fault: &Fault,
    (in_force, rule): (InForce, &'static str),
) -> Diagnostic {
    let (place, object, fault) = (place.clone(), object.cloned(), fault.clone());
    Diagnostic { place, object, fault, severity: Severity::Error, in_force, rule }
}

fn duplicate(object: &AnyObject, other: &AnyObject) -> Diagnostic {
    let first = other.place();
    let reason = format!(
        "the same object stands in {} line {} already, which counts; remove one",
        first.file, first.line
    );
    let fault = Fault::new("metadata.name", reason);
    diagnostic(object.place(), Some(object.key()), &fault, (InForce::Nothing, "duplicate"))
}

/// What a file holds. What is no file may never come to an end, or never begin: a pipe waits for its other end.
fn text(path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err("is not a file; take it away, or give it another name".to_owned());
    }
    let file = fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    let bytes = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if bytes as u64 > MAX_FILE_BYTES {
        return Err(format!("larger than {MAX_FILE_BYTES} bytes; use several files"));
    }
    Ok(text)
}

/// Every YAML and JSON file below a directory, with its stamp if it has one. Names that begin with a dot are passed over,
/// as the ones that Kubernetes makes in a mounted `ConfigMap`. A directory in which not everything can be seen is an error:
/// what is not seen would count as deleted.
fn list(root: &Path) -> io::Result<BTreeMap<PathBuf, Option<Stamp>>> {
    let mut looks = 1;
    loop {
        match list_once(root) {
            Err(error) if has_gone(&error) && looks < MAX_LOOKS => looks += 1,
            found => return found,
        }
    }
}

/// Whether what was there a moment ago has gone, or is something else now.
fn has_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn list_once(root: &Path) -> io::Result<BTreeMap<PathBuf, Option<Stamp>>> {
    use std::os::unix::fs::MetadataExt as _;
    let mut found = BTreeMap::new();
    // `outrider validate` may be asked of one file; the server sees to it that it is a directory.
    if let Some(metadata) = fs::metadata(root).ok().filter(fs::Metadata::is_file) {
        found.insert(root.to_owned(), stamp(&metadata));
        return Ok(found);
    }
    let mut folders = VecDeque::from([(root.to_owned(), 0)]);
    // A symbolic link may lead back to where it stands. The shortest way to a directory counts.
    let mut seen = BTreeSet::new();
    while let Some((folder, depth)) = folders.pop_front() {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
        let metadata = fs::metadata(&folder).map_err(named)?;
        if !seen.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        let entries = fs::read_dir(&folder).map_err(named)?;
        let mut paths =
            entries.map(|entry| Ok(entry.map_err(named)?.path())).collect::<io::Result<Vec<_>>>()?;
        // Of two ways as short as each other always the same one.
        paths.sort();
        for path in paths {
            let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
            if hidden {
                continue;
            }
            let metadata = fs::metadata(&path).ok();
            if metadata.as_ref().is_some_and(fs::Metadata::is_dir) {
                if depth < MAX_DEPTH {
                    folders.push_back((path, depth + 1));
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

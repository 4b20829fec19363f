//! Access log lines, batched per worker and written by one thread.
//!
//! A worker never waits for a disk: a batch goes to the writer over a bounded queue, and when that is full its lines
//! are dropped and counted. The writer looks before each batch whether the path still is the file that it has open,
//! so a file that was moved away (by logrotate, for one) is left alone and a new one begun; no signal is needed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::format::Record;
use super::series::ACCESS_LOG_DROPPED;
use crate::model::access_log::AccessLog;

/// A batch is handed over when it is this large, in bytes.
const BATCH_BYTES: usize = 32 * 1024;
/// Batches that may wait for the writer.
const QUEUED_BATCHES: usize = 64;
/// Files that the writer keeps open; when there are more, all are closed and opened again as they are needed.
const MAX_OPEN_FILES: usize = 64;

type Batch = (Arc<str>, Vec<u8>);

/// The writer's end that workers hold.
#[derive(Clone, Debug)]
pub struct LogQueue(SyncSender<Batch>);

impl LogQueue {
    /// Starts the writer; it ends when it has written what was handed over and the last queue is dropped, which is
    /// what to wait for before the process ends.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start() -> std::io::Result<(Self, JoinHandle<()>)> {
        let (sender, receiver) = sync_channel(QUEUED_BATCHES);
        let thread = std::thread::Builder::new().name("access-log".to_owned());
        let writer = thread.spawn(move || write_all(&receiver))?;
        Ok((Self(sender), writer))
    }
}

/// One worker's batches.
#[derive(Debug)]
pub struct AccessLogger {
    queue: LogQueue,
    batches: RefCell<Vec<Batch>>,
}

impl AccessLogger {
    /// A logger without lines.
    #[must_use]
    pub const fn new(queue: LogQueue) -> Self {
        Self { queue, batches: RefCell::new(Vec::new()) }
    }

    /// Adds a line.
    pub fn write(&self, log: &AccessLog, record: &Record<'_>) {
        let mut batches = self.batches.borrow_mut();
        let index = match batches.iter().position(|(destination, _)| *destination == log.destination) {
            Some(index) => index,
            None => {
                batches.push((Arc::clone(&log.destination), Vec::with_capacity(BATCH_BYTES)));
                batches.len() - 1
            }
        };
        let Some((_, bytes)) = batches.get_mut(index) else {
            return;
        };
        log.format.render(record, bytes);
        if bytes.len() >= BATCH_BYTES {
            let batch = batches.swap_remove(index);
            self.hand_over(batch);
        }
    }

    /// Hands over what there is; called a few times a second and at the end.
    pub fn flush(&self) {
        for batch in self.batches.take() {
            self.hand_over(batch);
        }
    }

    fn hand_over(&self, batch: Batch) {
        use std::sync::mpsc::TrySendError::{Disconnected, Full};
        if let Err(Full((_, bytes)) | Disconnected((_, bytes))) = self.queue.0.try_send(batch) {
            count_dropped(&bytes);
        }
    }
}

impl Drop for AccessLogger {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Counts the lines of which these bytes hold the end; the last one may be without it.
fn count_dropped(bytes: &[u8]) {
    let ended = memchr::memchr_iter(b'\n', bytes).count();
    let open = usize::from(!bytes.is_empty() && !bytes.ends_with(b"\n"));
    metrics::counter!(ACCESS_LOG_DROPPED).increment((ended + open) as u64);
}

fn write_all(batches: &Receiver<Batch>) {
    let mut files = HashMap::new();
    while let Ok((destination, bytes)) = batches.recv() {
        if &*destination == "/dev/stdout" {
            let mut lines = std::io::stdout().lock();
            if let Err((left, error)) = write_some(&mut lines, &bytes) {
                count_dropped(left);
                tracing::debug!(path = %destination, %error, "access log not written");
            }
            continue;
        }
        if files.len() >= MAX_OPEN_FILES && !files.contains_key(&destination) {
            files.clear();
        }
        files.entry(destination).or_insert_with_key(LogFile::new).write(&bytes);
    }
}

/// A file that lines are added to.
struct LogFile {
    path: Arc<str>,
    open: Option<File>,
    /// The last write failed. Warned of once, until one succeeds.
    failing: bool,
    /// The last write ended within a line.
    torn: bool,
}

impl LogFile {
    fn new(path: &Arc<str>) -> Self {
        Self { path: Arc::clone(path), open: None, failing: false, torn: false }
    }

    fn write(&mut self, bytes: &[u8]) {
        let outcome = self.try_write(bytes);
        let path = &*self.path;
        match outcome {
            Ok(()) if self.failing => tracing::info!(path, "access log is written again"),
            Ok(()) => {}
            Err((left, ref error)) => {
                count_dropped(left);
                if !self.failing {
                    tracing::warn!(path, %error, "access log not written; its lines are dropped and counted");
                }
            }
        }
        self.failing = outcome.is_err();
    }

    fn try_write<'a>(&mut self, bytes: &'a [u8]) -> Result<(), (&'a [u8], std::io::Error)> {
        if !self.is_current() {
            let opened = OpenOptions::new().create(true).append(true).open(&*self.path);
            self.open = Some(opened.map_err(|error| (bytes, error))?);
            self.torn = false;
        }
        let Some(file) = &mut self.open else { return Ok(()) };
        if self.torn {
            file.write_all(b"\n").map_err(|error| (bytes, error))?;
            self.torn = false;
        }
        let written = write_some(file, bytes);
        if let Err((left, _)) = &written {
            let done = bytes.len() - left.len();
            self.torn = bytes.get(..done).is_some_and(|done| !done.is_empty() && !done.ends_with(b"\n"));
        }
        written
    }

    /// Whether the open file is still the one that the path names.
    fn is_current(&self) -> bool {
        let opened = self.open.as_ref().and_then(|file| file.metadata().ok());
        let named = std::fs::metadata(&*self.path).ok();
        opened
            .zip(named)
            .is_some_and(|(opened, named)| (opened.dev(), opened.ino()) == (named.dev(), named.ino()))
    }
}

/// Writes all, or says what is left.
fn write_some<'a>(to: &mut impl Write, bytes: &'a [u8]) -> Result<(), (&'a [u8], std::io::Error)> {
    let mut left = bytes;
    while !left.is_empty() {
        match to.write(left) {
            Ok(0) => return Err((left, ErrorKind::WriteZero.into())),
            Ok(count) => left = left.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err((left, error)),
        }
    }
    to.flush().map_err(|error| (left, error))
}

#[cfg(test)]
mod tests;

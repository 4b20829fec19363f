//! Access log lines, batched per worker and written by one thread.
//!
//! A worker never waits for a disk: a batch goes to the writer over a bounded queue, and when that is full the
//! batch is dropped and counted.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::format::Record;
use crate::model::access_log::AccessLog;

/// A batch is handed over when it is this large, in bytes.
const BATCH_BYTES: usize = 32 * 1024;
/// Batches that may wait for the writer.
const QUEUED_BATCHES: usize = 64;

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

fn write_all(batches: &Receiver<Batch>) {
    let mut files: HashMap<Arc<str>, File> = HashMap::new();
    while let Ok((destination, bytes)) = batches.recv() {
        if let Err(error) = write(&mut files, &destination, &bytes) {
            metrics::counter!("outrider_access_log_dropped_total").increment(1);
            tracing::debug!(path = %destination, %error, "access log not written");
            // Opened anew with the next batch: the file may have been moved away or the disk full.
            files.remove(&destination);
        }
    }
}

fn write(files: &mut HashMap<Arc<str>, File>, destination: &Arc<str>, bytes: &[u8]) -> std::io::Result<()> {
    if &**destination == "/dev/stdout" {
        return std::io::stdout().lock().write_all(bytes);
    }
    if !files.contains_key(destination) || !std::path::Path::new(&**destination).exists() {
        let file = OpenOptions::new().create(true).append(true).open(&**destination)?;
        files.insert(Arc::clone(destination), file);
    }
    match files.get_mut(destination) {
        Some(file) => file.write_all(bytes),
        None => Ok(()),
    }
}

/// One worker's batches.
#[derive(Debug)]
pub struct AccessLogger {
    queue: LogQueue,
    batches: RefCell<Vec<Batch>>,
    dropped: Cell<u64>,
}

impl AccessLogger {
    /// A logger without lines.
    #[must_use]
    pub const fn new(queue: LogQueue) -> Self {
        Self { queue, batches: RefCell::new(Vec::new()), dropped: Cell::new(0) }
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
        if self.queue.0.try_send(batch).is_err() {
            self.dropped.set(self.dropped.get() + 1);
            metrics::counter!("outrider_access_log_dropped_total").increment(1);
        }
    }
}

impl Drop for AccessLogger {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::format::{LineFormat, Template};

    #[test]
    fn what_was_handed_over_is_written_before_the_writer_ends() {
        let file = std::env::temp_dir().join(format!("outrider-access-log-{}", std::process::id()));
        let _ = std::fs::remove_file(&file);
        let log = AccessLog {
            destination: file.to_string_lossy().into(),
            format: LineFormat::Text(Template::parse("%RESPONSE_CODE%\n").unwrap()),
        };
        let (queue, writer) = LogQueue::start().unwrap();
        let logger = AccessLogger::new(queue);
        // More than one batch of lines.
        for status in 0..20_000_u16 {
            logger.write(&log, &Record { status, ..Record::default() });
        }
        assert_eq!(logger.dropped.get(), 0);
        drop(logger);
        writer.join().unwrap();
        let lines: Vec<u16> =
            std::fs::read_to_string(&file).unwrap().lines().map(|line| line.parse().unwrap()).collect();
        let _ = std::fs::remove_file(&file);
        assert!(lines.iter().copied().eq(0..20_000));
    }

    #[test]
    fn a_destination_that_cannot_be_written_stops_nobody() {
        let log = AccessLog { destination: "/nowhere/at/all".into(), format: LineFormat::envoy_default() };
        let (queue, writer) = LogQueue::start().unwrap();
        let logger = AccessLogger::new(queue);
        logger.write(&log, &Record::default());
        drop(logger);
        writer.join().unwrap();
    }
}

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use metrics_exporter_prometheus::PrometheusBuilder;

use super::*;
use crate::observe::format::{LineFormat, Template};

/// A folder of its own for each test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("outrider-access-log-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn log(path: &Path) -> AccessLog {
    let format = LineFormat::Text(Template::parse("%RESPONSE_CODE%\n").unwrap());
    AccessLog { destination: path.to_string_lossy().into(), format }
}

fn record(status: u16) -> Record<'static> {
    Record { status, ..Record::default() }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// What the counter of dropped lines shows after `run`, on the thread that runs it.
fn dropped(run: impl FnOnce()) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, run);
    let text = recorder.handle().render();
    let line = text.lines().find_map(|line| line.strip_prefix("outrider_access_log_dropped_total "));
    line.unwrap_or("0").to_owned()
}

#[test]
fn what_was_handed_over_is_written_before_the_writer_ends() {
    let folder = Folder::new();
    let log = log(&folder.file("a"));
    let (queue, writer) = LogQueue::start().unwrap();
    let logger = AccessLogger::new(queue);
    // More than one batch of lines.
    let count = dropped(|| (0..20_000).for_each(|status| logger.write(&log, &record(status))));
    assert_eq!(count, "0");
    drop(logger);
    writer.join().unwrap();
    let lines: Vec<u16> = read(&folder.file("a")).lines().map(|line| line.parse().unwrap()).collect();
    assert!(lines.iter().copied().eq(0..20_000));
}

#[test]
fn a_file_that_was_moved_away_is_begun_anew() {
    let folder = Folder::new();
    let (now, before) = (folder.file("a"), folder.file("a.1"));
    let mut file = LogFile::new(&now.to_string_lossy().into());
    file.write(b"1\n");
    // As logrotate's "nocreate" does it.
    std::fs::rename(&now, &before).unwrap();
    file.write(b"2\n");
    assert_eq!((read(&before), read(&now)), ("1\n".to_owned(), "2\n".to_owned()));
    // As its "create" does it: the path is there again before we write.
    std::fs::rename(&now, &before).unwrap();
    std::fs::write(&now, "").unwrap();
    file.write(b"3\n");
    assert_eq!((read(&before), read(&now)), ("2\n".to_owned(), "3\n".to_owned()));
    // As its "copytruncate" does it.
    std::fs::write(&now, "").unwrap();
    file.write(b"4\n");
    assert_eq!(read(&now), "4\n");
    std::fs::remove_file(&now).unwrap();
    file.write(b"5\n");
    assert_eq!(read(&now), "5\n");
}

#[test]
fn a_full_disk_costs_lines_and_nothing_else() {
    let mut full = LogFile::new(&"/dev/full".into());
    assert_eq!(dropped(|| full.write(b"1\n2\n3\n")), "3");
    assert!(full.failing);
    assert_eq!(dropped(|| full.write(b"4\n")), "1");
    let mut nowhere = LogFile::new(&"/nowhere/at/all".into());
    assert_eq!(dropped(|| nowhere.write(b"1\n2 without an end")), "2");
}

#[test]
fn a_destination_that_cannot_be_written_does_not_stop_the_others() {
    let folder = Folder::new();
    let (queue, writer) = LogQueue::start().unwrap();
    let logger = AccessLogger::new(queue);
    for path in [Path::new("/dev/full"), Path::new("/nowhere/at/all"), &folder.file("good")] {
        logger.write(&log(path), &record(200));
    }
    logger.flush();
    logger.write(&log(&folder.file("good")), &record(201));
    drop(logger);
    writer.join().unwrap();
    assert_eq!(read(&folder.file("good")), "200\n201\n");
}

#[test]
fn a_line_that_was_cut_is_ended_before_the_next() {
    let folder = Folder::new();
    let path = folder.file("a");
    let mut file = LogFile::new(&path.to_string_lossy().into());
    file.write(b"1\n2");
    file.torn = true;
    file.write(b"3\n");
    assert_eq!(read(&path), "1\n2\n3\n");
    assert!(!file.torn);
}

#[test]
fn what_is_left_of_a_write_is_known() {
    struct Small(Vec<u8>, usize);
    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            match (self.1 - self.0.len()).min(bytes.len()).min(2) {
                0 => Err(ErrorKind::StorageFull.into()),
                count => {
                    self.0.extend_from_slice(&bytes[..count]);
                    Ok(count)
                }
            }
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut disk = Small(Vec::new(), 5);
    let (left, error) = write_some(&mut disk, b"ab\ncd\nef\n").unwrap_err();
    assert_eq!((left, error.kind()), (&b"\nef\n"[..], ErrorKind::StorageFull));
    assert!(write_some(&mut Small(Vec::new(), 9), b"ab\n").is_ok());
}

#[test]
fn a_writer_that_hangs_costs_lines_and_no_waiting() {
    // Nobody takes what is queued: as if the writer hung in a write.
    let (sender, receiver) = sync_channel(QUEUED_BATCHES);
    let logger = AccessLogger::new(LogQueue(sender));
    let log = log(Path::new("/nowhere"));
    let count = dropped(|| {
        for _ in 0..QUEUED_BATCHES + 3 {
            logger.write(&log, &record(200));
            logger.write(&log, &record(200));
            logger.flush();
        }
    });
    assert_eq!(count, "6");
    assert_eq!(receiver.try_iter().count(), QUEUED_BATCHES);
}

#[test]
fn open_files_are_bounded() {
    let folder = Folder::new();
    let (queue, writer) = LogQueue::start().unwrap();
    let logger = AccessLogger::new(queue);
    let count = MAX_OPEN_FILES + 5;
    for round in 0..2 {
        for number in 0..count {
            logger.write(&log(&folder.file(&number.to_string())), &record(round));
            // One batch at a time, so that the queue is not what runs over.
            if number % 16 == 0 {
                logger.flush();
                while writer_is_behind(&folder, number, round) {
                    std::thread::yield_now();
                }
            }
        }
        logger.flush();
        while writer_is_behind(&folder, count - 1, round) {
            std::thread::yield_now();
        }
    }
    drop(logger);
    writer.join().unwrap();
    for number in 0..count {
        assert_eq!(read(&folder.file(&number.to_string())), "0\n1\n");
    }
}

fn writer_is_behind(folder: &Folder, number: usize, round: u16) -> bool {
    !read(&folder.file(&number.to_string())).contains(&format!("{round}\n"))
}

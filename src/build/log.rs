//! The build log: one writer, any number of followers.
//!
//! The file is authoritative. A follower holds an offset into it, never a copy, so a slow reader costs the
//! daemon no memory. The writer wakes followers; none polls.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::line_times::{self, LineTime, LineTimes};
use super::origins::{Origin, Origins};
use super::{LOG_TAIL, layout, record};
use crate::located::at;
use crate::read_limiter::ClientReadLimiter;

/// The progress of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Written {
    bytes: u64,
    over: bool,
}

/// The writing end. Dropping it ends the log for its followers, after the last byte that was appended.
#[derive(Debug)]
pub struct BuildLog {
    writer: Arc<Writer>,
    /// Bytes appended to it, including those that are being written.
    bytes: u64,
    /// Who wrote its end.
    origins: Origins,
    /// The current write. It continues when its caller stops waiting for it; the next write waits for it.
    writing: Option<JoinHandle<io::Result<()>>>,
}

/// The file, and its progress. The log ends when the last owner drops this: a write that still runs comes
/// before the end.
#[derive(Debug)]
struct Writer {
    file: std::fs::File,
    times: Mutex<Times>,
    written: watch::Sender<Written>,
}

/// The times of the log's lines. The log does not need them: after an error there are no further ones.
#[derive(Debug)]
enum Times {
    Written(LineTimes),
    Failed(Option<io::Error>),
}

/// Lets followers of a log that is still written resume reading.
#[derive(Clone, Debug)]
pub struct LogProgress(watch::Receiver<Written>);

impl BuildLog {
    /// Continues the log in `directory` at its end, and makes it if there is none. Blocks.
    ///
    /// # Errors
    /// When a file cannot be made, read or written.
    pub(super) fn open(directory: &Path) -> io::Result<BuildLog> {
        let mut options = File::options();
        let file = options.append(true).create(true).mode(0o640);
        let file = file.open(directory.join(layout::LOG))?;
        let bytes = file.metadata()?.len();
        let times = LineTimes::open(directory, bytes)?;
        let (written, _) = watch::channel(Written { bytes, over: false });
        Ok(BuildLog {
            writer: Arc::new(Writer {
                file,
                times: Mutex::new(Times::Written(times)),
                written,
            }),
            bytes,
            origins: Origins::default(),
            writing: None,
        })
    }

    /// Appends bytes unchanged, as written now; followers see them when this returns. If the future is
    /// dropped earlier, all bytes are still appended and seen.
    ///
    /// # Errors
    /// When the disk is full or fails. What was written before stays.
    pub async fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let now = LineTime::new(self.bytes, Timestamp::now());
        self.append_timed(bytes, vec![now]).await
    }

    /// The same for bytes that were written at these times. Times of earlier bytes are ignored if they are known.
    ///
    /// # Errors
    /// As for [`BuildLog::append`].
    pub async fn append_timed(&mut self, bytes: &[u8], mut times: Vec<LineTime>) -> io::Result<()> {
        self.written().await?;
        let (writer, bytes) = (self.writer.clone(), bytes.to_vec());
        self.bytes += bytes.len() as u64;
        times.retain(|time| time.offset < self.bytes);
        self.writing = Some(tokio::task::spawn_blocking(move || {
            writer.write_times(&times);
            writer.write(&bytes)
        }));
        self.written().await
    }

    /// Waits for the current write.
    async fn written(&mut self) -> io::Result<()> {
        let Some(writing) = &mut self.writing else {
            return Ok(());
        };
        let written = writing.await;
        self.writing = None;
        self.bytes = self.writer.written.borrow().bytes;
        written?
    }

    /// Appends a line of the daemon, separate from the build's output.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn note(&mut self, line: impl std::fmt::Display) -> io::Result<()> {
        let gap = if self.bytes() > 0 { "\n" } else { "" };
        let text = format!("{gap}mistry: {line}\n");
        let from = self.bytes;
        let appended = self.append(text.as_bytes()).await;
        self.origins.add(from..self.bytes, Origin::Mistry);
        appended
    }

    /// Says that these bytes of the log are standard error of the container. They lie behind those of earlier
    /// calls.
    pub fn mark_stderr(&mut self, bytes: Range<u64>) {
        self.origins.add(bytes, Origin::Stderr);
    }

    /// Forgets who wrote what, before the output of a container is read from its beginning.
    pub fn forget_origins(&mut self) {
        self.origins.clear();
    }

    /// Who wrote the end of the log, as far as this process knows.
    pub(super) fn origins(&self) -> &Origins {
        &self.origins
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Why later lines of the log have no times; returned once.
    pub fn take_times_error(&self) -> Option<io::Error> {
        match &mut *self.writer.times.lock() {
            Times::Written(_) => None,
            Times::Failed(error) => error.take(),
        }
    }

    /// For followers.
    pub fn progress(&self) -> LogProgress {
        LogProgress(self.writer.written.subscribe())
    }
}

impl Writer {
    /// Adds times of bytes that are about to be written.
    fn write_times(&self, new: &[LineTime]) {
        let mut times = self.times.lock();
        if let Times::Written(written) = &mut *times
            && let Err(error) = written.add(new)
        {
            *times = Times::Failed(Some(error));
        }
    }

    /// Appends bytes and shows followers as many as were written.
    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let (mut file, mut rest) = (&self.file, bytes);
        let result = loop {
            if rest.is_empty() {
                break Ok(());
            }
            match file.write(rest) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        let count = bytes.len() - rest.len();
        self.written
            .send_modify(|written| written.bytes += count as u64);
        result
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.written.send_modify(|written| written.over = true);
    }
}

/// A reading end: from an offset to the end of the log, and further while it grows. While it waits it holds
/// no bytes of it.
#[derive(Debug)]
pub struct LogFollower {
    file: Arc<File>,
    path: PathBuf,
    at: u64,
    length: u64,
    tag: String,
    progress: Option<LogProgress>,
    /// Limits its reads.
    limiter: ClientReadLimiter,
}

/// A tag of the log at `path` that is valid from its first byte to its removal, whatever is appended to it
/// and wherever it is moved. A new file may reuse the inode of a removed one, but not its birth time. Where
/// the filesystem stores no birth times, the time at which the execution was requested, from its record, is
/// used instead.
///
/// # Errors
/// `NotFound` when that record is needed and is missing: the build was moved or removed.
fn tag(inode: u64, birth: Option<SystemTime>, path: &Path) -> io::Result<String> {
    let birth = birth.and_then(|birth| birth.duration_since(UNIX_EPOCH).ok());
    if let Some(birth) = birth {
        return Ok(format!("{inode:x}-{:x}", birth.as_nanos()));
    }
    let record = record::read(path.parent().unwrap_or(path))?;
    let view = record.ok_or(io::ErrorKind::NotFound)?.view;
    let birth = view.queued_at.unwrap_or(view.started_at).as_nanosecond();
    Ok(format!("{inode:x}-{birth:x}"))
}

impl LogFollower {
    /// Opens the log at `path` for reading from byte `from` on, with permits of `limiter`. Without
    /// `progress`, the log ends at its current length. Blocks.
    ///
    /// # Errors
    /// When the file cannot be opened; where the filesystem stores no birth times, also when the build's
    /// record beside it cannot be read.
    pub fn open(
        path: &Path,
        from: u64,
        progress: Option<LogProgress>,
        limiter: ClientReadLimiter,
    ) -> io::Result<LogFollower> {
        let mut file = File::open(path).map_err(at(path))?;
        // For callers that take the file itself.
        file.seek(SeekFrom::Start(from))?;
        let metadata = file.metadata()?;
        Ok(LogFollower {
            tag: tag(metadata.ino(), metadata.created().ok(), path)?,
            file: Arc::new(file),
            path: path.to_owned(),
            at: from,
            length: metadata.len(),
            progress,
            limiter,
        })
    }

    /// Continues at byte `from`.
    #[must_use]
    pub fn skip_to(mut self, from: u64) -> LogFollower {
        self.at = from;
        self
    }

    /// The log's tag: the log of another execution of the same job has another tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Bytes in the log when it was opened.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// When the log was written, as it was when it was opened; empty where that is not known. `None` if the
    /// build was moved meanwhile. Blocks.
    ///
    /// # Errors
    /// When the times cannot be read.
    pub fn times(&self) -> io::Result<Option<Vec<LineTime>>> {
        let mut times = line_times::read(self.path.parent().unwrap_or(&self.path))?;
        times.retain(|time| time.offset < self.length);
        let is_there = !times.is_empty() || self.path.symlink_metadata().is_ok();
        Ok(is_there.then_some(times))
    }

    /// The file itself, at the byte from which it was opened, if the log no longer grows.
    ///
    /// # Errors
    /// Returns the follower if the log still grows; or an error of the system.
    pub fn into_whole(self) -> Result<io::Result<File>, LogFollower> {
        match self.progress {
            Some(_) => Err(self),
            None => Ok(owned(self.file)),
        }
    }

    /// The file, and the current length of the log.
    ///
    /// # Errors
    /// When the system cannot duplicate the descriptor.
    pub fn into_now(self) -> io::Result<(File, u64)> {
        let length = self.length;
        Ok((owned(self.file)?, length))
    }

    /// The next bytes, `most` of them at most; `None` at the end of a finished log. Cancel-safe: nothing is
    /// lost when the future is dropped.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn next(&mut self, most: usize) -> io::Result<Option<Bytes>> {
        match self.grown().await {
            0 => Ok(None),
            _ => self.read(most).await,
        }
    }

    /// Waits until there are bytes to read, and returns their number; 0 at the end of a finished log. Nothing
    /// is lost when the future is dropped.
    pub async fn grown(&mut self) -> u64 {
        loop {
            let written = match &mut self.progress {
                Some(LogProgress(progress)) => *progress.borrow_and_update(),
                None => Written {
                    bytes: self.length,
                    over: true,
                },
            };
            if self.at < written.bytes {
                return written.bytes - self.at;
            }
            if written.over {
                return 0;
            }
            if let Some(LogProgress(progress)) = &mut self.progress
                && progress.changed().await.is_err()
            {
                // The writer is gone; check once more for what it wrote last.
                let bytes = progress.borrow().bytes;
                self.length = bytes;
                self.progress = None;
            }
        }
    }

    /// Reads available bytes of the log, `most` at most; `None` when there are none. Nothing is lost when the
    /// future is dropped.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn read(&mut self, most: usize) -> io::Result<Option<Bytes>> {
        let written = match &self.progress {
            Some(LogProgress(progress)) => progress.borrow().bytes,
            None => self.length,
        };
        let left = usize::try_from(written.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let (file, at) = (self.file.clone(), self.at);
        let reading = self.limiter.run(move |_permit| {
            let mut chunk = vec![0; left.min(most)];
            let count = loop {
                match file.read_at(&mut chunk, at) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => break read?,
                }
            };
            chunk.truncate(count);
            Ok::<_, io::Error>(chunk)
        });
        let chunk = reading.await??;
        self.at += chunk.len() as u64;
        // None are there if the file was truncated: do not wait for more.
        Ok((!chunk.is_empty()).then(|| chunk.into()))
    }
}

/// A file with one owner. A read that was dropped may still hold it.
fn owned(file: Arc<File>) -> io::Result<File> {
    Arc::try_unwrap(file).or_else(|file| file.try_clone())
}

/// The end of the log in a build's directory.
pub(super) fn tail(directory: &Path) -> io::Result<String> {
    let Some(mut file) = record::open_regular(&directory.join(layout::LOG))? else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let length = file.metadata()?.len();
    let from = length.saturating_sub(LOG_TAIL as u64);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL as u64).read_to_end(&mut bytes)?;
    Ok(text_of(&bytes, from > 0))
}

/// Text of the end of a log: a character that the cut split is left out.
pub fn text_of(bytes: &[u8], cut: bool) -> String {
    let is_continuation = |byte: &&u8| **byte & 0b1100_0000 == 0b1000_0000;
    let skipped = if cut {
        bytes.iter().take(3).take_while(is_continuation).count()
    } else {
        0
    };
    String::from_utf8_lossy(&bytes[skipped..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::layout;
    use super::super::replace::Durability;
    use super::*;
    use crate::budget::Client;
    use crate::read_limiter::{READS, ReadLimiter};

    fn open(path: &Path, from: u64, progress: Option<LogProgress>) -> LogFollower {
        let limiter = ReadLimiter::new(READS).for_client(Client::Local);
        LogFollower::open(path, from, progress, limiter).unwrap()
    }

    async fn all(follower: &mut LogFollower) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(chunk) = follower.next(64 << 10).await.unwrap() {
            bytes.extend_from_slice(&chunk);
        }
        bytes
    }

    #[tokio::test]
    async fn each_follower_gets_every_byte_from_its_offset_at_any_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(layout::LOG);
        let mut log = BuildLog::open(dir.path()).unwrap();
        log.append(b"one\n").await.unwrap();
        let mut early = open(&path, 0, Some(log.progress()));
        assert_eq!(early.next(100).await.unwrap().unwrap(), "one\n");
        let waiting = tokio::spawn(async move { all(&mut early).await });
        log.append(b"\xff two").await.unwrap();
        let mut late = open(&path, 2, Some(log.progress()));
        drop(log);
        assert_eq!(waiting.await.unwrap(), b"\xff two");
        assert_eq!(all(&mut late).await, b"e\n\xff two");
        let mut after = open(&path, 100, None);
        assert_eq!(all(&mut after).await, b"");
    }

    /// When a build is cancelled or the daemon ends, a step of the build is dropped together with the write
    /// that it waits for.
    #[tokio::test]
    async fn written_bytes_are_followed_to_their_end_though_the_writer_stops_waiting() {
        use futures_util::FutureExt;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(layout::LOG);
        for trial in 0..50 {
            let _ = std::fs::remove_file(&path);
            let mut log = BuildLog::open(dir.path()).unwrap();
            let mut follower = open(&path, 0, Some(log.progress()));
            let first = vec![b'1'; 200_000];
            // Dropped after the first poll; on a fast machine the write may be done by then.
            let _ = log.append(&first).now_or_never();
            assert_eq!(log.bytes(), 200_000);
            let mut expected = first;
            if trial % 2 == 0 {
                log.append(b"2\n").await.unwrap();
                assert_eq!(log.bytes(), 200_002);
                expected.extend(b"2\n");
            }
            drop(log);
            let followed = all(&mut follower).await;
            assert!(followed == expected, "{} bytes", followed.len());
        }
    }

    #[tokio::test]
    async fn the_bytes_that_a_failed_write_has_written_count() {
        let dir = tempfile::tempdir().unwrap();
        // A device that is always full.
        std::os::unix::fs::symlink("/dev/full", dir.path().join(layout::LOG)).unwrap();
        let mut log = BuildLog::open(dir.path()).unwrap();
        log.append(b"never").await.unwrap_err();
        assert_eq!(log.bytes(), 0);
    }

    #[tokio::test]
    async fn a_log_keeps_its_tag_and_its_replacement_has_another() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("log"), dir.path().join("moved"));
        let tag = |path| open(path, 0, None).tag;
        std::fs::write(&path, "one").unwrap();
        let first = tag(&path);
        std::fs::rename(&path, &moved).unwrap();
        let file = std::fs::OpenOptions::new().append(true).open(&moved);
        std::io::Write::write_all(&mut file.unwrap(), b" two").unwrap();
        assert_eq!(tag(&moved), first);
        std::fs::remove_file(&moved).unwrap();
        std::fs::write(&path, "one two").unwrap();
        assert_ne!(tag(&path), first);
    }

    /// Some filesystems, such as ramfs and older XFS, store no birth time.
    #[tokio::test]
    async fn without_a_birth_time_the_tag_of_a_log_names_the_execution() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.log");
        let tag_of = || tag(7, None, &path);
        let mut record: record::RecordFile = record::RecordFile::default();
        record.view.queued_at =
            Some(Timestamp::from_nanosecond(1_700_000_000_000_000_001).unwrap());
        record::write(dir.path(), &record, Durability::Whole).unwrap();
        let first = tag_of().unwrap();
        // A container retry continues the same log.
        record.view.attempt = 2;
        record.view.started_at = Timestamp::now();
        record::write(dir.path(), &record, Durability::Whole).unwrap();
        assert_eq!(tag_of().unwrap(), first);
        // The job was requested again, and its log reuses the inode of the previous one.
        record.view.queued_at =
            Some(Timestamp::from_nanosecond(1_700_000_000_000_000_002).unwrap());
        record::write(dir.path(), &record, Durability::Whole).unwrap();
        assert_ne!(tag_of().unwrap(), first);
        // The build was moved meanwhile: the caller must look up its log again.
        std::fs::remove_file(dir.path().join(layout::RECORD)).unwrap();
        let moved = tag_of().unwrap_err();
        assert_eq!(moved.kind(), io::ErrorKind::NotFound);
    }
}

//! A log that came as a file descriptor.
//!
//! Of a build that is over it is a regular file; of one that is not, a pipe that ends with the log,
//! or with the daemon.

use std::io::SeekFrom;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::FileType;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt};
use tokio::net::unix::pipe;
use tokio::time::{Instant, timeout};

use crate::build::LOG_TAIL;
use crate::client::{Error, Event};

/// Read at once: what a pipe holds.
const PIECE: usize = 64 << 10;
/// A line of a log that is longer is told in pieces, as over HTTP.
const MAX_LINE: usize = 64 << 10;
/// Bytes of a letter, at most.
const LETTER: usize = 4;
/// How long, in all, a pipe is waited for that shall be read as far as it is by now: the bus tells no
/// length. What is on disk is in the pipe within milliseconds; what is printed meanwhile is read, too.
pub(super) const QUIET: Duration = Duration::from_millis(500);

/// The log, read from its beginning.
#[derive(Debug)]
pub(super) enum Log {
    /// All of it.
    Whole(File),
    /// It grows.
    Growing(pipe::Receiver),
}

fn broken(error: std::io::Error) -> Error {
    Error::Broken(error.into())
}

impl Log {
    pub(super) fn of(fd: OwnedFd) -> Result<Log, Error> {
        let found = rustix::fs::fstat(&fd).map_err(|error| broken(error.into()))?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => Ok(Log::Whole(File::from_std(fd.into()))),
            FileType::Fifo => pipe::Receiver::from_owned_fd(fd)
                .map(Log::Growing)
                .map_err(broken),
            _ => Err(Error::Nonsense("a log that is no file".to_owned())),
        }
    }

    /// The next piece; `None` at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        match self {
            Log::Whole(file) => piece(file).await,
            Log::Growing(pipe) => piece(pipe).await,
        }
    }

    /// The next piece of what there is by now, for which it may be waited so long; that becomes less.
    pub(super) async fn chunk_so_far(
        &mut self,
        patience: &mut Duration,
    ) -> Result<Option<Bytes>, Error> {
        match self {
            Log::Whole(file) => piece(file).await,
            Log::Growing(pipe) => {
                let since = Instant::now();
                let chunk = timeout(*patience, piece(pipe)).await;
                *patience = patience.saturating_sub(since.elapsed());
                chunk.unwrap_or(Ok(None))
            }
        }
    }

    /// Leaves out the first bytes.
    pub(super) async fn skip(&mut self, bytes: u64) -> Result<(), Error> {
        match self {
            Log::Whole(file) => file
                .seek(SeekFrom::Start(bytes))
                .await
                .map(drop)
                .map_err(broken),
            Log::Growing(pipe) => {
                let mut known = pipe.take(bytes);
                tokio::io::copy(&mut known, &mut tokio::io::sink())
                    .await
                    .map(drop)
                    .map_err(broken)
            }
        }
    }

    /// What it ends with, read to its end.
    pub(super) async fn tail(mut self) -> Result<String, Error> {
        if let Log::Whole(file) = &mut self {
            let length = file.metadata().await.map_err(broken)?.len();
            let room = u64::try_from(LOG_TAIL).unwrap_or(u64::MAX);
            self.skip(length.saturating_sub(room)).await?;
        }
        let mut tail = Tail::default();
        while let Some(chunk) = self.chunk().await? {
            tail.push(&chunk);
        }
        Ok(tail.text())
    }
}

async fn piece(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<Bytes>, Error> {
    let mut piece = bytes::BytesMut::with_capacity(PIECE);
    let count = from.read_buf(&mut piece).await.map_err(broken)?;
    Ok((count > 0).then(|| piece.freeze()))
}

/// The last bytes of what passes.
#[derive(Debug, Default)]
pub(super) struct Tail(Vec<u8>);

impl Tail {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        // Not for each piece: what is moved is as much as was read. The letter before it stays, too,
        // so that one sees where the first begins.
        if self.0.len() > 2 * LOG_TAIL {
            self.0.drain(..self.0.len() - LOG_TAIL - LETTER);
        }
    }

    /// As text, from the beginning of a letter on.
    pub(super) fn text(&self) -> String {
        let from = self.0.len().saturating_sub(LOG_TAIL);
        let is_inside = |at: &usize| self.0.get(*at).is_some_and(|byte| byte & 0xc0 == 0x80);
        let from = match from {
            0 => 0,
            // What is no letter is replaced anyway.
            from => (from..from + LETTER)
                .find(|at| !is_inside(at))
                .unwrap_or(from),
        };
        String::from_utf8_lossy(&self.0[from..]).into_owned()
    }
}

/// Cuts a log into lines, one event each; the id is the byte offset of what comes next. As the server
/// does it for HTTP, so that whoever shows lines need not know which way they came.
#[derive(Debug)]
pub(super) struct Lines {
    begun: Vec<u8>,
    offset: u64,
}

impl Lines {
    /// Begins at byte `offset` of the log.
    pub(super) fn new(offset: u64) -> Lines {
        Lines {
            begun: Vec::new(),
            offset,
        }
    }

    /// The events of all lines that `chunk` completes.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for line in chunk.split_inclusive(|byte| *byte == b'\n') {
            match line.strip_suffix(b"\n") {
                Some(whole) => {
                    self.begin(whole, &mut events);
                    events.push(self.end(1));
                }
                None => self.begin(line, &mut events),
            }
        }
        events
    }

    /// The byte of the log that comes next.
    pub(super) fn position(&self) -> u64 {
        self.offset + self.begun.len() as u64
    }

    /// The event of a last line that has no end.
    pub(super) fn finish(&mut self) -> Option<Event> {
        (!self.begun.is_empty()).then(|| self.end(0))
    }

    fn begin(&mut self, mut bytes: &[u8], events: &mut Vec<Event>) {
        while self.begun.len() + bytes.len() > MAX_LINE {
            let (fits, rest) = bytes.split_at(MAX_LINE - self.begun.len());
            self.begun.extend_from_slice(fits);
            events.push(self.end(0));
            bytes = rest;
        }
        self.begun.extend_from_slice(bytes);
    }

    fn end(&mut self, newline: u64) -> Event {
        self.offset += self.begun.len() as u64 + newline;
        // A carriage return ends a line of an event stream; that of a line end in the Windows way
        // means nothing.
        let line = self.begun.strip_suffix(b"\r").unwrap_or(&self.begun);
        let data = String::from_utf8_lossy(line).replace('\r', "\n");
        self.begun.clear();
        Event {
            name: "log".to_owned(),
            data,
            id: Some(self.offset.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn cut(chunks: &[&[u8]]) -> Vec<(u64, String)> {
        let mut lines = Lines::new(0);
        let mut events: Vec<Event> = chunks.iter().flat_map(|chunk| lines.push(chunk)).collect();
        events.extend(lines.finish());
        let told = events.into_iter();
        told.map(|e| (e.id.unwrap().parse().unwrap(), e.data))
            .collect()
    }

    fn line(id: u64, text: &str) -> (u64, String) {
        (id, text.to_owned())
    }

    #[test]
    fn a_line_is_one_event_wherever_chunks_are_cut() {
        let expected = [line(4, "one"), line(5, ""), line(9, "two!")];
        assert_eq!(cut(&[b"one\n\ntwo!"]), expected);
        assert_eq!(cut(&[b"o", b"ne", b"\n", b"\n", b"two!"]), expected);
    }

    #[test]
    fn what_is_no_text_is_replaced_and_returns_are_as_over_http() {
        assert_eq!(cut(&[b"\xff\n"]), [line(2, "\u{fffd}")]);
        assert_eq!(cut(&[b"1%\r2%\r\n"]), [line(7, "1%\n2%")]);
    }

    #[test]
    fn a_line_without_end_is_told_in_pieces() {
        let long = vec![b'x'; 3 * MAX_LINE + 5];
        let told = cut(&[&long]);
        assert_eq!(told.len(), 4);
        assert_eq!(told[3], line(long.len() as u64, "xxxxx"));
    }

    #[test]
    fn of_what_passes_the_end_is_kept() {
        let mut tail = Tail::default();
        for _ in 0..10 {
            tail.push("ü".repeat(LOG_TAIL / 4).as_bytes());
        }
        tail.push(b"!");
        let text = tail.text();
        assert!(text.len() <= LOG_TAIL && text.len() > LOG_TAIL - 4);
        assert!(text.starts_with('ü') && text.ends_with("ü!"));
        assert!(tail.0.len() <= 2 * LOG_TAIL);
    }

    #[tokio::test]
    async fn a_file_is_read_from_where_it_is_asked_for() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"one\ntwo\n").unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let mut log = Log::of(file.into()).unwrap();
        log.skip(4).await.unwrap();
        assert_eq!(log.chunk().await.unwrap().unwrap(), "two\n");
        assert_eq!(log.chunk().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_pipe_is_followed_to_its_end_or_read_as_far_as_it_is() {
        let (out, into) = std::io::pipe().unwrap();
        let mut into = into;
        into.write_all(b"one\ntwo\n").unwrap();
        let mut log = Log::of(out.into()).unwrap();
        log.skip(4).await.unwrap();
        let mut patience = QUIET;
        let chunk = log.chunk_so_far(&mut patience).await.unwrap();
        assert_eq!(chunk.unwrap(), "two\n");
        assert_eq!(log.chunk_so_far(&mut patience).await.unwrap(), None);
        assert!(patience.is_zero());
        into.write_all(b"three").unwrap();
        drop(into);
        assert_eq!(log.tail().await.unwrap(), "three");
    }

    #[test]
    fn what_is_neither_file_nor_pipe_is_no_log() {
        let directory = std::fs::File::open("/").unwrap();
        assert!(matches!(Log::of(directory.into()), Err(Error::Nonsense(_))));
    }
}

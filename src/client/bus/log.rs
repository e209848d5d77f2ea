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

use crate::api::{LogPiece, LogPieces};
use crate::build::LOG_TAIL;
use crate::client::{Error, Event};

/// Read at once: what a pipe holds.
const PIECE: usize = 64 << 10;
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

/// The events of the pieces of a log that a chunk completes, as the server makes them for HTTP: so
/// those who show a log need not know which way it came.
pub(super) fn events(pieces: &mut LogPieces, chunk: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    pieces.push(chunk, |piece| events.push(event(piece)));
    events
}

/// The event of a last line that has no end.
pub(super) fn last_event(pieces: &mut LogPieces) -> Option<Event> {
    let mut last = None;
    pieces.finish(|piece| last = Some(event(piece)));
    last
}

fn event(piece: LogPiece<'_>) -> Event {
    Event {
        name: "log".to_owned(),
        data: piece.text().into_owned(),
        id: Some(piece.end.to_string()),
        bytes: Some(piece.bytes.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_events_of_a_log_hold_its_bytes_and_where_they_end() {
        let log = b"one\n\xff\n1%\r2%\r\nlast";
        let mut pieces = LogPieces::new(0);
        let mut told = events(&mut pieces, log);
        told.extend(last_event(&mut pieces));
        let ids: Vec<_> = told.iter().filter_map(|e| e.id.as_deref()).collect();
        assert_eq!(ids, ["4", "6", "13", "17"]);
        let texts: Vec<_> = told.iter().map(|e| e.data.as_str()).collect();
        assert_eq!(texts, ["one", "\u{fffd}", "1%\n2%", "last"]);
        let bytes: Vec<u8> = told.into_iter().flat_map(Event::log_bytes).collect();
        assert_eq!(bytes, log);
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

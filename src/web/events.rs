//! Server-Sent Events.
//!
//! A future sends the events of a stream. The body polls it, so it is dropped when the client disconnects.
//! The future can send the next event when the one before was dropped, which is when the kernel has taken it:
//! a client that reads nothing blocks the future, and costs one event. The memory of a stream is counted from
//! its beginning; an event that is larger waits until other clients release theirs.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::client_budget::ClientBudget;
use super::error;
use super::response::{self, Response};
use crate::api::{LogPiece, LogPieces, MAX_PIECE};
use crate::budget::Held;
use crate::build::LogFollower;
use crate::job::JobId;
use crate::project::ProjectName;

/// Proxies close connections that are silent for 30 to 60 s.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Bytes that are held for a stream from its beginning to its end: an incomplete piece of a log, what was
/// read after it, and one event or some small ones. Five thousand streams that wait for builds fit into the
/// 48 MiB for clients that build.
pub(super) const STREAM_BYTES: u64 = 9 << 10;
/// Bytes of events that are sent at once.
const EVENTS_CHUNK: usize = 1 << 10;
/// Bytes that are read of a log at once.
const READ_CHUNK: usize = 1 << 10;

/// As long as much of the budget is free, logs are read and sent in larger parts, which is much faster.
const WIDE_EVENTS_CHUNK: usize = 32 << 10;
const WIDE_READ_CHUNK: usize = 16 << 10;
/// Bytes that this needs: what is read, and its events, of which each line adds some bytes to any text. A
/// stream that holds them waits for no more.
const WIDE_BYTES: u64 = (64 << 10) + WORST_BYTES;
/// Bytes of the events of a log that is not plain text, at most: 9 for each byte that is read at once or left
/// of the piece before. They are the text, where a carriage return becomes a line of its own, and the same as
/// base64.
const WORST_BYTES: u64 = (MAX_PIECE + READ_CHUNK) as u64 * 9;

/// Sends the events of one stream.
#[derive(Debug)]
pub(super) struct Events {
    to: mpsc::Sender<Sent>,
    /// One permit: it is sent with the bytes, and released when they are dropped.
    permit: Arc<Semaphore>,
    budget: ClientBudget,
}

/// The client has disconnected.
#[derive(Debug)]
pub(super) struct ClientGone;

/// The bytes of one event.
struct Sent {
    bytes: Bytes,
    end: EventEnd,
}

/// Where an event ends that may be sent in parts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum EventEnd {
    /// With this part.
    Here,
    /// With a later part: nothing else may be sent before that.
    Later,
}

/// Bytes that were sent, and the permit and budget released when they are dropped.
struct Out {
    bytes: Bytes,
    _permit: OwnedSemaphorePermit,
    /// Their budget in addition to that of the stream.
    _held: Option<Arc<Held>>,
}

impl AsRef<[u8]> for Out {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Events {
    /// Sends one event whose data is JSON.
    pub(super) async fn json(&self, name: &str, data: &impl Serialize) -> Result<(), ClientGone> {
        let permit = self.permit().await?;
        let data = serde_json::to_string(data).map_err(|_| ClientGone)?;
        let event = format!("event: {name}\ndata: {data}\n\n");
        self.counted(permit, event).await
    }

    /// The same with an id, which a client that connects again sends as `Last-Event-ID`.
    pub(super) async fn json_with_id(
        &self,
        name: &str,
        id: &str,
        data: &impl Serialize,
    ) -> Result<(), ClientGone> {
        let permit = self.permit().await?;
        let data = serde_json::to_string(data).map_err(|_| ClientGone)?;
        let event = format!("event: {name}\nid: {id}\ndata: {data}\n\n");
        self.counted(permit, event).await
    }

    /// Sends one event whose data is the JSON in `parts`, which are counted where they come from.
    pub(super) async fn parts(&self, name: &str, parts: Vec<Bytes>) -> Result<(), ClientGone> {
        let head = Bytes::from(format!("event: {name}\ndata: "));
        let tail = Bytes::from_static(b"\n\n");
        for part in [head].into_iter().chain(parts) {
            let permit = self.permit().await?;
            self.send_part(permit, part, None, EventEnd::Later).await?;
        }
        let permit = self.permit().await?;
        self.send(permit, tail, None).await
    }

    /// Sends an event that may be larger than the stream's budget.
    async fn counted(&self, permit: OwnedSemaphorePermit, event: String) -> Result<(), ClientGone> {
        let held = match (event.len() as u64).saturating_sub(STREAM_BYTES) {
            0 => None,
            more => Some(Arc::new(
                self.budget.wait(more).await.map_err(|_| ClientGone)?,
            )),
        };
        self.send(permit, event.into(), held).await
    }

    /// Waits until the previous event is dropped.
    async fn permit(&self) -> Result<OwnedSemaphorePermit, ClientGone> {
        self.permit
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| ClientGone)
    }

    async fn send(
        &self,
        permit: OwnedSemaphorePermit,
        bytes: Bytes,
        held: Option<Arc<Held>>,
    ) -> Result<(), ClientGone> {
        self.send_part(permit, bytes, held, EventEnd::Here).await
    }

    async fn send_part(
        &self,
        permit: OwnedSemaphorePermit,
        bytes: Bytes,
        held: Option<Arc<Held>>,
        end: EventEnd,
    ) -> Result<(), ClientGone> {
        if bytes.is_empty() {
            return Ok(());
        }
        let out = Out {
            bytes,
            _permit: permit,
            _held: held,
        };
        let sent = Sent {
            bytes: Bytes::from_owner(out),
            end,
        };
        self.to.send(sent).await.map_err(|_| ClientGone)
    }
}

/// A stream of events that is being sent.
struct Streaming {
    events: mpsc::Receiver<Sent>,
    /// The previous event continues.
    is_within: bool,
    /// `None` when it has ended; its last events may still be in the channel.
    work: Option<Pin<Box<Work>>>,
    _held: Held,
}

impl Streaming {
    /// The next bytes for the client; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let working = async {
                match &mut self.work {
                    Some(work) => drop(work.await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                event = self.events.recv() => {
                    let event = event?;
                    self.is_within = event.end == EventEnd::Later;
                    return Some(event.bytes);
                }
                () = working => self.work = None,
                () = tokio::time::sleep(KEEP_ALIVE_INTERVAL), if !self.is_within => {
                    return Some(Bytes::from_static(b":\n\n"));
                }
            }
        }
    }
}

/// The future sending events.
type Work = dyn Future<Output = Result<(), ClientGone>> + Send;

/// The response with the events that `work` sends until it ends. `held` counts [`STREAM_BYTES`].
pub(super) fn stream<F>(
    budget: &ClientBudget,
    held: Held,
    work: impl FnOnce(Events) -> F,
) -> Response
where
    F: Future<Output = Result<(), ClientGone>> + Send + 'static,
{
    // There is only one permit, so there is never more than one event.
    let (to, events) = mpsc::channel(1);
    let sending = Events {
        to,
        permit: Arc::new(Semaphore::new(1)),
        budget: budget.clone(),
    };
    let streaming = Streaming {
        events,
        is_within: false,
        work: Some(Box::pin(work(sending))),
        _held: held,
    };
    let bytes = stream::unfold(streaming, |mut streaming| async move {
        let bytes = streaming.next().await?;
        Some((io::Result::Ok(bytes), streaming))
    });
    let mut response = response::typed(
        StatusCode::OK,
        "text/event-stream; charset=utf-8",
        response::streamed(bytes),
    );
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Cuts a log into pieces, one event each; the id is the byte offset of what comes next.
#[derive(Debug)]
pub(super) struct Lines {
    pieces: LogPieces,
    project: ProjectName,
    id: JobId,
}

/// What became of the new part of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinesSent {
    /// Its complete pieces are sent.
    Part,
    /// There is nothing to read after all: the log was truncated.
    Nothing,
    /// The disk failed, which is in the journal.
    Unreadable,
}

impl Lines {
    /// Begins at byte `offset` of the log of a build.
    pub(super) fn new(project: &ProjectName, id: JobId, offset: u64) -> Lines {
        Lines {
            pieces: LogPieces::new(offset),
            project: project.clone(),
            id,
        }
    }

    /// Reads the new part of `log`, and sends the events of all complete pieces.
    pub(super) async fn send(
        &mut self,
        log: &mut LogFollower,
        events: &Events,
    ) -> Result<LinesSent, ClientGone> {
        let wide = events.budget.hold_where_plenty(WIDE_BYTES).map(Arc::new);
        let (read, at_once) = match wide {
            Some(_) => (WIDE_READ_CHUNK, WIDE_EVENTS_CHUNK),
            None => (READ_CHUNK, EVENTS_CHUNK),
        };
        let chunk = match log.read(read).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Ok(LinesSent::Nothing),
            Err(error) => {
                error::log_unsent("a log", &self.project, self.id, &error);
                return Ok(LinesSent::Unreadable);
            }
        };
        let mut batch = Batch::default();
        // In small parts, so that their events are small where they are not plain text.
        for part in chunk.chunks(READ_CHUNK) {
            let worst = match wide.is_some() || is_plain(part) {
                true => None,
                false => {
                    batch.flush(events, None).await?;
                    let held = events
                        .budget
                        .wait(WORST_BYTES)
                        .await
                        .map_err(|_| ClientGone)?;
                    Some(Arc::new(held))
                }
            };
            let held = worst.as_ref().or(wide.as_ref());
            for line in part.split_inclusive(|byte| *byte == b'\n') {
                batch.begin(events).await?;
                self.pieces
                    .push(line, |piece| write_event(piece, &mut batch.made));
                if batch.made.len() >= at_once {
                    batch.flush(events, held.cloned()).await?;
                }
            }
            if worst.is_some() {
                batch.flush(events, worst).await?;
            }
        }
        batch.flush(events, wide).await?;
        Ok(LinesSent::Part)
    }

    /// Sends the event of a last line that has no end.
    pub(super) async fn finish(mut self, events: &Events) -> Result<(), ClientGone> {
        let permit = events.permit().await?;
        let mut made = Vec::new();
        self.pieces.finish(|piece| write_event(piece, &mut made));
        events.send(permit, made.into(), None).await
    }
}

/// Events that are sent at once.
#[derive(Default)]
struct Batch {
    made: Vec<u8>,
    /// Acquired before the first of them is made.
    permit: Option<OwnedSemaphorePermit>,
}

impl Batch {
    async fn begin(&mut self, events: &Events) -> Result<(), ClientGone> {
        if self.permit.is_none() {
            self.permit = Some(events.permit().await?);
        }
        Ok(())
    }

    async fn flush(&mut self, events: &Events, held: Option<Arc<Held>>) -> Result<(), ClientGone> {
        let made = std::mem::take(&mut self.made);
        match self.permit.take() {
            Some(permit) => events.send(permit, made.into(), held).await,
            None => Ok(()),
        }
    }
}

/// True for text that an event contains unchanged, except for characters that are cut at its ends.
fn is_plain(bytes: &[u8]) -> bool {
    let is_inside = |byte: &u8| (0x80..0xc0).contains(byte);
    let cut = bytes.iter().take(3).take_while(|byte| is_inside(byte));
    let bytes = &bytes[cut.count()..];
    !bytes.contains(&b'\r')
        && match std::str::from_utf8(bytes) {
            Ok(_) => true,
            Err(error) => error.error_len().is_none(),
        }
}

fn write_event(piece: LogPiece<'_>, events: &mut Vec<u8>) {
    events.extend_from_slice(b"event: log\nid: ");
    events.extend_from_slice(piece.end.to_string().as_bytes());
    // A line feed in the text would end the field, so each line of it is a data line, and the client joins
    // them again.
    for part in piece.text().split('\n') {
        events.extend_from_slice(b"\ndata: ");
        events.extend_from_slice(part.as_bytes());
    }
    if let Some(encoded) = piece.encoded() {
        events.extend_from_slice(b"\nbytes: ");
        events.extend_from_slice(encoded.as_bytes());
    }
    events.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(chunks: &[&[u8]]) -> String {
        let mut pieces = LogPieces::new(0);
        let mut events = Vec::new();
        for chunk in chunks {
            pieces.push(chunk, |piece| write_event(piece, &mut events));
        }
        pieces.finish(|piece| write_event(piece, &mut events));
        String::from_utf8(events).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_is_read_slowly_is_not_interrupted() {
        use http_body_util::BodyExt;

        use crate::budget::{Budget, Client};

        let share = ClientBudget::new(Budget::new(1 << 20, 0), Client::Proxy);
        let held = share.hold(STREAM_BYTES).unwrap();
        let answer = stream(&share, held, |events| async move {
            let parts = [&b"[1,"[..], b"2]"].map(Bytes::from_static);
            events.parts("result", parts.to_vec()).await?;
            // The stream sends nothing more.
            std::future::pending().await
        });
        let mut body = answer.into_body();
        let mut received = Vec::new();
        while !received.ends_with(b"\n\n:\n\n") {
            let part = body.frame().await.unwrap().unwrap().into_data().unwrap();
            // The client has not taken it yet; the server looks for what comes next.
            let next = tokio::time::timeout(2 * KEEP_ALIVE_INTERVAL, body.frame()).await;
            assert!(next.is_err() || received.ends_with(b"]"), "{next:?}");
            received.extend_from_slice(&part);
            if let Ok(Some(Ok(next))) = next {
                received.extend_from_slice(&next.into_data().unwrap());
            }
        }
        assert_eq!(received, b"event: result\ndata: [1,2]\n\n:\n\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_does_not_wait_for_budget_that_it_holds_itself() {
        use http_body_util::BodyExt;

        use crate::budget::{Budget, Client};
        use crate::read_limiter::{self, ReadLimiter};

        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("log");
        let printed = [
            b"plain\n".repeat(READ_CHUNK),
            b"\xff\r\n".repeat(READ_CHUNK),
        ]
        .concat();
        std::fs::write(&path, &printed).unwrap();
        let limiter = ReadLimiter::new(read_limiter::READS).for_client(Client::Proxy);
        let mut log = LogFollower::open(&path, 0, None, limiter).unwrap();
        let budget = Budget::new(256 << 10, 0);
        let share = ClientBudget::new(budget.clone(), Client::Proxy);
        let held = share.hold(STREAM_BYTES).unwrap();
        let answer = stream(&share, held, |events| async move {
            let mut lines = Lines::new(&"p".parse().unwrap(), JobId::FIRST, 0);
            while lines.send(&mut log, &events).await? == LinesSent::Part {}
            lines.finish(&events).await
        });
        let mut body = answer.into_body();
        let mut received = body.frame().await.unwrap().unwrap().into_data().unwrap();
        // Other clients hold all that is left while the client reads.
        let _others = share.hold(budget.limit() - budget.held()).unwrap();
        let mut last = Bytes::new();
        while !received.is_empty() {
            last = Bytes::copy_from_slice(&received);
            drop(std::mem::take(&mut received));
            if let Some(part) = body.frame().await {
                received = part.unwrap().into_data().unwrap();
            }
        }
        let last = String::from_utf8_lossy(&last).into_owned();
        let end = format!("\nid: {}\n", printed.len());
        assert!(last.contains(&end), "{}", last.len());
    }

    #[test]
    fn a_line_is_one_event_wherever_chunks_are_cut() {
        let expected = "event: log\nid: 4\ndata: one\n\nevent: log\nid: 5\ndata: \n\n\
            event: log\nid: 9\ndata: two!\nbytes: dHdvIQ==\n\n";
        assert_eq!(framed(&[b"one\n\ntwo!"]), expected);
        assert_eq!(framed(&[b"o", b"ne", b"\n", b"\n", b"two!"]), expected);
    }

    #[test]
    fn a_line_that_is_not_text_is_replaced_and_has_a_bytes_field() {
        assert_eq!(
            framed(&[b"\xff\n"]),
            "event: log\nid: 2\ndata: \u{fffd}\nbytes: /wo=\n\n"
        );
        assert_eq!(
            framed(&[b"1%\r2%\r\n"]),
            "event: log\nid: 7\ndata: 1%\ndata: 2%\nbytes: MSUNMiUNCg==\n\n"
        );
        assert!(!framed(&[b"data: x\revent: end\n"]).contains("\nevent: end"));
    }

    #[test]
    fn a_line_without_end_is_sent_in_pieces() {
        let long = vec![b'x'; 3 * MAX_PIECE + 5];
        let events = framed(&[&long]);
        assert_eq!(events.matches("event: log").count(), 4);
        assert!(events.contains(&format!("id: {}\n", long.len())));
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_read_is_neither_at_its_end_nor_empty() {
        use http_body_util::BodyExt;

        use crate::budget::{Budget, Client};
        use crate::read_limiter::{self, ReadLimiter};

        // Reading a directory fails, as reading a file does on a disk that fails.
        let directory = tempfile::tempdir().unwrap();
        let limiter = ReadLimiter::new(read_limiter::READS).for_client(Client::Proxy);
        let mut log = LogFollower::open(directory.path(), 0, None, limiter).unwrap();
        let share = ClientBudget::new(Budget::new(256 << 10, 0), Client::Proxy);
        let held = share.hold(STREAM_BYTES).unwrap();
        let (sent, is_sent) = tokio::sync::oneshot::channel();
        let answer = stream(&share, held, |events| async move {
            let mut lines = Lines::new(&"p".parse().unwrap(), JobId::FIRST, 0);
            let _ = sent.send(lines.send(&mut log, &events).await?);
            Ok(())
        });
        drop(answer.into_body().frame().await);
        assert_eq!(is_sent.await.unwrap(), LinesSent::Unreadable);
    }
}

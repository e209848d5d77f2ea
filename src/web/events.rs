//! Server-Sent Events: framing of lines, keeping alive, giving up.
//!
//! A stream is made by a future that sends events into a small channel; the body polls both, so
//! a client that goes away takes the future with it, and one that does not read holds it back
//! instead of filling memory.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::sync::mpsc;

use super::answer::{self, Body};
use crate::api::{LogPiece, LogPieces};

/// Events on their way to one client.
const IN_FLIGHT: usize = 32;
/// Proxies cut connections that are silent for 30 to 60 s.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Where the events of one stream go.
#[derive(Debug)]
pub(super) struct Events(mpsc::Sender<Bytes>);

/// Nobody reads any more.
#[derive(Debug)]
pub(super) struct Gone;

impl Events {
    /// Sends one event whose data is JSON.
    pub(super) async fn json(&self, name: &str, data: &impl Serialize) -> Result<(), Gone> {
        let data = serde_json::to_string(data).map_err(|_| Gone)?;
        self.send(format!("event: {name}\ndata: {data}\n\n").into())
            .await
    }

    /// The same with the id that a client comes back with.
    pub(super) async fn told(
        &self,
        name: &str,
        id: &str,
        data: &impl Serialize,
    ) -> Result<(), Gone> {
        let data = serde_json::to_string(data).map_err(|_| Gone)?;
        self.send(format!("event: {name}\nid: {id}\ndata: {data}\n\n").into())
            .await
    }

    /// Sends lines of a log.
    pub(super) async fn lines(&self, lines: Bytes) -> Result<(), Gone> {
        if lines.is_empty() {
            return Ok(());
        }
        self.send(lines).await
    }

    async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        self.0.send(bytes).await.map_err(|_| Gone)
    }
}

/// What sends the events.
type Work = dyn Future<Output = Result<(), Gone>> + Send;

/// Answers with the events that `work` sends until it ends.
pub(super) fn stream<F>(work: impl FnOnce(Events) -> F) -> Response<Body>
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    struct Streaming {
        events: mpsc::Receiver<Bytes>,
        /// `None` when it is done; the channel may hold its last events still.
        work: Option<Pin<Box<Work>>>,
    }
    let (to, events) = mpsc::channel(IN_FLIGHT);
    let streaming = Streaming {
        events,
        work: Some(Box::pin(work(Events(to)))),
    };
    let bytes = stream::unfold(streaming, |mut streaming| async move {
        loop {
            let working = async {
                match &mut streaming.work {
                    Some(work) => drop(work.await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                event = streaming.events.recv() => {
                    return event.map(|event| (io::Result::Ok(event), streaming));
                }
                () = working => streaming.work = None,
                () = tokio::time::sleep(KEEP_ALIVE) => {
                    return Some((Ok(Bytes::from_static(b":\n\n")), streaming));
                }
            }
        }
    });
    let mut response = answer::typed(
        StatusCode::OK,
        "text/event-stream; charset=utf-8",
        answer::streamed(bytes),
    );
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Cuts a log into pieces, one event each; the id is the byte offset of what comes next.
#[derive(Debug)]
pub(super) struct Lines(LogPieces);

impl Lines {
    /// Begins at byte `offset` of the log.
    pub(super) fn new(offset: u64) -> Lines {
        Lines(LogPieces::new(offset))
    }

    /// The events of all pieces that `chunk` completes.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Bytes {
        let mut events = BytesMut::new();
        self.0.push(chunk, |piece| write_event(piece, &mut events));
        events.freeze()
    }

    /// The event of a last line that has no end.
    pub(super) fn finish(mut self) -> Bytes {
        let mut events = BytesMut::new();
        self.0.finish(|piece| write_event(piece, &mut events));
        events.freeze()
    }
}

fn write_event(piece: LogPiece<'_>, events: &mut BytesMut) {
    events.extend_from_slice(b"event: log\nid: ");
    events.extend_from_slice(piece.end.to_string().as_bytes());
    // A line feed in the text would end the field: each of its parts is a data line of its own, which
    // the client joins again.
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
        let mut lines = Lines::new(0);
        let mut events = Vec::new();
        for chunk in chunks {
            events.extend_from_slice(&lines.push(chunk));
        }
        events.extend_from_slice(&lines.finish());
        String::from_utf8(events).unwrap()
    }

    #[test]
    fn a_line_is_one_event_wherever_chunks_are_cut() {
        let expected = "event: log\nid: 4\ndata: one\n\nevent: log\nid: 5\ndata: \n\n\
            event: log\nid: 9\ndata: two!\nbytes: dHdvIQ==\n\n";
        assert_eq!(framed(&[b"one\n\ntwo!"]), expected);
        assert_eq!(framed(&[b"o", b"ne", b"\n", b"\n", b"two!"]), expected);
    }

    #[test]
    fn what_is_no_line_of_text_is_replaced_in_it_and_carries_its_bytes() {
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
        let long = vec![b'x'; (3 << 16) + 5];
        let events = framed(&[&long]);
        assert_eq!(events.matches("event: log").count(), 4);
        assert!(events.contains(&format!("id: {}\n", long.len())));
    }
}

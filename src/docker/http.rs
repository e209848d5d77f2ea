//! Requests to the Engine that the client library cannot send: answers of BuildKit, and credentials in the form that
//! Engines read.

use std::io;

use bytes::Bytes;
use futures_util::stream::MapErr;
use futures_util::{StreamExt, TryStreamExt};
use http_body_util::{BodyDataStream, BodyExt, Collected, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::io::StreamReader;
use tokio_util::task::AbortOnDropHandle;

use super::Cause;
use super::engine::Docker;
use super::error::Error;

/// Bytes of an error's body.
const MAX_ERROR: usize = 64 << 10;

type Data = MapErr<BodyDataStream<Incoming>, fn(hyper::Error) -> io::Error>;

/// An answer of the Engine. Dropping it closes the connection, which cancels what the Engine does for it.
pub(super) struct Answer {
    docker: Docker,
    operation: &'static str,
    lines: FramedRead<StreamReader<Data, Bytes>, LinesCodec>,
    _connection: AbortOnDropHandle<hyper::Result<()>>,
}

#[derive(Deserialize)]
struct Refusal {
    message: String,
}

impl Docker {
    /// Sends a request whose answer is lines of at most so many bytes. The inner error is the Engine's message
    /// about a request that it refuses, if it has one.
    pub(super) async fn send<B>(
        &self,
        operation: &'static str,
        max_line: usize,
        request: hyper::Request<B>,
    ) -> Result<Result<Answer, Option<String>>, Error>
    where
        B: Body<Data = Bytes, Error = io::Error> + Send + Unpin + 'static,
    {
        let lost = |error: Cause| self.unreachable(operation, error);
        let stream = UnixStream::connect(self.socket()).await;
        let stream = stream.map_err(|error| lost(error.into()))?;
        let made = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = made.map_err(|error| lost(error.into()))?;
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(|error| lost(error.into()))?;
        let is_success = answer.status().is_success();
        let body = answer.into_body();
        if !is_success {
            return Ok(Err(refusal(body).await));
        }
        let cause: fn(hyper::Error) -> io::Error = io::Error::other;
        let data = BodyDataStream::new(body).map_err(cause);
        let lines = LinesCodec::new_with_max_length(max_line);
        Ok(Ok(Answer {
            docker: self.clone(),
            operation,
            lines: FramedRead::new(StreamReader::new(data), lines),
            _connection: connection,
        }))
    }
}

impl Answer {
    /// The next line of the body; `None` at its end.
    pub(super) async fn next_line(&mut self) -> Option<Result<String, Error>> {
        let line = self.lines.next().await?;
        let unreadable = |source: Cause| Error::Api {
            operation: self.operation.to_owned(),
            source,
        };
        Some(line.map_err(|error| match error {
            LinesCodecError::MaxLineLengthExceeded => unreadable("a line is too long".into()),
            LinesCodecError::Io(error) => match error.kind() {
                io::ErrorKind::InvalidData => unreadable(error.into()),
                _ => self.docker.unreachable(self.operation, error.into()),
            },
        }))
    }
}

/// The message of an answer with an error status.
async fn refusal(body: Incoming) -> Option<String> {
    let text = Limited::new(body, MAX_ERROR).collect().await;
    let text = text.map_or_else(|_| Bytes::new(), Collected::to_bytes);
    let refusal = serde_json::from_slice::<Refusal>(&text).ok()?;
    Some(refusal.message)
}

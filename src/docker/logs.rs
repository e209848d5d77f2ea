//! The output of a container, read from its first byte to its last without a change.
//!
//! The Engine stores the output until the container is removed, complete, for any number of readers. An
//! answer is not taken as complete before the container is known to have ended.

use std::{collections::VecDeque, pin::pin, time::Duration};

use bollard::{container::LogOutput, errors::Error as Bollard, query_parameters::LogsOptions};
use bytes::Buf as _;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::engine::Docker;
use super::error::Error;
use super::line_ends::LineEnds;
use super::output::{Output, Stream, split_stamp, stamp};
use super::whole_lines::WholeLines;

impl Docker {
    /// The output of a started container from its first byte, until it ends. A container that was never
    /// started has none. The stream ends after its first error.
    ///
    /// A caller that knows that the container has ended cancels `over`: an Engine that then sends nothing
    /// more is not waited for.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`] (also if removed meanwhile), [`Error::Unreachable`] (also if gone
    /// meanwhile), [`Error::Api`].
    pub fn logs(
        &self,
        container: &str,
        over: CancellationToken,
    ) -> impl futures_util::Stream<Item = Result<Output, Error>> + Send + 'static + use<> {
        let reader = LogReader {
            docker: self.clone(),
            container: container.to_owned(),
            over,
            delivered: [0; 2],
            skip: [0; 2],
            follow: true,
            shorter_readings: 0,
            frames: None,
            line_ends: None,
            whole_lines: None,
            ready: VecDeque::new(),
        };
        stream::try_unfold(reader, async |mut reader| {
            let piece = reader.next().await?;
            Ok(piece.map(|piece| (piece, reader)))
        })
    }

    /// When a container printed its last line, by the Engine's clock; `None` when it has printed none.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::Unreachable`], [`Error::Api`].
    pub async fn last_line(&self, container: &str) -> Result<Option<Timestamp>, Error> {
        let options = LogsOptions {
            stdout: true,
            stderr: true,
            timestamps: true,
            tail: "1".to_owned(),
            ..LogsOptions::default()
        };
        let last = self.call(READING_LOGS, async |docker| {
            let mut pieces = pin!(docker.logs(container, Some(options)));
            let mut last = None;
            while let Some(piece) = pieces.next().await {
                // Each piece of a line in several pieces has a time.
                last = stamp(piece?.as_ref()).or(last);
            }
            Ok(last)
        });
        last.await?
            .map_err(|e| self.failed_on(READING_LOGS, container, e))
    }
}

const READING_LOGS: &str = "reading a container's output";

/// How long to wait for the end of a container after the Engine has ended its output, normally some hundred
/// milliseconds; if it still runs, its output is followed again.
const ENDING_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the Engine may send nothing about a container that has ended, whose output is on its disk.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the complete output of an ended container is read again, if a reading is shorter than the first.
const MAX_READINGS: u32 = 3;

/// Follows a container's output to its end, and then reads the part that the Engine has left out.
///
/// Engines before 23 disconnect a follower when the container ends, whether it has got the last entries or
/// not; an unterminated last line is lost more often than not. The stored output is complete, though.
/// Therefore all of it is read once more when the container has ended, without the bytes that were delivered
/// already. Only the end of the container shows that the output is complete: an answer may end normally for
/// other reasons.
struct LogReader {
    docker: Docker,
    container: String,
    /// The container has ended.
    over: CancellationToken,
    /// Bytes delivered, of standard output and standard error.
    delivered: [u64; 2],
    /// Bytes of the second reading that were delivered in the first.
    skip: [u64; 2],
    follow: bool,
    /// Complete readings that were shorter than the first.
    shorter_readings: u32,
    frames: Option<BoxStream<'static, Result<LogOutput, Bollard>>>,
    /// Set if the Engine leaves line ends out.
    line_ends: Option<LineEnds>,
    /// Set if the Engine splits lines.
    whole_lines: Option<WholeLines>,
    /// Read, and not delivered yet.
    ready: VecDeque<Output>,
}

impl LogReader {
    async fn next(&mut self) -> Result<Option<Output>, Error> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                match self.leave_out_known(piece) {
                    Some(piece) => return Ok(Some(piece)),
                    None => continue,
                }
            }
            let is_over = match self.next_frame().await? {
                Some(frame) => {
                    self.take(frame).await?;
                    false
                }
                None => self.end_reading().await?,
            };
            if is_over {
                return Ok(None);
            }
        }
    }

    /// The next frame of the current reading, which is begun if there is none; `None` at its end.
    async fn next_frame(&mut self) -> Result<Option<LogOutput>, Error> {
        let frames = match &mut self.frames {
            Some(frames) => frames,
            closed => {
                let client = self.docker.client(READING_LOGS).await?;
                let are_left_out = self.docker.leaves_line_ends_out();
                let counter = || self.docker.counter(&self.container);
                self.line_ends = are_left_out.then(|| LineEnds::new(counter()));
                let are_split = self.docker.dialect().splits_lines();
                self.whole_lines = are_split.then(WholeLines::default);
                let options = LogsOptions {
                    follow: self.follow,
                    timestamps: true,
                    stdout: true,
                    stderr: true,
                    ..LogsOptions::default()
                };
                let frames = client.logs(&self.container, Some(options));
                closed.insert(frames.fuse().boxed())
            }
        };
        let (over, is_following) = (&self.over, self.follow);
        let stalled = async {
            if is_following {
                over.cancelled().await;
            }
            tokio::time::sleep(STALL_TIMEOUT).await;
        };
        let frame = tokio::select! {
            frame = frames.next() => frame,
            () = stalled => match is_following {
                true => None,
                // The stored output is read once more, and that reading ends.
                false => return Err(incomplete("it does not go on")),
            },
        };
        let failed = |error| self.docker.failed_on(READING_LOGS, &self.container, error);
        frame.transpose().map_err(failed)
    }

    async fn take(&mut self, frame: LogOutput) -> Result<(), Error> {
        let piece = output(READING_LOGS, frame)?;
        match (&mut self.line_ends, &mut self.whole_lines) {
            (Some(line_ends), _) => self.ready.extend(line_ends.pass(piece).await),
            (None, Some(whole_lines)) => self.ready.extend(whole_lines.pass(piece)),
            (None, None) => self.ready.push_back(piece),
        }
        Ok(())
    }

    /// Decides what follows the end of a reading. True when all of the output was read.
    async fn end_reading(&mut self) -> Result<bool, Error> {
        if self.follow {
            let ended = self.docker.wait(&self.container);
            if let Ok(ended) = tokio::time::timeout(ENDING_TIMEOUT, ended).await {
                ended?;
                self.follow = false;
            }
        } else if let Some(mut line_ends) = self.line_ends.take() {
            // Only a completed reading shows how the output ends.
            self.ready.extend(line_ends.finish().await);
            return Ok(false);
        } else if let Some(whole_lines) = self.whole_lines.take() {
            self.ready.extend(whole_lines.finish());
            return Ok(false);
        } else if self.skip != [0; 2] {
            // The output cannot be shorter than it was before.
            self.shorter_readings += 1;
            if self.shorter_readings == MAX_READINGS {
                return Err(incomplete("it leaves out the end of it"));
            }
        } else {
            return Ok(true);
        }
        self.skip = self.delivered;
        self.frames = None;
        Ok(false)
    }

    /// A piece without the part that was delivered already; `None` if nothing is left of it.
    fn leave_out_known(&mut self, mut piece: Output) -> Option<Output> {
        let which = piece.stream as usize;
        let length = piece.bytes.len() as u64;
        // It is at most the length of the piece, which is in memory.
        let known = self.skip[which].min(length);
        self.skip[which] -= known;
        self.delivered[which] += length - known;
        piece.bytes.advance(known as usize);
        (!piece.bytes.is_empty()).then_some(piece)
    }
}

fn incomplete(why: &str) -> Error {
    Error::Api {
        operation: READING_LOGS.to_owned(),
        source: why.into(),
    }
}

fn output(operation: &str, frame: LogOutput) -> Result<Output, Error> {
    let (stream, bytes) = match frame {
        LogOutput::StdOut { message } => (Stream::Stdout, message),
        LogOutput::StdErr { message } => (Stream::Stderr, message),
        // Without a terminal there are only the two streams; other frames are the Engine's own error
        // messages.
        LogOutput::StdIn { message } | LogOutput::Console { message } => {
            return Err(Error::Api {
                operation: operation.to_owned(),
                source: String::from_utf8_lossy(&message).trim().to_owned().into(),
            });
        }
    };
    let (at, bytes) = split_stamp(bytes);
    Ok(Output { stream, bytes, at })
}

//! The output of a container: followed from its first byte to its last, byte for byte.
//!
//! The Engine keeps it until the container is removed, whole, for every reader at any time. What it
//! answers is not believed to be all of it before the container is known to have ended.

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
use super::line_ends::{self, LineEnds};
use super::output::{Output, Stream, stamp};

impl Docker {
    /// The output of a started container from its first byte, until it ends. A container that was never
    /// started has none. The stream is over after its first error.
    ///
    /// A caller that knows that the container has ended cancels `over`: an Engine that then says nothing more
    /// is not waited for.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`] (removed meanwhile, too), [`Error::Unreachable`] (gone meanwhile,
    /// too), [`Error::Api`].
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
            tries: 0,
            frames: None,
            line_ends: None,
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
        let last = self.call(DOING_LOGS, async |docker| {
            let mut pieces = pin!(docker.logs(container, Some(options)));
            let mut last = None;
            while let Some(piece) = pieces.next().await {
                // Of a line in several pieces each has its time.
                last = stamp(piece?.as_ref()).or(last);
            }
            Ok(last)
        });
        last.await?
            .map_err(|e| self.failed_on(DOING_LOGS, container, e))
    }
}

const DOING_LOGS: &str = "reading a container's output";

/// How long an Engine that has ended the output is given to end the container too, which it does
/// within some hundred milliseconds; one that does not is followed again.
const ENDING_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the Engine may say nothing about a container that has ended, whose output is on its disk.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How often all of the output of a container that is over is read, when less comes than before.
const MAX_READINGS: u32 = 3;

/// Follows a container's output to its end, and then reads what the Engine has swallowed.
///
/// Engines before 23 leave a follower when the container ends, whether it has got the last entries
/// or not; an unterminated last line is lost more often than not. What was kept is whole, though.
/// Therefore all of it is read once more when the container is over, without the bytes that were
/// delivered already. Nothing but the end of the container tells that it is: an answer may end in
/// good order for other reasons.
struct LogReader {
    docker: Docker,
    container: String,
    /// The container has ended.
    over: CancellationToken,
    /// Bytes handed out, of standard output and standard error.
    delivered: [u64; 2],
    /// Bytes of the second reading that were handed out in the first.
    skip: [u64; 2],
    follow: bool,
    /// Readings of all of it that were less than the first.
    tries: u32,
    frames: Option<BoxStream<'static, Result<LogOutput, Bollard>>>,
    /// Where the Engine leaves line ends out.
    line_ends: Option<LineEnds>,
    /// Read, and not handed out yet.
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

    /// The next frame of the present reading, which is begun where none is; `None` at its end.
    async fn next_frame(&mut self) -> Result<Option<LogOutput>, Error> {
        let frames = match &mut self.frames {
            Some(frames) => frames,
            closed => {
                let client = self.docker.client(DOING_LOGS).await?;
                let are_left_out = line_ends::are_left_out(&client);
                let counter = || self.docker.counter(&self.container);
                self.line_ends = are_left_out.then(|| LineEnds::new(counter()));
                let options = LogsOptions {
                    follow: self.follow,
                    timestamps: are_left_out,
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
                // All that is there is read once more, and that has an end.
                false => return Err(incomplete("it does not go on")),
            },
        };
        let failed = |error| self.docker.failed_on(DOING_LOGS, &self.container, error);
        frame.transpose().map_err(failed)
    }

    async fn take(&mut self, frame: LogOutput) -> Result<(), Error> {
        let piece = output(DOING_LOGS, frame)?;
        match &mut self.line_ends {
            Some(line_ends) => self.ready.extend(line_ends.pass(piece).await),
            None => self.ready.push_back(piece),
        }
        Ok(())
    }

    /// Decides what follows the end of a reading. True when nothing does: all of the output was read.
    async fn end_reading(&mut self) -> Result<bool, Error> {
        if self.follow {
            let ended = self.docker.wait(&self.container);
            if let Ok(ended) = tokio::time::timeout(ENDING_TIMEOUT, ended).await {
                ended?;
                self.follow = false;
            }
        } else if let Some(mut line_ends) = self.line_ends.take() {
            // Only what has been read to its end says how it ends.
            self.ready.extend(line_ends.finish().await);
            return Ok(false);
        } else if self.skip != [0; 2] {
            // It cannot be less than what was there before.
            self.tries += 1;
            if self.tries == MAX_READINGS {
                return Err(incomplete("it leaves out the end of it"));
            }
        } else {
            return Ok(true);
        }
        self.skip = self.delivered;
        self.frames = None;
        Ok(false)
    }

    /// A piece without what was handed out already; `None` where nothing is left of it.
    fn leave_out_known(&mut self, mut piece: Output) -> Option<Output> {
        let which = piece.stream as usize;
        let length = piece.bytes.len() as u64;
        // No more than the length of the piece, which is in memory.
        let known = self.skip[which].min(length);
        self.skip[which] -= known;
        self.delivered[which] += length - known;
        piece.bytes.advance(known as usize);
        (!piece.bytes.is_empty()).then_some(piece)
    }
}

fn incomplete(why: &str) -> Error {
    Error::Api {
        doing: DOING_LOGS.to_owned(),
        source: why.into(),
    }
}

fn output(doing: &str, frame: LogOutput) -> Result<Output, Error> {
    let (stream, bytes) = match frame {
        LogOutput::StdOut { message } => (Stream::Stdout, message),
        LogOutput::StdErr { message } => (Stream::Stderr, message),
        // Without a terminal there are only the two; what else comes is the Engine's own complaint.
        LogOutput::StdIn { message } | LogOutput::Console { message } => {
            return Err(Error::Api {
                doing: doing.to_owned(),
                source: String::from_utf8_lossy(&message).trim().to_owned().into(),
            });
        }
    };
    Ok(Output { stream, bytes })
}

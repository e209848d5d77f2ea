//! Logs are passed as file descriptors: bulk data is never sent over the bus.
//!
//! The log of a build that is over is its file, open for reading. A growing log is the reading end of a pipe,
//! which is filled until the log ends; the kernel wakes the reader. If the daemon stops before the build
//! ends, the pipe is closed: the reader must ask for the build's state.

use std::os::fd::OwnedFd;

use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::unix::pipe;

use super::calls::Call;
use super::error::Error;
use super::shared::Dbus;
use crate::build::LogFollower;

/// Bytes of a log that are read at once: a quarter of the capacity of a pipe.
const CHUNK_BYTES: usize = 16 << 10;

/// Opens a log. The call counts as unanswered while a growing log is read.
pub(super) async fn hand_out(dbus: &Dbus, call: Call, log: LogFollower) -> Result<OwnedFd, Error> {
    let failed = |error| Error::ours("could not open a pipe for a log", &error);
    let follower = match log.into_whole() {
        Ok(file) => return file.map(Into::into).map_err(failed),
        Err(follower) => follower,
    };
    let (into, out) = pipe::pipe().map_err(failed)?;
    let ending = dbus.0.ending.clone();
    dbus.0.tasks.spawn(async move {
        let _call = call;
        tokio::select! {
            () = fill(into, follower) => {}
            // The reader must open the log again.
            () = ending.cancelled() => {}
        }
    });
    out.into_blocking_fd().map_err(failed)
}

/// Fills a pipe until the log is over, or the reader has closed it.
async fn fill(mut into: pipe::Sender, mut log: LogFollower) {
    loop {
        let chunk = tokio::select! {
            chunk = log.next(CHUNK_BYTES) => chunk,
            _ = left(&into) => return,
        };
        match chunk {
            Ok(Some(chunk)) => {
                if into.write_all(&chunk).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "could not read the log of a build"
                );
                return;
            }
        }
    }
}

/// Waits until the other end of the pipe is closed.
async fn left(into: &pipe::Sender) -> std::io::Result<()> {
    into.ready(Interest::ERROR).await.map(drop)
}

//! Counts the bytes that a container writes, by attaching to it before it is started.

use std::sync::Arc;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::query_parameters::AttachContainerOptions;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::output::Stream;

/// How long the Engine may take to attach; without a count the container is started nevertheless.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait for a count that lags behind the log: both come from the same write within the Engine.
const COUNT_TIMEOUT: Duration = Duration::from_secs(2);

/// How many bytes a container has written to standard output and standard error.
#[derive(Clone, Debug)]
pub(super) struct Counter {
    counted: watch::Receiver<Counted>,
    /// The task ends when the last clone is dropped.
    _task: Arc<JoinSet<()>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    bytes: [u64; 2],
    is_over: bool,
}

impl Counter {
    /// Begins to count for a container that is not started yet; `None` if the Engine does not attach.
    pub(super) async fn begin(client: &bollard::Docker, container: &str) -> Option<Counter> {
        let options = AttachContainerOptions {
            stream: true,
            stdout: true,
            stderr: true,
            ..AttachContainerOptions::default()
        };
        let attaching = client.attach_container(container, Some(options));
        let attached = tokio::time::timeout(ATTACH_TIMEOUT, attaching).await;
        let mut attached = attached.ok()?.ok()?;
        let (count, counted) = watch::channel(Counted::default());
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Some(Ok(frame)) = attached.output.next().await {
                let (stream, length) = match &frame {
                    LogOutput::StdOut { message } => (Stream::Stdout, message.len()),
                    LogOutput::StdErr { message } => (Stream::Stderr, message.len()),
                    // Without a terminal there are no other streams.
                    LogOutput::StdIn { .. } | LogOutput::Console { .. } => break,
                };
                count.send_modify(|counted| counted.bytes[stream as usize] += length as u64);
            }
            count.send_modify(|counted| counted.is_over = true);
        });
        Some(Counter {
            counted,
            _task: Arc::new(task),
        })
    }

    /// True when a stream had more than `bytes`, or fewer because the count broke off.
    pub(super) async fn has_other_count_than(&mut self, stream: Stream, bytes: u64) -> bool {
        let is_known =
            |counted: &Counted| counted.bytes[stream as usize] > bytes || counted.is_over;
        let waiting = self.counted.wait_for(is_known);
        let _ = tokio::time::timeout(COUNT_TIMEOUT, waiting).await;
        self.counted.borrow().bytes[stream as usize] != bytes
    }

    /// A finished count, for tests.
    #[cfg(test)]
    pub(super) fn ended(stdout: u64, stderr: u64) -> Counter {
        let counted = Counted {
            bytes: [stdout, stderr],
            is_over: true,
        };
        Counter {
            counted: watch::channel(counted).1,
            _task: Arc::default(),
        }
    }
}

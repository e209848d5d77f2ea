//! How long requests to a server that is starting, or has just stopped, are retried.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::client::{Backoff, Error};

/// How long connecting is tried before a job is accepted: a server that is being activated or
/// restarted accepts connections by then, and a wrong address is noticed soon.
pub(super) const CONNECT_RETRY_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a connection may break before a response; a server that closes it each time does so
/// because of the request.
const MAX_BROKEN_CONNECTIONS: u32 = 3;

/// Decides whether a failed request is sent again, and pauses before that.
#[derive(Debug)]
pub(super) struct RetryPolicy {
    connect_timeout: Duration,
    deadline: Instant,
    backoff: Backoff,
    broken_connections: u32,
}

impl RetryPolicy {
    /// Tries to connect for [`CONNECT_RETRY_TIMEOUT`] from now on.
    pub(super) fn new() -> RetryPolicy {
        RetryPolicy::with_timeout(CONNECT_RETRY_TIMEOUT)
    }

    /// Tries to connect for `connect_timeout` from now on.
    pub(super) fn with_timeout(connect_timeout: Duration) -> RetryPolicy {
        RetryPolicy {
            connect_timeout,
            deadline: Instant::now() + connect_timeout,
            backoff: Backoff::default(),
            broken_connections: 0,
        }
    }

    /// Whether to send the request again after `error`; pauses before it returns true.
    pub(super) async fn should_retry(&mut self, error: &Error) -> bool {
        match error {
            Error::Connect { source, .. } if source.kind() != io::ErrorKind::PermissionDenied => {
                let pause = self.backoff.next_pause();
                let is_in_time = Instant::now() + pause < self.deadline;
                if is_in_time {
                    sleep(pause).await;
                }
                is_in_time
            }
            Error::Broken(_) => self.should_retry_broken().await,
            _ => false,
        }
    }

    /// The same after an established connection broke.
    pub(super) async fn should_retry_broken(&mut self) -> bool {
        if self.broken_connections == MAX_BROKEN_CONNECTIONS {
            return false;
        }
        self.broken_connections += 1;
        self.deadline = Instant::now() + self.connect_timeout;
        sleep(self.backoff.next_pause()).await;
        true
    }
}

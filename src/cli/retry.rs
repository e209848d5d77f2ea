//! How long requests to a server that is starting, or has just stopped, are retried.

use std::hash::{BuildHasher, Hasher, RandomState};
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

/// How long a busy server is asked again by a command without `--timeout`.
pub(super) const BUSY_RETRY_TIMEOUT: Duration = Duration::from_secs(600);
/// The pause where a busy server, or a proxy before it, asks for none.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(5);
/// The shortest pause: a server that asks for none is not busy, but it refuses.
const MIN_BUSY_PAUSE: Duration = Duration::from_millis(100);
/// How often it is printed that the server is still busy.
const BUSY_NOTICE_INTERVAL: Duration = Duration::from_secs(60);

/// Decides how long a server that is busy (status 503) is asked again.
#[derive(Debug)]
pub(super) struct BusyPolicy {
    start: Instant,
    /// `None`: it is not asked again.
    deadline: Option<Instant>,
    last_notice: Option<Instant>,
}

impl BusyPolicy {
    /// Asks again for `time` from now on, or not at all.
    pub(super) fn new(time: Option<Duration>) -> BusyPolicy {
        let start = Instant::now();
        BusyPolicy {
            start,
            deadline: time.and_then(|time| start.checked_add(time)),
            last_notice: None,
        }
    }

    /// The pause before the next request; `None` if `error` is final. It is at least what the server asks
    /// for, and at most twice that, so that clients that were refused together do not come back together.
    pub(super) fn next_pause(&self, error: &Error) -> Option<Duration> {
        let Error::Response(response) = error else {
            return None;
        };
        if response.status != 503 || response.job.is_some() {
            return None;
        }
        let pause = response.retry_after.unwrap_or(BUSY_RETRY_AFTER);
        let pause = pause.max(MIN_BUSY_PAUSE);
        let pause = pause + pause.mul_f64(random_fraction());
        (Instant::now() + pause < self.deadline?).then_some(pause)
    }

    /// How long the server has been busy, if it is time to say that; zero the first time.
    pub(super) fn notice(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if self.last_notice.is_none() {
            self.last_notice = Some(now);
            return Some(Duration::ZERO);
        }
        if self
            .last_notice
            .is_some_and(|at| now < at + BUSY_NOTICE_INTERVAL)
        {
            return None;
        }
        self.last_notice = Some(now);
        Some(now - self.start)
    }
}

/// From 0 to 1, another one each time.
fn random_fraction() -> f64 {
    f64::from(RandomState::new().build_hasher().finish() as u32) / f64::from(u32::MAX)
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ErrorResponse;

    fn refused(status: u16, retry_after: Option<u64>) -> Error {
        Error::Response(ErrorResponse {
            status,
            message: "Server is overloaded; try again later".to_owned(),
            request: String::new(),
            job: None,
            retry_after: retry_after.map(Duration::from_secs),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_server_is_asked_again_as_it_says_with_jitter_until_the_deadline() {
        let busy = BusyPolicy::new(Some(Duration::from_secs(60)));
        let mut pauses = Vec::new();
        while let Some(pause) = busy.next_pause(&refused(503, Some(4))) {
            assert!((4.0..=8.0).contains(&pause.as_secs_f64()), "{pause:?}");
            pauses.push(pause);
            sleep(pause).await;
        }
        assert!((7..=14).contains(&pauses.len()), "{pauses:?}");
        assert!(pauses.iter().any(|pause| *pause != pauses[0]), "{pauses:?}");
        let busy = BusyPolicy::new(Some(Duration::from_secs(60)));
        assert!(busy.next_pause(&refused(503, None)).unwrap() >= BUSY_RETRY_AFTER);
        assert!(busy.next_pause(&refused(503, Some(0))).unwrap() >= MIN_BUSY_PAUSE);
        assert_eq!(busy.next_pause(&refused(429, Some(1))), None);
        assert_eq!(busy.next_pause(&refused(500, Some(1))), None);
        let never = BusyPolicy::new(None);
        assert_eq!(never.next_pause(&refused(503, Some(1))), None);
    }

    #[tokio::test(start_paused = true)]
    async fn that_a_server_is_busy_is_said_once_and_then_every_minute() {
        let mut busy = BusyPolicy::new(None);
        assert_eq!(busy.notice(), Some(Duration::ZERO));
        assert_eq!(busy.notice(), None);
        sleep(BUSY_NOTICE_INTERVAL).await;
        assert_eq!(busy.notice(), Some(BUSY_NOTICE_INTERVAL));
        assert_eq!(busy.notice(), None);
    }
}

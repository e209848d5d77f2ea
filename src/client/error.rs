//! What can go wrong between us and the server, and how long to wait after it.

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Address, Answer, DEFAULT_SOCKET, job_of};
use crate::api::ErrorView;
use crate::job::JobId;

/// First pause before trying again: a server that restarts needs about that long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause: a person who waits notices a server that is back within two seconds.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What can go wrong between us and the server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error("could not reach the server at {address}")]
    Connect {
        /// Where it was looked for.
        address: Address,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The server's unix socket is there, but not for us.
    #[error("you may not use the socket '{}': {advice}", path.display())]
    Forbidden {
        /// The socket.
        path: PathBuf,
        /// What to do about it.
        advice: String,
    },
    /// The connection was there and ended before the answer did.
    #[error("the connection to the server broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is none that a mistry gives.
    #[error("the server answered what cannot be understood: {0}")]
    Nonsense(String),
    /// The server said no.
    #[error("{0}")]
    Refused(Refusal),
}

/// An answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The server's sentence; "" when it sent none.
    pub sentence: String,
    /// The request's id as in the server's journal; "" when it sent none.
    pub request: String,
    /// The job that was accepted before things went wrong.
    pub job: Option<JobId>,
    /// When to ask again, in the server's opinion; at most a minute.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sentence.as_str() {
            "" if self.status == 503 => f.write_str("Server is overloaded; try again later")?,
            "" => write!(f, "the server answered with status {}", self.status)?,
            sentence => f.write_str(sentence)?,
        }
        if !self.request.is_empty() {
            write!(f, " (request {})", self.request)?;
        }
        Ok(())
    }
}

impl Error {
    /// True when the same question may be answered a little later.
    pub fn is_passing(&self) -> bool {
        match self {
            Error::Connect { .. } | Error::Broken(_) => true,
            Error::Refused(no) => matches!(no.status, 429 | 502..=504),
            Error::Forbidden { .. } | Error::Nonsense(_) => false,
        }
    }

    /// The socket may not be written to, or not even be seen, for want of what is known of it.
    pub(super) fn forbidden(path: &Path, known: Option<&Metadata>) -> Error {
        let advice = match known {
            _ if path == Path::new(DEFAULT_SOCKET) => {
                "ask an administrator to add you to the group 'mistry' (adduser NAME mistry), then log in again".to_owned()
            }
            Some(file) => format!(
                "its mode is {:04o}, its owner {}, its group {}; ask the administrator of its server",
                file.mode() & 0o7777,
                file.uid(),
                file.gid()
            ),
            None => "its directory is closed to you; ask the administrator of its server".to_owned(),
        };
        let path = path.to_owned();
        Error::Forbidden { path, advice }
    }

    /// When to ask again, in the server's opinion.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Refused(no) => no.retry_after,
            _ => None,
        }
    }
}

/// Growing pauses between tries, 100 ms to 2 s: a refused connect is no event to wait for.
#[derive(Debug)]
pub struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff(FIRST_PAUSE)
    }
}

impl Backoff {
    /// How long to wait now; the next pause is twice as long.
    pub fn pause(&mut self) -> Duration {
        let now = self.0;
        self.0 = (now * 2).min(LONGEST_PAUSE);
        now
    }
}

pub(crate) fn nonsense(error: serde_json::Error) -> Error {
    Error::Nonsense(error.to_string())
}

/// Reads an error answer; a body that cannot be read is as good as none.
pub(super) async fn refusal(answer: Answer) -> Error {
    /// Longest error body that is looked at: one sentence and an id.
    const MAX_ERROR: usize = 64 << 10;
    /// Longest sentence shown when the body is no JSON.
    const MAX_SENTENCE: usize = 500;
    /// A server's wish to be left alone is heard up to here.
    const MAX_RETRY_AFTER: u64 = 60;

    let status = answer.status();
    let located = answer.header("location").and_then(job_of);
    let located = located.map(|(_, id)| id);
    let retry_after = answer
        .header("retry-after")
        .and_then(|text| text.trim().parse().ok())
        .map(|seconds: u64| Duration::from_secs(seconds.min(MAX_RETRY_AFTER)));
    let body = answer.bytes(MAX_ERROR).await.unwrap_or_default();
    let view: ErrorView = serde_json::from_slice(&body).unwrap_or_else(|_| ErrorView {
        error: match status {
            // The first mistry's proxies and itself send pages and Go texts here.
            503 => String::new(),
            _ => String::from_utf8_lossy(&body)
                .trim()
                .chars()
                .take(MAX_SENTENCE)
                .collect(),
        },
        request: String::new(),
        job: None,
    });
    let named = view.job.and_then(|id| id.parse().ok());
    Error::Refused(Refusal {
        status,
        sentence: view.error,
        request: view.request,
        job: located.or(named),
        retry_after,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_use_a_socket_is_told_what_to_do() {
        let told = |path: &str, known: Option<&Metadata>| {
            let error = Error::forbidden(Path::new(path), known);
            assert!(!error.is_passing());
            error.to_string()
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        let known = file.as_file().metadata().unwrap();
        let expected = "you may not use the socket '/run/mistry/mistryd.sock': ask an administrator to add you to the group 'mistry' (adduser NAME mistry), then log in again";
        assert_eq!(told(DEFAULT_SOCKET, None), expected);
        assert_eq!(told(DEFAULT_SOCKET, Some(&known)), expected);
        let other = told("/srv/m.sock", Some(&known));
        for part in ["'/srv/m.sock'", "0600", &format!("group {}", known.gid())] {
            assert!(other.contains(part), "{other}");
        }
        assert!(told("/srv/m.sock", None).contains("directory"));
    }
}

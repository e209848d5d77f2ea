//! The interface to systemd: inherited sockets, readiness, status, the watchdog.
//!
//! Outside systemd there are no sockets to inherit and no manager to notify: these functions then do nothing.
//! The environment is read here (`LISTEN_*`, and by `sd-notify` `NOTIFY_SOCKET` and `WATCHDOG_*`) and nowhere
//! else.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use listenfd::ListenFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sd_notify::NotifyState;

/// Most sockets that one daemon may inherit. A unit has a few; a larger number is invalid.
const MAX_SOCKETS: usize = 64;
/// The first inherited descriptor: `SD_LISTEN_FDS_START` of sd_listen_fds(3).
const FIRST: usize = 3;
/// systemd stores one line of status; longer text is truncated.
const MAX_STATUS: usize = 500;

/// An inherited listening socket, identified by its type and not by its name.
#[derive(Debug)]
pub enum Socket {
    /// TCP, IPv4 or IPv6.
    Tcp(TcpListener),
    /// A unix stream socket.
    Unix(UnixListener),
}

/// The inherited sockets cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The count is invalid.
    #[error(
        "LISTEN_FDS: expected the number of inherited sockets, {MAX_SOCKETS} at most, found '{0}'"
    )]
    Number(String),
    /// A descriptor is of the wrong type.
    #[error(
        "inherited descriptor {0}: expected a TCP or unix stream socket that listens; mistryd.socket must have ListenStream= and Accept=no"
    )]
    Kind(usize, #[source] io::Error),
}

/// The sockets that systemd holds for the daemon; none where there is no systemd. Must be called once, before
/// threads start: it removes its variables from the environment.
///
/// Beside the usable sockets it returns the error of the first unusable one: the daemon cannot serve that
/// one, but clients that wait at the good ones can be told the error.
pub fn inherited() -> (Vec<Socket>, Result<(), Error>) {
    // The sockets belong to another process when a parent forgot to remove the variables.
    let ours = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    let Some(count) = std::env::var_os("LISTEN_FDS").filter(|_| ours) else {
        return (Vec::new(), Ok(()));
    };
    let count = count.to_string_lossy();
    if count.parse().is_ok_and(|count: usize| count > MAX_SOCKETS)
        || count.parse::<usize>().is_err()
    {
        let shown = count.chars().take(40).flat_map(char::escape_debug);
        return (Vec::new(), Err(Error::Number(shown.collect())));
    }
    let mut given = ListenFd::from_env();
    let (mut sockets, mut wrong) = (Vec::new(), Ok(()));
    for at in 0..given.len() {
        match take(&mut given, at) {
            Ok(socket) => sockets.push(socket),
            Err(error) => wrong = wrong.and(Err(Error::Kind(FIRST + at, error))),
        }
    }
    (sockets, wrong)
}

fn take(given: &mut ListenFd, at: usize) -> io::Result<Socket> {
    let socket = match given.take_tcp_listener(at) {
        Ok(Some(tcp)) => Socket::Tcp(tcp),
        _ => match given.take_unix_listener(at)? {
            Some(unix) => Socket::Unix(unix),
            None => return Err(io::ErrorKind::NotFound.into()),
        },
    };
    if !rustix::net::sockopt::socket_acceptconn(&socket)? {
        return Err(io::Error::other("the socket does not listen"));
    }
    // A blocking socket would block a whole thread of the runtime.
    match &socket {
        Socket::Tcp(tcp) => tcp.set_nonblocking(true)?,
        Socket::Unix(unix) => unix.set_nonblocking(true)?,
    }
    Ok(socket)
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(tcp) => tcp.as_fd(),
            Socket::Unix(unix) => unix.as_fd(),
        }
    }
}

/// Whether a client waits to be accepted at one of the sockets.
pub fn is_awaited(sockets: &[Socket]) -> bool {
    let mut polled: Vec<PollFd<'_>> = sockets
        .iter()
        .map(|socket| PollFd::new(socket, PollFlags::IN))
        .collect();
    poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Requests are served from now on.
///
/// # Errors
/// When systemd does not accept the message.
pub fn ready() -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Ready])
}

/// Whether a service manager started the daemon and is to be notified.
pub fn is_started_by_systemd() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Sets the displayed systemd status.
///
/// # Errors
/// When systemd does not accept the message.
pub fn status(status: &str) -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Status(&line(status))])
}

/// The configuration is being reloaded; [`ready`] reports the end.
///
/// # Errors
/// When systemd does not accept the message.
pub fn reloading() -> io::Result<()> {
    // systemd from 253 on requires the time, too.
    sd_notify::notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?])
}

/// The daemon stops.
///
/// # Errors
/// When systemd does not accept the message.
pub fn stopping(status: &str) -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Stopping, NotifyState::Status(&line(status))])
}

/// The daemon is alive; must be sent within each [`watchdog`] interval.
///
/// # Errors
/// When systemd does not accept the message.
pub fn alive() -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Watchdog])
}

/// How long systemd waits for [`alive`] before it kills the daemon; `None` without a watchdog.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

/// A credential that systemd stores for the daemon (`LoadCredential=`).
pub fn credential(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join(name);
    path.exists().then_some(path)
}

/// Joins lines: a message to systemd has one assignment per line.
fn line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_STATUS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line_whatever_its_text() {
        assert_eq!(line("a\nREADY=1\u{1b}[0m"), "a READY=1 [0m");
        assert_eq!(line(&"ä".repeat(9_000)).chars().count(), MAX_STATUS);
    }

    #[test]
    fn a_waiting_connection_is_detected() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let sockets = [Socket::Tcp(listener)];
        assert!(!is_awaited(&sockets));
        let _waiting = std::net::TcpStream::connect(address).unwrap();
        assert!(is_awaited(&sockets));
        assert!(!is_awaited(&[]));
    }
}

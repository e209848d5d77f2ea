//! Runs a program that fetches artifacts.
//!
//! When the fetch is cancelled, the program gets SIGTERM and continues until it has removed its incomplete
//! files; the stage that it works in is held until then.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use rustix::fs::Mode;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, umask};

use super::Error;
use super::blocking::run_blocking;

/// Runs a program to its end and holds `stage` until then. Its standard error is inherited, its standard
/// output is discarded. Dropping the future sends it SIGTERM.
///
/// # Errors
/// [`Error::Spawn`] when it cannot be run, [`Error::Child`] when it fails.
pub(super) async fn run<T: Send + 'static>(
    program: &'static str,
    arguments: Vec<OsString>,
    stage: T,
) -> Result<T, Error> {
    let spawn = |error| Error::Spawn(program, error);
    // scp applies the umask to the modes of directories. No other thread of the client creates files
    // before the program runs.
    let umask_before = umask(Mode::empty());
    let spawned = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    umask(umask_before);
    let mut child = spawned.map_err(spawn)?;
    let _guard = match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
        Ok(process) => TerminateOnDrop(process),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(spawn(error.into()));
        }
    };
    run_blocking(move || {
        let status = child.wait().map_err(spawn)?;
        if status.success() {
            Ok(stage)
        } else {
            Err(Error::Child(program, status))
        }
    })
    .await
}

/// Sends SIGTERM to a process when dropped, by its pidfd, which is never reused for another process.
struct TerminateOnDrop(OwnedFd);

impl Drop for TerminateOnDrop {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = pidfd_send_signal(&self.0, Signal::TERM);
    }
}

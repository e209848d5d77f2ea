//! A program that brings artifacts, run to its end.
//!
//! It runs on while the fetch is given up: it is asked to end, so that it removes what it has half
//! done, and what it works on is held until it has ended.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use rustix::fs::Mode;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, umask};

use super::{Error, blocking};

/// Runs a program to its end, holding `works_on` until then; its standard error is ours, its standard
/// output goes nowhere. Dropping the future sends it SIGTERM.
///
/// # Errors
/// [`Error::Spawn`] when it cannot be run, [`Error::Child`] when it fails.
pub(super) async fn run<T: Send + 'static>(
    program: &'static str,
    arguments: Vec<OsString>,
    works_on: T,
) -> Result<T, Error> {
    let spawn = |error| Error::Spawn(program, error);
    // scp takes what the umask says from the modes of directories. Until the program runs, no other
    // thread of the client makes files.
    let usual = umask(Mode::empty());
    let spawned = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    umask(usual);
    let mut child = spawned.map_err(spawn)?;
    let _ended = match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
        Ok(process) => EndedWithUs(process),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(spawn(error.into()));
        }
    };
    blocking(move || {
        let status = child.wait().map_err(spawn)?;
        if status.success() {
            Ok(works_on)
        } else {
            Err(Error::Child(program, status))
        }
    })
    .await
}

/// A process that is asked to end when this is dropped; by its descriptor, which no other process has
/// after it.
struct EndedWithUs(OwnedFd);

impl Drop for EndedWithUs {
    fn drop(&mut self) {
        // Nothing to ask where it has ended.
        let _ = pidfd_send_signal(&self.0, Signal::TERM);
    }
}

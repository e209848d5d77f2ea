//! A child process with all that it starts: killed as a group, and awaited.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, ChildStdin, Command, ExitStatus};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::net::unix::pipe;

/// A child in a process group of its own. Dropping it kills the group.
#[derive(Debug)]
pub(super) struct Child {
    child: std::process::Child,
    group: Pid,
    /// A pidfd, which becomes readable like a pipe when the child has ended.
    ended: pipe::Receiver,
    is_reaped: bool,
}

impl Child {
    /// Starts a child. Blocks until it executes its program.
    pub(super) fn spawn(command: &mut Command) -> io::Result<Child> {
        let mut child = command.process_group(0).spawn()?;
        let group = Pid::from_child(&child);
        let ended = pidfd_open(group, PidfdFlags::NONBLOCK).map_err(io::Error::from);
        match ended.and_then(pipe::Receiver::from_owned_fd_unchecked) {
            Ok(ended) => Ok(Child {
                child,
                group,
                ended,
                is_reaped: false,
            }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// The ends of its pipes.
    pub(super) fn pipes(&mut self) -> (Option<ChildStdin>, Option<ChildStderr>) {
        (self.child.stdin.take(), self.child.stderr.take())
    }

    /// Waits until it has ended; processes that it has started may go on.
    pub(super) async fn ended(&self) {
        // It stays readable.
        let _ = self.ended.readable().await;
    }

    /// Kills it and all that it has started. Its number is not given to another process before it is reaped.
    pub(super) fn kill(&self) {
        if !self.is_reaped {
            // There may be none left.
            let _ = kill_process_group(self.group, Signal::KILL);
        }
    }

    /// Kills what is left of it, and waits for its end.
    pub(super) async fn reap(mut self) -> io::Result<ExitStatus> {
        self.kill();
        self.ended().await;
        self.is_reaped = true;
        // It has ended, so this does not wait.
        self.child.wait()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

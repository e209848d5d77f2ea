//! Commands inside the machine, as root or as one of its users.

use std::fmt;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Machine, test_timeout};

/// What is left of a command that has ended.
#[derive(Debug)]
pub struct Ran {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}: {}{}", self.status, self.stdout, self.stderr)
    }
}

/// A command that runs; it is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Option<Child>,
}

impl Running {
    /// Waits for its end.
    #[track_caller]
    pub fn end(mut self) -> Ran {
        let mut child = self.child.take().expect("it runs");
        let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
        // Both at once, so that a full pipe holds nothing up.
        let read = |pipe: &mut dyn Read| {
            let mut bytes = Vec::new();
            let _ = pipe.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (stdout, stderr) = std::thread::scope(|scope| {
            let err = scope.spawn(|| err.as_mut().map(|pipe| read(pipe)).unwrap_or_default());
            let out = out.as_mut().map(|pipe| read(pipe)).unwrap_or_default();
            (out, err.join().unwrap())
        });
        let status = child.wait().unwrap();
        Ran {
            status: status.code().unwrap_or(-1),
            stdout,
            stderr,
        }
    }

    /// What it writes to its standard output, to be read as it comes.
    pub fn stdout(&mut self) -> std::process::ChildStdout {
        self.child
            .as_mut()
            .and_then(|child| child.stdout.take())
            .expect("not taken yet")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Machine {
    /// Runs lines of a shell as root; what fails ends it. Returns what it prints.
    #[track_caller]
    pub fn run(&self, lines: &str) -> String {
        let ran = self.attempt(&format!("set -e\n{lines}"));
        assert_eq!(ran.status, 0, "{lines}\n{ran}");
        ran.stdout
    }

    /// Runs lines of a shell as root, however they end.
    pub fn attempt(&self, lines: &str) -> Ran {
        self.begin("root", lines).end()
    }

    /// Runs lines of a shell as a user, at home, however they end.
    pub fn as_user(&self, user: &str, lines: &str) -> Ran {
        self.begin(user, lines).end()
    }

    /// Begins lines of a shell as a user, at home.
    pub fn begin(&self, user: &str, lines: &str) -> Running {
        let home = match user {
            "root" => "/root".to_owned(),
            user => format!("/home/{user}"),
        };
        let mut command = self.inside();
        command.args(["/usr/bin/env", "-i", "-C", &home]);
        command.args([
            &format!("HOME={home}"),
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG=C.UTF-8",
            // By this the next test finds what is left of this one.
            &format!("MISTRY_TEST_RUN={}", self.since),
        ]);
        // Nothing that a test has begun outlives its timeout; a hanging test names its command.
        command.args(["timeout", "-k", "5", &limit(test_timeout())]);
        if user != "root" {
            let (user, group) = (format!("--reuid={user}"), format!("--regid={user}"));
            command.args(["setpriv", &user, &group, "--init-groups"]);
        }
        command.args(["bash", "-c", lines]);
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Running {
            child: Some(command.spawn().unwrap()),
        }
    }

    /// What follows is run by root in all namespaces and cgroups of the machine.
    fn inside(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.leader.to_string()]);
        command.args(["-m", "-u", "-i", "-n", "-p", "-C", "--"]);
        command
    }
}

fn limit(time: Duration) -> String {
    time.as_secs().to_string()
}

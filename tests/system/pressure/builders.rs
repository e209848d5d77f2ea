//! What happens meanwhile over the unix socket: builds, a cancel, a collection, each by `mistry`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Each ends by then. It is no measure of speed: what waits for a reader would wait for minutes.
const IN_TIME: Duration = Duration::from_secs(60);

/// A member of the group `mistry`, at the daemon's socket.
#[derive(Debug)]
pub struct Builder {
    pub socket: PathBuf,
}

impl Builder {
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mistry"));
        let (verb, rest) = arguments.split_first().unwrap();
        command
            .arg(verb)
            .arg("--socket")
            .arg(&self.socket)
            .args(rest);
        command
            .env_remove("MISTRY_URL")
            .env_remove("MISTRY_TOKEN_FILE")
            .current_dir(self.socket.parent().unwrap_or(Path::new("/")))
            .stdin(Stdio::null());
        command
    }

    /// What went wrong with one verb, if anything did: it failed, or was not over in time.
    pub fn run(&self, arguments: &[&str], is_right: impl Fn(&Output) -> bool) -> Option<String> {
        let began = Instant::now();
        let mut command = Command::new("timeout");
        command.arg(IN_TIME.as_secs().to_string());
        let asked = self.command(arguments);
        command.arg(asked.get_program()).args(asked.get_args());
        for (name, value) in asked.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.current_dir(asked.get_current_dir().unwrap_or(Path::new("/")));
        let output = command.stdin(Stdio::null()).output().unwrap();
        let took = began.elapsed().as_secs_f64();
        eprintln!("  mistry {}: {:.1} s", arguments.join(" "), took);
        (!is_right(&output)).then(|| {
            format!(
                "`mistry {}` came to {} after {took:.1} s: {}{}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )
        })
    }
}

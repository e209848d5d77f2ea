//! A build whose artifacts the tests make, and its fetching by each transport.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use mistry::filesystem::Filesystem;
use serde_json::json;

use super::trees::set_mode;
use crate::support::daemon::{Daemon, Setup};
use crate::support::servers::{self, Server};
use crate::support::{Place, names};

pub const TRANSPORTS: [&str; 4] = ["http", "rsync", "scp", "local"];
/// The user `nobody`, on every Debian.
pub const USER: u32 = 65534;

/// A build whose artifacts the tests make, and the transports.
pub struct Scene {
    pub daemon: Daemon,
    pub id: String,
    rsync: Server,
    ssh: Server,
}

impl Scene {
    pub fn on(place: Place) -> Scene {
        let daemon = Setup::on(place).script("tree", "").start();
        let built = daemon.succeed(json!({"project": "tree"}));
        let id = built["ID"].as_str().unwrap().to_owned();
        // So that a user who is not root may read by path and run the program.
        let artifacts = daemon.ready("tree", &id).join("data/artifacts");
        for path in artifacts
            .ancestors()
            .take_while(|path| *path != daemon.home())
        {
            set_mode(path, 0o755);
        }
        fs::copy(env!("CARGO_BIN_EXE_mistry"), daemon.home().join("mistry")).unwrap();
        let rsync = servers::rsync(daemon.home(), &documented(&daemon));
        let ssh = servers::ssh_for(daemon.home(), USER);
        Scene {
            daemon,
            id,
            rsync,
            ssh,
        }
    }

    pub fn artifacts(&self) -> PathBuf {
        self.daemon.ready("tree", &self.id).join("data/artifacts")
    }

    /// Replaces the artifacts.
    pub fn fill(&self, make: impl FnOnce(&Path)) {
        let artifacts = self.artifacts();
        Filesystem::Plain.remove(&artifacts).unwrap();
        fs::create_dir(&artifacts).unwrap();
        set_mode(&artifacts, 0o755);
        make(&artifacts);
    }

    /// An empty directory of that user.
    pub fn target(&self, name: &str, user: u32) -> PathBuf {
        let target = self.daemon.home().join(name);
        fs::create_dir(&target).unwrap();
        chown(&target, Some(user), Some(user)).unwrap();
        target
    }

    pub fn command(&self, transport: &str, target: &Path, more: &[&str], user: u32) -> Command {
        let mut command = Command::new(self.daemon.home().join("mistry"));
        command.args([
            "fetch",
            "--host",
            "127.0.0.1",
            "--port",
            self.daemon.port(),
            &self.id,
        ]);
        command
            .args(["--transport", transport, "--target"])
            .arg(target)
            .args(more);
        match transport {
            "rsync" => command.args(&self.rsync.arguments),
            "scp" => command.args(&self.ssh.arguments),
            _ => &mut command,
        };
        // A umask that takes nearly everything, which must not matter.
        let mut shell = Command::new("sh");
        shell.args(["-c", "umask 077; exec \"$@\"", "sh"]);
        shell.arg(command.get_program()).args(command.get_args());
        if user != 0 {
            shell.uid(user).gid(user);
        }
        shell
            .env_remove("MISTRY_URL")
            .env_remove("MISTRY_TOKEN_FILE");
        shell.current_dir("/");
        shell
    }

    /// The exit status and what was said.
    pub fn try_fetch(
        &self,
        transport: &str,
        target: &Path,
        more: &[&str],
        user: u32,
    ) -> (i32, String) {
        let fetched = self
            .command(transport, target, more, user)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&fetched.stderr).into_owned();
        (fetched.status.code().unwrap(), said)
    }

    #[track_caller]
    pub fn fetch(&self, transport: &str, target: &Path, more: &[&str], user: u32) {
        let (status, said) = self.try_fetch(transport, target, more, user);
        assert_eq!(status, 0, "{transport}: {said}\n{}", self.daemon.log());
        assert_no_temporaries(target);
    }
}

pub fn assert_no_temporaries(target: &Path) {
    let left = names(target);
    let ours = |name: &String| name.starts_with(".mistry-") || name.starts_with(".large.");
    assert!(!left.iter().any(ours), "{left:?}");
}

/// The rsyncd.conf of docs/operations.md, for this daemon's build path and user.
pub fn documented(daemon: &Daemon) -> String {
    let document = include_str!("../../../../docs/operations.md");
    let block = document
        .split("```ini\n# /etc/rsyncd.conf\n")
        .nth(1)
        .unwrap();
    let block = block.split("```").next().unwrap();
    let mut config = String::new();
    for line in block.lines() {
        let builds = daemon.builds();
        config.push_str(&match line.split('=').next().unwrap().trim() {
            "path" => format!("    path = {}", builds.display()),
            "uid" => "    uid = 0".to_owned(),
            "gid" => "    gid = 0".to_owned(),
            _ => line.to_owned(),
        });
        config.push('\n');
    }
    assert!(config.contains("path = /"), "{config}");
    config
}

//! A mistryd of the benchmark's own, on the real Engine; what it leaves is removed.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running daemon; stopped, and its containers and images removed, on drop.
pub struct Daemon {
    pub home: tempfile::TempDir,
    pub port: u16,
    child: Child,
}

impl Daemon {
    /// Starts one in a directory of its own with one project, `trivial`, that does `script`.
    pub fn start(slots: usize, script: &str) -> Daemon {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("builds")).unwrap();
        project(&home.path().join("projects/trivial"), script);
        Daemon::again(home, slots)
    }

    /// Starts one in a directory that is prepared.
    pub fn again(home: tempfile::TempDir, slots: usize) -> Daemon {
        let config = format!(
            r#"{{"projects_path":"projects","build_path":"builds","job_concurrency":{slots},"job_backlog":100}}"#
        );
        std::fs::write(home.path().join("config.json"), config).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_mistryd"))
            .args(["--addr", "127.0.0.1:0", "--config"])
            .arg(home.path().join("config.json"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let port = loop {
            let line = lines.next().expect("mistryd ended").unwrap();
            if let Some((_, rest)) = line.split_once("http://127.0.0.1:") {
                break rest.split(';').next().unwrap().parse().unwrap();
            }
        };
        // Its pipe must not fill up.
        std::thread::spawn(move || lines.for_each(drop));
        Daemon { home, port, child }
    }

    pub fn builds(&self) -> PathBuf {
        self.home.path().join("builds")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        self.child.wait().ok();
        let instance = std::fs::read_to_string(self.builds().join(".mistry/instance"));
        let Ok(instance) = instance else { return };
        let filter = format!("label=mistry.instance={}", instance.trim());
        for (list, remove) in [
            (["ps", "-aq"], ["rm", "-f"]),
            (["images", "-q"], ["rmi", "-f"]),
        ] {
            let found = Command::new("docker")
                .args(list)
                .args(["--filter", &filter])
                .output();
            for id in String::from_utf8_lossy(&found.unwrap().stdout).split_whitespace() {
                Command::new("docker").args(remove).arg(id).output().ok();
            }
        }
    }
}

/// A project without need of a registry: a static busybox and a script.
pub fn project(at: &Path, script: &str) {
    std::fs::create_dir_all(at).unwrap();
    let busybox =
        std::env::var("MISTRY_TEST_BUSYBOX").unwrap_or_else(|_| "/bin/busybox".to_owned());
    std::fs::copy(busybox, at.join("busybox")).unwrap();
    let dockerfile = "FROM scratch\nCOPY busybox /bin/busybox\nCOPY run.sh /run.sh\nENTRYPOINT [\"/bin/busybox\", \"sh\", \"/run.sh\"]\n";
    std::fs::write(at.join("Dockerfile"), dockerfile).unwrap();
    std::fs::write(at.join("run.sh"), script).unwrap();
    std::fs::set_permissions(at.join("run.sh"), PermissionsExt::from_mode(0o755)).unwrap();
}

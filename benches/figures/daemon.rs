//! A mistryd of the benchmark's own, on the real Engine; what it leaves is removed.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

/// A running daemon; stopped, and its containers and images removed, on drop.
pub struct Daemon {
    pub home: tempfile::TempDir,
    pub port: u16,
    child: Child,
}

/// What a process of the daemon says on standard error, and when.
pub struct Said(pub Receiver<(Instant, String)>);

impl Daemon {
    /// Starts one in a directory of its own with one project, `trivial`, that does `script`.
    pub fn start(slots: usize, script: &str) -> Daemon {
        Daemon::with_backlog(slots, script, BACKLOG)
    }

    /// The same with another backlog.
    pub fn with_backlog(slots: usize, script: &str, backlog: usize) -> Daemon {
        Daemon::begin(prepared(script), slots, backlog, &[], None)
    }

    /// One with a single slot and a long queue, on a bus.
    pub fn on_bus(script: &str, address: &str) -> Daemon {
        Daemon::begin(
            prepared(script),
            1,
            10 * BACKLOG,
            &["--user-bus"],
            Some(address),
        )
    }

    /// Starts one in a directory that is prepared.
    pub fn again(home: tempfile::TempDir, slots: usize) -> Daemon {
        Daemon::begin(home, slots, BACKLOG, &[], None)
    }

    fn begin(
        home: tempfile::TempDir,
        slots: usize,
        backlog: usize,
        arguments: &[&str],
        bus: Option<&str>,
    ) -> Daemon {
        let config = format!(
            r#"{{"projects_path":"projects","build_path":"builds","job_concurrency":{slots},"job_backlog":{backlog}}}"#
        );
        std::fs::write(home.path().join("config.json"), config).unwrap();
        let bus = bus.map(|address| ("DBUS_SESSION_BUS_ADDRESS", OsStr::new(address)));
        let (child, said) = spawn(home.path(), arguments, bus.as_slice());
        let mut daemon = Daemon {
            home,
            port: 0,
            child,
        };
        daemon.port = said.port();
        daemon
    }

    /// `kill -9`, and another process with this in its environment.
    pub fn restart(&mut self, environment: &[(&str, &OsStr)]) -> Said {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let (child, said) = spawn(self.home.path(), &[], environment);
        self.child = child;
        said
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn builds(&self) -> PathBuf {
        self.home.path().join("builds")
    }
}

impl Said {
    /// When the next line that holds this was said, and the line.
    pub fn until(&self, word: &str) -> (Instant, String) {
        loop {
            let (at, line) = self.0.recv().expect("mistryd says it before it ends");
            if line.contains(word) {
                return (at, line);
            }
        }
    }

    fn port(&self) -> u16 {
        let (_, line) = self.until("http://127.0.0.1:");
        let (_, rest) = line.split_once("http://127.0.0.1:").unwrap();
        rest.split(';').next().unwrap().parse().unwrap()
    }
}

fn spawn(home: &Path, arguments: &[&str], environment: &[(&str, &OsStr)]) -> (Child, Said) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mistryd"))
        .args(["--addr", "127.0.0.1:0", "--config"])
        .arg(home.join("config.json"))
        .args(arguments)
        // Whatever bus this host has is not for benchmarks.
        .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")
        .envs(environment.iter().copied())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (say, said) = channel();
    // Ends with the daemon. Its pipe must not fill up, whether it is read or not.
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = say.send((Instant::now(), line));
        }
    });
    (child, Said(said))
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

/// Jobs that may wait.
const BACKLOG: usize = 100;

/// A directory with one project, `trivial`, that does `script`.
fn prepared(script: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("builds")).unwrap();
    project(&home.path().join("projects/trivial"), script);
    home
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

//! The real `mistryd`, as a process, over a [`Home`].

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use super::{
    daemon::Home,
    http::{At, within},
};

/// A daemon; killed when it is dropped.
pub struct Process {
    child: Child,
    pub at: At,
    log: Arc<Mutex<String>>,
    reading: Option<JoinHandle<()>>,
}

/// The status and output of a program that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status; minus the signal when it was killed.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Home {
    /// Writes the configuration: the two paths and `more`.
    pub fn configure(&self, more: &Value) -> PathBuf {
        let mut config = json!({
            "projects_path": self.projects(), "build_path": self.builds(),
            "job_concurrency": 2, "filesystem": "plain",
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        let path = self.path("config.json");
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// `mistryd` over this home, with nothing said yet; the configuration must be there.
    pub fn mistryd(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mistryd"));
        command
            .arg("--config")
            .arg(self.path("config.json"))
            .env_clear()
            .env(
                "DOCKER_HOST",
                format!("unix://{}", self.engine.socket().display()),
            )
            // Whatever bus this host has is not for tests.
            .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")
            .stdin(Stdio::null());
        command
    }

    /// Starts a daemon on a free port; returns when it serves.
    pub async fn spawn(&self) -> Process {
        self.serve("127.0.0.1:0").await
    }

    /// Starts a daemon at an address; returns when it serves.
    pub async fn serve(&self, address: &str) -> Process {
        let engine = format!("unix://{}", self.engine.socket().display());
        self.serve_with(address, &engine).await
    }

    /// The same with another Engine.
    pub async fn serve_with(&self, address: &str, engine: &str) -> Process {
        let mut command = self.mistryd();
        command.args(["--addr", address]).env("DOCKER_HOST", engine);
        served(command).await
    }
}

/// Starts a daemon that listens over TCP; returns when it serves.
pub async fn served(mut command: Command) -> Process {
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let log = Arc::new(Mutex::new(String::new()));
    let (to, serving) = tokio::sync::oneshot::channel();
    let mut to = Some(to);
    let kept = log.clone();
    let reading = std::thread::spawn(move || {
        let mut line = String::new();
        while matches!(lines.read_line(&mut line), Ok(1..)) {
            let at = line.split("serving on http://").nth(1);
            if let Some(at) = at.and_then(|at| at.split(';').next())
                && let Some(to) = to.take()
            {
                let _ = to.send(at.parse().unwrap());
            }
            kept.lock().unwrap().push_str(&line);
            line.clear();
        }
    });
    let at = within("the start of mistryd", serving).await;
    let Ok(at) = at else {
        panic!("mistryd did not start: {}", log.lock().unwrap())
    };
    Process {
        child,
        at: At::Tcp(at),
        log,
        reading: Some(reading),
    }
}

impl Process {
    /// What it has written to standard error.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Ends it as systemd does; returns its whole log.
    pub async fn log_to_the_end(self) -> String {
        let log = self.log.clone();
        assert_eq!(self.end(Signal::TERM).await, 0);
        let log = log.lock().unwrap();
        log.clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn port(&self) -> u16 {
        match &self.at {
            At::Tcp(address) => address.port(),
            At::Unix(_) => 0,
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Sends a signal and waits for the end; the exit status, minus the signal when it was killed.
    pub async fn end(mut self, signal: Signal) -> i32 {
        self.signal(signal);
        let reading = self.reading.take();
        let (mut ended, reading) = (
            std::mem::replace(&mut self.child, Command::new("true").spawn().unwrap()),
            reading,
        );
        within(
            "the end of mistryd",
            tokio::task::spawn_blocking(move || {
                let status = ended.wait().unwrap();
                if let Some(reading) = reading {
                    reading.join().unwrap();
                }
                status.code().unwrap_or_else(|| -status.signal().unwrap())
            }),
        )
        .await
        .unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end, on a thread of its own: what it asks of this process is answered
/// meanwhile.
pub async fn run(command: Command) -> Ended {
    begin(command).await
}

/// A program under way; see [`run`].
pub fn begin(mut command: Command) -> impl Future<Output = Ended> + Send {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    // Nothing waits any more when this is dropped: a test that failed must not wait for ever.
    let abandoned = Abandoned(Pid::from_raw(child.id().cast_signed()));
    let task = tokio::task::spawn_blocking(move || {
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            err.read_to_end(&mut text).unwrap();
            text
        });
        let mut text = Vec::new();
        out.read_to_end(&mut text).unwrap();
        let status = child.wait().unwrap();
        Ended {
            status: status.code().unwrap_or_else(|| -status.signal().unwrap()),
            stdout: String::from_utf8_lossy(&text).into_owned(),
            stderr: String::from_utf8_lossy(&errors.join().unwrap()).into_owned(),
        }
    });
    async move {
        let ended = within("a program", task).await.unwrap();
        abandoned.spare();
        ended
    }
}

/// A process that is killed with the value, unless it has ended.
struct Abandoned(Option<Pid>);

impl Abandoned {
    /// It has ended.
    fn spare(mut self) {
        self.0 = None;
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

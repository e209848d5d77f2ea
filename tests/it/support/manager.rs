//! systemd for one test: holds the sockets, starts `mistryd` with them, receives its notifications.
//!
//! A shell puts the sockets where sd_listen_fds(3) expects them, because only a process itself knows
//! its number.

use std::{
    net::TcpListener,
    os::{fd::OwnedFd, unix::net::UnixListener},
    process::{Child, Command, Stdio},
};

use rustix::event::{PollFd, PollFlags, poll};
use tokio::net::UnixDatagram;

use super::{
    daemon::Home,
    http::{At, within},
};

/// Standard input and output become descriptors 3 and 4.
const PASS: &str = "export LISTEN_PID=$$ && exec \"$@\" 3<&0 4<&1 0</dev/null 1>/dev/null";

pub struct Manager {
    pub tcp: TcpListener,
    pub unix: UnixListener,
    notify: UnixDatagram,
    home: std::path::PathBuf,
}

/// One process of the daemon; killed when it is dropped.
pub struct Service(pub Child);

impl Manager {
    pub fn new(home: &Home) -> Manager {
        let at = |name| home.path(name);
        Manager {
            tcp: TcpListener::bind("127.0.0.1:0").unwrap(),
            unix: UnixListener::bind(at("mistryd.sock")).unwrap(),
            notify: UnixDatagram::bind(at("notify")).unwrap(),
            home: home.path(""),
        }
    }

    pub fn over_tcp(&self) -> At {
        At::Tcp(self.tcp.local_addr().unwrap())
    }

    pub fn over_unix(&self) -> At {
        At::Unix(self.home.join("mistryd.sock"))
    }

    /// `mistryd` as systemd starts it: TCP first, the unix socket second.
    pub fn command(&self, home: &Home) -> Command {
        let tcp = OwnedFd::from(self.tcp.try_clone().unwrap());
        let unix = OwnedFd::from(self.unix.try_clone().unwrap());
        self.command_with(home, tcp, unix)
    }

    /// The same with other descriptors.
    pub fn command_with(&self, home: &Home, third: OwnedFd, fourth: OwnedFd) -> Command {
        self.passing(&[], home.mistryd(), third, fourth)
    }

    /// The same of a `mistryd` of one's own, which a program such as prlimit(1) executes.
    pub fn command_under(&self, program: &[&str], mistryd: Command) -> Command {
        let tcp = OwnedFd::from(self.tcp.try_clone().unwrap());
        let unix = OwnedFd::from(self.unix.try_clone().unwrap());
        self.passing(program, mistryd, tcp, unix)
    }

    fn passing(
        &self,
        program: &[&str],
        mistryd: Command,
        third: OwnedFd,
        fourth: OwnedFd,
    ) -> Command {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", PASS, "sh"])
            .args(program)
            .arg(mistryd.get_program())
            .args(mistryd.get_args())
            .env_clear()
            .envs(mistryd.get_envs().filter_map(|(k, v)| Some((k, v?))))
            .env("LISTEN_FDS", "2")
            .env("NOTIFY_SOCKET", self.home.join("notify"))
            .stdin(third)
            .stdout(fourth)
            .stderr(Stdio::null());
        command
    }

    /// Starts it.
    pub fn start(&self, home: &Home) -> Service {
        Service(self.command(home).spawn().unwrap())
    }

    /// Returns when a client waits to be accepted over TCP.
    pub async fn wait_for_client(&self) {
        let door = self.tcp.try_clone().unwrap();
        let waiting = tokio::task::spawn_blocking(move || {
            poll(&mut [PollFd::new(&door, PollFlags::IN)], None).unwrap();
        });
        within("a client", waiting).await.unwrap();
    }

    /// The next line of its notifications that begins with `wanted`.
    pub async fn notified(&self, wanted: &str) -> String {
        within(wanted, async {
            loop {
                let message = self.message().await;
                if let Some(line) = message.lines().find(|line| line.starts_with(wanted)) {
                    return line.to_owned();
                }
            }
        })
        .await
    }

    /// The next message, whatever it is.
    pub async fn message(&self) -> String {
        let mut message = vec![0; 4096];
        let length = self.notify.recv(&mut message).await.unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    /// All notifications that have not been read yet.
    pub fn notifications(&self) -> String {
        let (mut all, mut message) = (String::new(), vec![0; 4096]);
        while let Ok(length) = self.notify.try_recv(&mut message) {
            all.push_str(&String::from_utf8_lossy(&message[..length]));
        }
        all
    }

    /// Runs it to its end: its exit status, and what it said on standard error.
    pub async fn run(&self, mut command: Command) -> (i32, String) {
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        let waiting = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
        let output = within("the end of mistryd", waiting).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap_or(-1), said)
    }
}

impl Service {
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.0.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Its exit status, when it has ended by itself.
    pub async fn ended(mut self) -> i32 {
        let waiting = tokio::task::spawn_blocking(move || self.0.wait().unwrap());
        let status = within("the end of mistryd", waiting).await.unwrap();
        status.code().unwrap_or(-1)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

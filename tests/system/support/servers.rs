//! The servers of the transports rsync and scp, as a test's own.
//!
//! The test listens on loopback itself and gives each connection to a new `rsync --daemon` or
//! `sshd -i`, so that no port is guessed and nothing runs on.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A server, and the options with which `mistry` uses it.
pub struct Server {
    inetd: Inetd,
    pub arguments: Vec<String>,
}

impl Server {
    pub fn port(&self) -> u16 {
        self.inetd.port
    }
}

/// An rsync daemon with this configuration, written to `home`.
pub fn rsync(home: &Path, config: &str) -> Server {
    let path = home.join("rsyncd.conf");
    fs::write(&path, config).unwrap();
    // It sees that its standard input is a connection, and serves that one.
    let inetd = Inetd::start(move || {
        let mut command = Command::new("rsync");
        command
            .arg("--daemon")
            .arg(format!("--config={}", path.display()));
        command
    });
    let arguments = vec!["--rsync-port".to_owned(), inetd.port.to_string()];
    Server { inetd, arguments }
}

/// An ssh server for root with one key, both made now.
pub fn ssh(home: &Path) -> Server {
    ssh_for(home, 0)
}

/// The same, with a key that a user of this host may use.
pub fn ssh_for(home: &Path, user: u32) -> Server {
    let inetd = sshd(home);
    let (port, keys) = (inetd.port, home.join("keys"));
    let host = fs::read_to_string(keys.join("host.pub")).unwrap();
    fs::write(keys.join("known"), format!("[127.0.0.1]:{port} {host}")).unwrap();
    for name in ["", "client", "known"] {
        chown(keys.join(name), Some(user), None).unwrap();
    }
    let mut arguments = vec!["--transport-user".to_owned(), "root".to_owned()];
    for option in [
        format!("Port={port}"),
        format!("IdentityFile={}", keys.join("client").display()),
        format!("UserKnownHostsFile={}", keys.join("known").display()),
        "IdentitiesOnly=yes".to_owned(),
        "StrictHostKeyChecking=yes".to_owned(),
        "BatchMode=yes".to_owned(),
    ] {
        arguments.extend(["--ssh-option".to_owned(), option]);
    }
    Server { inetd, arguments }
}

fn sshd(home: &Path) -> Inetd {
    let keys = home.join("keys");
    fs::create_dir(&keys).unwrap();
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o700)).unwrap();
    for name in ["host", "client"] {
        let mut command = Command::new("ssh-keygen");
        command
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(keys.join(name));
        assert!(command.status().unwrap().success());
    }
    let config = keys.join("sshd_config");
    let text = format!(
        "HostKey {keys}/host\nAuthorizedKeysFile {keys}/client.pub\nPidFile none\nUsePAM yes\n\
         StrictModes no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n\
         KbdInteractiveAuthentication no\nSubsystem sftp internal-sftp\nPrintMotd no\n",
        keys = keys.display()
    );
    fs::write(&config, text).unwrap();
    let mut server = Inetd::start(move || {
        // sshd starts itself again for each session and wants to be called by its whole path.
        let mut command = Command::new("/usr/sbin/sshd");
        command.arg("-i").arg("-f").arg(&config);
        command
    });
    server.separation = Some(Separation::hold());
    server
}

/// Listens on loopback and starts a program for each connection, which is its standard input and
/// output.
struct Inetd {
    port: u16,
    over: Arc<AtomicBool>,
    serving: Option<JoinHandle<()>>,
    separation: Option<Separation>,
}

impl Inetd {
    fn start(program: impl Fn() -> Command + Send + 'static) -> Inetd {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let over = Arc::new(AtomicBool::new(false));
        let ends = over.clone();
        let serving = std::thread::spawn(move || {
            let mut children = Vec::new();
            for stream in listener.incoming() {
                if ends.load(Ordering::SeqCst) {
                    break;
                }
                let stream = OwnedFd::from(stream.unwrap());
                let mut command = program();
                command.stdin(stream.try_clone().unwrap()).stdout(stream);
                children.push(command.stderr(Stdio::null()).spawn().unwrap());
            }
            // Each ends with its connection.
            children.iter_mut().for_each(|child| drop(child.wait()));
        });
        Inetd {
            port,
            over,
            serving: Some(serving),
            separation: None,
        }
    }
}

impl Drop for Inetd {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // One more connection, so that it notices.
        let _ = std::net::TcpStream::connect(("127.0.0.1", self.port));
        let served = self.serving.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || served.is_none_or(|served| served.is_ok()));
    }
}

/// The directory where OpenSSH separates privileges. The package's service makes it, and it may never
/// have run: then it is there as long as a test needs it.
struct Separation;

impl Separation {
    const PATH: &str = "/run/sshd";

    fn hold() -> Separation {
        let mut held = HOLDERS.lock().unwrap();
        if held.0 == 0 {
            held.1 = fs::create_dir(Separation::PATH).is_ok();
        }
        held.0 += 1;
        Separation
    }
}

/// How many hold it, and whether it was made.
static HOLDERS: Mutex<(usize, bool)> = Mutex::new((0, false));

impl Drop for Separation {
    fn drop(&mut self) {
        let mut held = HOLDERS.lock().unwrap();
        held.0 -= 1;
        if *held == (0, true) {
            let _ = fs::remove_dir(Separation::PATH);
        }
    }
}

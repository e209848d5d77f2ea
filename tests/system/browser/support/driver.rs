//! A chromedriver of a test's own, on a port that it chose itself.
//!
//! Promises that when it is dropped, it is gone with every process of its browsers and every file that
//! they wrote. For that it is the first process of a process namespace: with it the kernel ends all
//! others, and its home is removed when the last has ended.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tempfile::TempDir;

/// What it says when it listens; the port follows.
const LISTENS: &str = "started successfully on port ";

#[derive(Debug)]
pub struct Driver {
    address: String,
    /// What waits for the first process of the namespace.
    outer: Child,
    /// That first process.
    first: OwnedFd,
    /// Profiles, and whatever a browser leaves at home or among temporary files.
    home: TempDir,
}

/// The program that this variable names.
pub fn program(variable: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(program) => PathBuf::from(program),
        None => panic!("{variable} is not set: `make environment` installs a browser and says so"),
    }
}

impl Driver {
    /// Chromedriver takes a free port of IPv6 and then the same of IPv4, where another program may have
    /// it: then it is started anew.
    #[track_caller]
    pub fn start() -> Driver {
        let mut complaints = String::new();
        for _ in 0..3 {
            match Driver::start_once() {
                Ok(driver) => return driver,
                Err(complaint) if complaint.contains("Address already in use") => {
                    complaints = complaint;
                }
                Err(complaint) => panic!("chromedriver did not start: {complaint}"),
            }
        }
        panic!("chromedriver did not start: {complaints}");
    }

    fn start_once() -> Result<Driver, String> {
        let home = tempfile::Builder::new()
            .prefix("mistry-browser-")
            .tempdir()
            .unwrap();
        let complaints = home.path().join("complaints");
        // Ends with the thread that started it, so also when the tests are killed.
        let mut outer = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare"])
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg(program("MISTRY_TEST_CHROMEDRIVER"))
            .args(["--port=0", "--log-level=SEVERE"])
            .env("HOME", home.path())
            .env("TMPDIR", home.path())
            // The hour that pages show is the same on every host.
            .env("TZ", "UTC")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&complaints).unwrap())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(outer.stdout.take().unwrap()).lines();
        let mut said = lines.by_ref().map_while(Result::ok);
        let port = said.find_map(|line| {
            let (_, port) = line.split_once(LISTENS)?;
            Some(port.trim_end_matches('.').to_owned())
        });
        let Some(port) = port else {
            let _ = outer.kill();
            let (status, complaints) = (outer.wait(), std::fs::read_to_string(complaints));
            return Err(format!("{status:?}, {complaints:?}"));
        };
        // Its pipe must not fill up.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Driver {
            address: format!("127.0.0.1:{port}"),
            first: first_below(outer.id()),
            outer,
            home,
        })
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// A directory that no browser has used before.
    pub fn profile(&self) -> PathBuf {
        self.home.path().join("profile")
    }

    /// The processes that came from it, as this host numbers them.
    pub fn processes(&self) -> Vec<u32> {
        let mut found = vec![self.outer.id()];
        let mut seen = 0;
        while seen < found.len() {
            found.extend(children(found[seen]));
            seen += 1;
        }
        found
    }
}

fn first_below(process: u32) -> OwnedFd {
    let first = *children(process).first().expect("chromedriver runs");
    let first = Pid::from_raw(first.try_into().unwrap()).unwrap();
    pidfd_open(first, PidfdFlags::empty()).unwrap()
}

/// None where it has ended.
fn children(process: u32) -> Vec<u32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else {
        return Vec::new();
    };
    let lists = threads
        .flatten()
        .map(|thread| thread.path().join("children"));
    let lists = lists.filter_map(|list| std::fs::read_to_string(list).ok());
    let numbers = |list: String| -> Vec<u32> {
        let words = list.split_whitespace();
        words.map(|word| word.parse().unwrap()).collect()
    };
    lists.flat_map(numbers).collect()
}

impl Drop for Driver {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = pidfd_send_signal(&self.first, Signal::KILL);
        // The first process is waited for in vain until all others are gone.
        let _ = self.outer.wait();
    }
}

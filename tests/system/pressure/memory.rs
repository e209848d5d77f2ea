//! The memory of a process: a limit that would kill it, and its usage.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::word;

/// A cgroup whose processes have so many bytes and no more; removed when it is dropped.
#[derive(Debug)]
pub struct Limit(PathBuf);

impl Limit {
    /// Makes one. A host that has no cgroups for it fails the test.
    pub fn of(bytes: u64) -> Limit {
        let missing = |why: &str| -> ! {
            panic!(
                "the daemon cannot be given a memory limit ({why}): these tests need root and a \
                 cgroup v1 or v2 hierarchy with the memory controller, writable at /sys/fs/cgroup"
            )
        };
        let (parent, is_second) = match hierarchy() {
            Some(found) => found,
            None => missing("no mounted hierarchy has the memory controller"),
        };
        if is_second {
            // Where it is on already, as under systemd, this changes nothing.
            let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory");
        }
        let group = parent.join(format!("mistry-pressure-{}", word()));
        if let Err(error) = fs::create_dir(&group) {
            missing(&format!("'{}': {error}", group.display()));
        }
        let limit = Limit(group);
        let keys: &[&str] = match is_second {
            true => &["memory.max"],
            false => &["memory.limit_in_bytes"],
        };
        for key in keys {
            if let Err(error) = fs::write(limit.0.join(key), bytes.to_string()) {
                missing(&format!("'{}': {error}", limit.0.join(key).display()));
            }
        }
        // What is swapped out would not be seen.
        let swap = match is_second {
            true => ("memory.swap.max", "0".to_owned()),
            false => ("memory.memsw.limit_in_bytes", bytes.to_string()),
        };
        // Not there on a host without swap accounting.
        let _ = fs::write(limit.0.join(swap.0), swap.1);
        limit
    }

    /// Where a process writes its number to be in it.
    pub fn processes(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }

    /// True for a process that is in it.
    pub fn holds(&self, process: u32) -> bool {
        let listed = fs::read_to_string(self.processes()).unwrap();
        listed.lines().any(|line| line == process.to_string())
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        // Its processes have ended: the daemon is dropped before it.
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("'{}' is left: {error}", self.0.display());
        }
    }
}

/// The hierarchy with the memory controller, and whether it is of version 2.
fn hierarchy() -> Option<(PathBuf, bool)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = |is_wanted: &dyn Fn(&str, &str) -> bool| {
        mounts.lines().find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut after = after.split(' ');
            let (kind, options) = (after.next()?, after.nth(1)?);
            let at = before.split(' ').nth(4)?;
            is_wanted(kind, options).then(|| PathBuf::from(at))
        })
    };
    let first = mount(&|kind, options| {
        kind == "cgroup" && options.split(',').any(|option| option == "memory")
    });
    if let Some(at) = first {
        return Some((at, false));
    }
    let second = mount(&|kind, _| kind == "cgroup2")?;
    let controllers = fs::read_to_string(second.join("cgroup.controllers")).ok()?;
    let has_memory = controllers.split_whitespace().any(|name| name == "memory");
    has_memory.then_some((second, true))
}

/// What a process has in memory, in MiB.
#[derive(Clone, Copy, Debug)]
pub struct Resident {
    /// Now, and at its highest.
    pub now: f64,
    pub highest: f64,
    /// Of what is there now, that which is in no file.
    pub anonymous: f64,
}

/// As `/proc` says.
pub fn resident(process: u32) -> Resident {
    let status = Path::new("/proc").join(process.to_string()).join("status");
    let status = fs::read_to_string(status).expect("the daemon is the same process all the time");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|line| line.split_whitespace().next());
        kilobytes.unwrap().parse::<f64>().unwrap() / 1_024.0
    };
    Resident {
        now: field("VmRSS:"),
        highest: field("VmHWM:"),
        anonymous: field("RssAnon:"),
    }
}

/// Pages that the sockets of this host hold, in MiB: their memory is the kernel's.
pub fn sockets() -> f64 {
    let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap();
    let tcp = sockstat
        .lines()
        .find_map(|line| line.strip_prefix("TCP:"))
        .unwrap();
    let mut words = tcp.split_whitespace().skip_while(|word| *word != "mem");
    let pages: f64 = words.nth(1).unwrap().parse().unwrap();
    pages * 4_096.0 / f64::from(1 << 20)
}

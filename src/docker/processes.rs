//! Whether a container was refused a process because it had as many as its limit (`pids`) allows.
//!
//! The Engine does not report that. The kernel counts refusals in the file `pids.events` of the container's
//! cgroup, which is made while the container is started and removed some ten milliseconds after the end of
//! its last process. (It also notifies processes that watch the file, but with version 1 of cgroups only
//! since Linux 6.11.) So the count is read when the container prints something, and when the process ends
//! that the cgroup lists first: mostly once, at the end of the container's first process. If the Engine's
//! cgroups are not visible, as with an Engine in a container of its own, nothing is known.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::net::unix::pipe;
use tokio::task::JoinSet;

/// The root of the cgroups: all controllers of version 2, or a directory for each of version 1.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// The Engine's default parent where it makes the cgroups itself.
const ENGINE_PARENT: &str = "docker";
/// The Engine's default parent where systemd makes them.
const SYSTEMD_PARENT: &str = "system.slice";
/// podman's default parent where it makes the cgroups itself.
const PODMAN_PARENT: &str = "libpod_parent";
/// The kernel's count of refusals.
const EVENTS_FILE: &str = "pids.events";
/// The processes of a cgroup.
const PROCESSES_FILE: &str = "cgroup.procs";
/// Bytes of events that are read at once; the name in an event takes 272 at most.
const EVENT_BUFFER_BYTES: usize = 4 << 10;
/// How long to wait for the count of a container that has ended: it was read before the Engine knew of the
/// end, unless the host is very busy.
const COUNT_TIMEOUT: Duration = Duration::from_secs(1);

/// A watch over one container's limit of processes; it ends when dropped.
#[derive(Debug)]
pub struct ProcessWatch {
    task: JoinSet<bool>,
    /// The container's cgroup, once it is found.
    cgroup: Arc<OnceLock<PathBuf>>,
    was_refused: bool,
}

impl ProcessWatch {
    /// Watches a container that is about to be started or runs already. `slice` is the slice that systemd was
    /// asked to put it into. Must be called within a runtime.
    pub fn begin(container: &str, slice: &str) -> ProcessWatch {
        let root = Path::new(CGROUP_ROOT);
        // Only version 1 has a directory for each controller.
        let of_controller = root.join("pids");
        let root = match of_controller.is_dir() {
            true => of_controller,
            false => root.to_owned(),
        };
        ProcessWatch::over(cgroups(&root, container, slice))
    }

    fn over(cgroups: Vec<PathBuf>) -> ProcessWatch {
        let (mut task, cgroup) = (JoinSet::new(), Arc::new(OnceLock::new()));
        // The watch begins before the start; without an inotify instance from the host nothing is known.
        if let Some(changes) = Changes::begin(cgroups.iter().filter_map(|cgroup| cgroup.parent())) {
            task.spawn(watch(changes, cgroups, cgroup.clone()));
        }
        ProcessWatch {
            task,
            cgroup,
            was_refused: false,
        }
    }

    /// Reads the count while the container runs. On a busy host there may be no time for that at its end, and
    /// a process that was refused another mostly prints something then.
    pub fn read_count(&mut self) {
        if let Some(cgroup) = self.cgroup.get().filter(|_| !self.was_refused) {
            self.was_refused = has_refusals(cgroup);
        }
    }

    /// Whether the container, which has ended, was refused a process.
    pub async fn was_refused(mut self) -> bool {
        if self.was_refused || self.cgroup.get().is_none() {
            return self.was_refused;
        }
        let counted = tokio::time::timeout(COUNT_TIMEOUT, self.task.join_next()).await;
        matches!(counted, Ok(Some(Ok(true))))
    }
}

/// Follows a container's cgroup, which will be at one of `cgroups`, to its end: true as soon as a process was
/// refused. The files are in the kernel's memory, so reading them blocks no more than any system call.
async fn watch(mut changes: Changes, cgroups: Vec<PathBuf>, found: Arc<OnceLock<PathBuf>>) -> bool {
    let cgroup = loop {
        match cgroups
            .iter()
            .find(|cgroup| cgroup.join(PROCESSES_FILE).exists())
        {
            Some(cgroup) => break cgroup,
            None => changes.next().await,
        }
    };
    let cgroup = found.get_or_init(|| cgroup.clone());
    let processes = cgroup.join(PROCESSES_FILE);
    changes.add(&processes, WatchFlags::MODIFY);
    let mut has_begun = false;
    loop {
        let Ok(listed) = std::fs::read_to_string(&processes) else {
            return false;
        };
        let first = listed.lines().next().and_then(|line| line.parse().ok());
        match first.and_then(Pid::from_raw) {
            Some(process) => {
                has_begun = true;
                if let Ok(process) = pidfd_open(process, PidfdFlags::empty()) {
                    wait_for_exit(process).await;
                }
            }
            None if has_begun => return has_refusals(cgroup),
            // The first process is added by a write to the file.
            None => changes.next().await,
        }
        if has_refusals(cgroup) {
            return true;
        }
    }
}

/// Whether the kernel has counted refusals in a cgroup. A removed cgroup counts as none.
fn has_refusals(cgroup: &Path) -> bool {
    let count = std::fs::read_to_string(cgroup.join(EVENTS_FILE));
    refusals(&count.unwrap_or_default()) > 0
}

/// Waits until a process has ended.
async fn wait_for_exit(process: OwnedFd) {
    // A pidfd is no pipe, but becomes readable like one: tokio's own type for this needs unsafe code.
    if let Ok(process) = pipe::Receiver::from_owned_fd_unchecked(process) {
        // The end makes it readable.
        let _ = process.readable().await;
    }
}

/// Changes in some directories and files.
struct Changes {
    // Likewise.
    inotify: pipe::Receiver,
}

impl Changes {
    /// Watches for new entries in these directories; missing directories are skipped.
    fn begin<'a>(directories: impl Iterator<Item = &'a Path>) -> Option<Changes> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?;
        let inotify = pipe::Receiver::from_owned_fd_unchecked(inotify).ok()?;
        let changes = Changes { inotify };
        for directory in directories {
            changes.add(directory, WatchFlags::CREATE);
        }
        Some(changes)
    }

    fn add(&self, path: &Path, flags: WatchFlags) {
        // A missing path cannot change.
        let _ = inotify::add_watch(&self.inotify, path, flags);
    }

    /// Waits until something has changed; the caller finds out what.
    async fn next(&mut self) {
        let mut events = [0; EVENT_BUFFER_BYTES];
        while self.inotify.readable().await.is_ok() {
            match self.inotify.try_read(&mut events) {
                Ok(_) => return,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        std::future::pending().await
    }
}

/// The possible paths of a container's cgroup below `root`, by cgroup driver and slice.
fn cgroups(root: &Path, container: &str, slice: &str) -> Vec<PathBuf> {
    let scope = format!("docker-{container}.scope");
    let podman_scope = format!("libpod-{container}.scope");
    vec![
        root.join(ENGINE_PARENT).join(container),
        root.join(slice_path(slice)).join(&scope),
        root.join(SYSTEMD_PARENT).join(&scope),
        root.join(PODMAN_PARENT).join(format!("libpod-{container}")),
        root.join(slice_path(slice)).join(podman_scope),
    ]
}

/// The directory of a slice: `a-b.slice` is in `a.slice`.
fn slice_path(slice: &str) -> PathBuf {
    let name = slice.strip_suffix(".slice").unwrap_or(slice);
    let ends = name.match_indices('-').map(|(at, _)| at);
    ends.chain([name.len()])
        .map(|end| format!("{}.slice", &name[..end]))
        .collect()
}

/// The number of refusals in the text of a `pids.events`.
fn refusals(text: &str) -> u64 {
    let mut lines = text.lines();
    let count = lines.find_map(|line| line.strip_prefix("max "));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_inside_the_slices_of_its_prefixes() {
        for (slice, path) in [
            ("mistry-builds.slice", "mistry.slice/mistry-builds.slice"),
            ("a.slice", "a.slice"),
            ("a-b-c.slice", "a.slice/a-b.slice/a-b-c.slice"),
        ] {
            assert_eq!(slice_path(slice), Path::new(path));
        }
    }

    /// The files are ordinary ones here; those of a kernel are in `tests/system/confinement.rs`.
    #[tokio::test]
    async fn a_refused_process_is_detected_wherever_and_whenever_the_cgroup_is_created() {
        for (at, is_late) in [(0, false), (1, false), (2, false), (3, false), (1, true)] {
            let root = tempfile::tempdir().unwrap();
            let cgroups = cgroups(root.path(), "c0ffee", "a-b.slice");
            let cgroup = cgroups[at].clone();
            std::fs::create_dir_all(cgroup.parent().unwrap()).unwrap();
            let write = |name: &str, text: String| std::fs::write(cgroup.join(name), text).unwrap();
            let make = || {
                std::fs::create_dir(&cgroup).unwrap();
                write(PROCESSES_FILE, String::new());
                write(EVENTS_FILE, "max 0\n".to_owned());
            };
            if is_late {
                make();
            }
            let watch = ProcessWatch::over(cgroups.clone());
            tokio::task::yield_now().await;
            if !is_late {
                make();
            }
            let mut process = std::process::Command::new("cat")
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            write(PROCESSES_FILE, format!("{}\n", process.id()));
            while watch.cgroup.get().is_none() {
                tokio::task::yield_now().await;
            }
            write(EVENTS_FILE, "max 3\n".to_owned());
            drop(process.stdin.take());
            process.wait().unwrap();
            assert!(watch.was_refused().await, "{cgroup:?}");
        }
    }

    #[tokio::test]
    async fn without_a_visible_cgroup_refused_processes_are_unknown() {
        let root = tempfile::tempdir().unwrap();
        let watch = ProcessWatch::over(cgroups(root.path(), "c0ffee", "a.slice"));
        tokio::task::yield_now().await;
        assert!(!watch.was_refused().await);
    }
}

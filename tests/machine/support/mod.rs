//! Support for the tests on the machine: the machine that `make environment` has booted, entered as root
//! or as a user, with its journal, its units and its sockets.
//!
//! Promises that each test finds the machine in the same state, whatever the one before it did or left
//! undone, that one test has it at a time, and that tests wait for events only.

mod build;
mod http;
mod journal;
mod shell;
mod unit;

pub use build::Project;
pub use http::{ask, send, try_ask};
pub use journal::Record;
pub use shell::{Ran, Running};

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// A test that hangs shall fail: nothing that is waited for here takes longer on the slowest host. A machine
/// that is emulated is slower.
pub fn test_timeout() -> Duration {
    Duration::from_secs(if is_emulated() { 600 } else { 60 })
}

/// Whether this runs in the virtual machine itself.
pub fn is_emulated() -> bool {
    std::env::var_os("MISTRY_TEST_EMULATED").is_some()
}

/// Where the daemon listens for local users.
pub const SOCKET: &str = "/run/mistry/mistryd.sock";
/// … and for others.
pub const ADDRESS: &str = "127.0.0.1:8462";
/// The `mistryd` of this build, with its fault points, as the machine knows it.
pub const DEBUG_DAEMON: &str = "/usr/local/sbin/mistryd-debug";

/// Says which packages are installed, whole and unchanged.
const WHOLE: &str = "/run/mistry-test/whole";

/// One test has the machine at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// The machine.
#[derive(Debug)]
pub struct Machine {
    _alone: MutexGuard<'static, ()>,
    /// Its first process, as the host knows it.
    leader: u32,
    /// When the test began.
    since: String,
}

impl Machine {
    /// With the packages installed as they come, the socket listening and no daemon; nothing has
    /// been built, and the user `member` is in group `mistry`.
    #[track_caller]
    pub fn installed() -> Machine {
        let machine = Machine::enter();
        machine.run("mkdir -p /run/mistry-test");
        // A change of the packages removes this file first.
        let known = fs::read_to_string(machine.path(WHOLE)).unwrap_or_default();
        let wanted = Packages::First.fingerprint();
        if known != wanted {
            machine.purge();
            machine.install(Packages::First);
            machine.complete();
            machine.write(WHOLE, &wanted);
        }
        machine.reset();
        machine
    }

    /// What tests need besides the packages: the user `member` in the group, and the shipped configuration.
    pub fn complete(&self) {
        self.run(
            "usermod -aG mistry member
            cp -a /etc/mistry/config.json /run/mistry-test/config.json",
        );
    }

    /// The packages will be changed: the next test installs them anew, however this one ends.
    pub fn changing(&self) {
        self.run(&format!("rm -f {WHOLE}"));
    }

    /// Without anything of mistry. The caller may leave it as it likes.
    #[track_caller]
    pub fn uninstalled() -> Machine {
        let machine = Machine::enter();
        machine.run("mkdir -p /run/mistry-test");
        machine.changing();
        machine.purge();
        machine
    }

    #[track_caller]
    fn enter() -> Machine {
        // A test that failed has left the machine to the next.
        let alone = ALONE.lock().unwrap_or_else(|broken| broken.into_inner());
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests enter a booted machine, so they run as root, as `make test` does"
        );
        let leader = environment("MISTRY_TEST_MACHINE");
        let leader = leader.to_str().and_then(|text| text.parse().ok());
        let leader = leader.expect("MISTRY_TEST_MACHINE is the number of a process");
        let comm = fs::read_to_string(format!("/proc/{leader}/comm")).unwrap_or_default();
        assert_eq!(
            comm.trim(),
            "systemd",
            "the machine of MISTRY_TEST_MACHINE is gone: `make clean-environment environment` boots another"
        );
        let mut machine = Machine {
            _alone: alone,
            leader,
            since: String::new(),
        };
        machine.revive();
        machine.since = machine.now();
        machine
    }

    /// What a test stopped, or took from the machine, is there again; what it began is gone. A
    /// client that goes on asking would start the daemon before the next test has set the scene.
    fn revive(&self) {
        self.run(
            "for process in /proc/[0-9]*; do
                if grep -qzs '^MISTRY_TEST_RUN=@' $process/environ; then
                    kill -KILL ${process#/proc/} || :
                fi
            done
            systemctl kill --signal=CONT systemd-journald.service mistryd.service 2> /dev/null || :
            systemctl unmask --runtime --quiet docker.service docker.socket
            # It is not started more than three times a minute.
            systemctl reset-failed docker.service docker.socket 2> /dev/null || :
            systemctl start docker.socket docker.service",
        );
    }

    /// As after the installation.
    #[track_caller]
    fn reset(&self) {
        self.run(
            "systemctl stop mistryd.socket mistryd.service
            rm -rf /run/systemd/system/mistryd.s* /etc/systemd/system/mistryd.s*
            systemctl daemon-reload
            systemctl reset-failed
            rm -rf /etc/mistry/config.json
            cp -a /run/mistry-test/config.json /etc/mistry/config.json
            truncate -s 0 /etc/mistry/tokens
            chown root:mistry /etc/mistry/tokens
            chmod 0640 /etc/mistry/tokens
            docker ps -aq --filter label=mistry.instance | xargs -r docker rm -f > /dev/null
            docker images -aq --filter label=mistry.instance | sort -u |
                xargs -r docker rmi -f > /dev/null 2>&1 || :
            find /var/lib/mistry/projects /srv/builds -mindepth 1 -delete
            find /home/member /home/outsider -mindepth 1 -maxdepth 1 ! -name '.*' -exec rm -rf {} +
            systemctl start mistryd.socket",
        );
    }

    /// Removes all of mistry, also files of administrators.
    #[track_caller]
    fn purge(&self) {
        self.run(
            "export DEBIAN_FRONTEND=noninteractive
            systemctl stop mistryd.socket mistryd.service 2> /dev/null || :
            apt-get purge -qq -y mistryd mistry > /dev/null 2>&1 || :
            find /var/lib/mistry /srv/builds -xdev -mindepth 1 -delete 2> /dev/null || :
            rm -rf /etc/mistry /run/mistry /etc/systemd/system/mistryd.s*
            rm -rf /run/systemd/system/mistryd.s*
            gpasswd -d member mistry > /dev/null 2>&1 || :
            systemctl daemon-reload
            systemctl reset-failed",
        );
    }

    /// Installs both packages, as an administrator does.
    #[track_caller]
    pub fn install(&self, packages: Packages) {
        let ran = self.attempt(&self.install_command(packages));
        assert_eq!(ran.status, 0, "{ran}");
    }

    /// Brings packages to the machine; returns what installs them.
    #[track_caller]
    pub fn install_command(&self, packages: Packages) -> String {
        let to = "/var/tmp/mistry-debs";
        let there = self.path(to);
        let _ = fs::remove_dir_all(&there);
        fs::create_dir_all(&there).unwrap();
        for file in packages.files() {
            fs::copy(&file, there.join(file.file_name().unwrap())).unwrap();
        }
        format!(
            "cd {to} && DEBIAN_FRONTEND=noninteractive \
            apt-get install -q -y ./mistryd_*.deb ./mistry_*.deb"
        )
    }

    /// The version of a package, if it is installed.
    pub fn version(&self, package: &str) -> Option<String> {
        let ran = self.attempt(&format!(
            "dpkg-query -W -f '${{db:Status-Status}} ${{Version}}' {package}"
        ));
        ran.stdout.strip_prefix("installed ").map(str::to_owned)
    }

    /// A path of the machine, as the host reaches it.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        let path = path.strip_prefix("/").unwrap_or(path);
        Path::new(&format!("/proc/{}/root", self.leader)).join(path)
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("'{path}': {error}"))
    }

    /// Lines of an administrator for a unit, such as `[Service]\nRestart=no`.
    pub fn drop_in(&self, unit: &str, lines: &str) {
        self.write(&format!("/run/systemd/system/{unit}.d/test.conf"), lines);
        self.run("systemctl daemon-reload");
    }

    /// The service runs the daemon of this build, with the fault points `faults`; `more` are
    /// other lines of its section.
    pub fn run_debug_daemon(&self, faults: &str, more: &str) {
        let daemon = self.path(DEBUG_DAEMON);
        fs::copy(env!("CARGO_BIN_EXE_mistryd"), daemon).unwrap();
        let start = self.property("mistryd.service", "ExecStart");
        // `{ path=… ; argv[]=/usr/sbin/mistryd --config … ; ignore_errors=no ; … }`
        let arguments = start.split("argv[]=").nth(1).unwrap();
        let arguments = arguments.split(" ;").next().unwrap();
        let arguments = arguments.replacen("/usr/sbin/mistryd", DEBUG_DAEMON, 1);
        self.drop_in(
            "mistryd.service",
            &format!("[Service]\nExecStart=\nExecStart={arguments}\nEnvironment=MISTRY_FAULTS={faults}\n{more}"),
        );
    }

    /// Changes keys of the shipped configuration; `null` removes one.
    pub fn configure(&self, keys: serde_json::Value) {
        let shipped = self.read("/run/mistry-test/config.json");
        let mut config: serde_json::Value = serde_json::from_str(&shipped).unwrap();
        let config = config.as_object_mut().unwrap();
        for (key, value) in keys.as_object().unwrap() {
            match value {
                serde_json::Value::Null => config.remove(key),
                value => config.insert(key.clone(), value.clone()),
            };
        }
        let config = serde_json::to_string_pretty(config).unwrap();
        self.write("/etc/mistry/config.json", &config);
    }
}

/// Packages, by where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packages {
    /// Those of this version.
    First,
    /// Test builds that say they are the next version, to upgrade to.
    Next,
}

impl Packages {
    /// The two files.
    #[track_caller]
    pub fn files(self) -> Vec<PathBuf> {
        let place = environment(match self {
            Packages::First => "MISTRY_TEST_DEBS",
            Packages::Next => "MISTRY_TEST_DEBS_NEXT",
        });
        let entries = fs::read_dir(&place).map(|all| all.map(|entry| entry.unwrap().path()));
        let files: Vec<_> = match entries {
            Ok(paths) => paths
                .filter(|path| path.extension().is_some_and(|kind| kind == "deb"))
                .collect(),
            Err(_) => Vec::new(),
        };
        assert_eq!(
            files.len(),
            2,
            "the packages are not in '{}': `make environment` builds them",
            place.display()
        );
        files
    }

    /// Differs when they were built anew.
    #[track_caller]
    fn fingerprint(self) -> String {
        let lines = self.files().into_iter().map(|file| {
            let changed = fs::metadata(&file).and_then(|facts| facts.modified());
            format!("{} {:?}\n", file.display(), changed.unwrap())
        });
        lines.collect()
    }

    /// Their version.
    #[track_caller]
    pub fn version(self) -> String {
        let files = self.files();
        let name = files[0].file_name().and_then(|name| name.to_str());
        // `mistryd_0.1.0_amd64.deb`
        name.and_then(|name| name.split('_').nth(1))
            .unwrap()
            .to_owned()
    }
}

/// The path that `make environment` exports in this variable.
#[track_caller]
pub fn environment(variable: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(place) => PathBuf::from(place),
        None => panic!(
            "{variable} is not set: `make environment` brings up what it names and prints it"
        ),
    }
}

/// Runs `work` once for each of `count`, all at the same time; returns what each has returned.
pub fn at_once<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..count)
            .map(|number| scope.spawn(move || work(number)))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

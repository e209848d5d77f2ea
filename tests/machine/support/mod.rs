//! What the tests of the whole machine stand on: the machine that `make worlds` has booted, entered
//! as root or as a user, and its journal, its units and its sockets seen from here.
//!
//! Promises that every test finds the machine in the same state, whatever the one before it did or
//! left undone, that one test has it at a time, and that what is waited for is an event.

mod build;
mod http;
mod journal;
mod shell;
mod unit;

pub use http::{ask, try_ask};
pub use journal::Record;
pub use shell::Running;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// A test that hangs shall fail: nothing that is waited for here takes longer on the slowest host.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Where the daemon listens for local users.
pub const SOCKET: &str = "/run/mistry/mistryd.sock";
/// … and for others.
pub const ADDRESS: &str = "127.0.0.1:8462";
/// The `mistryd` of this build, with its fault points, as the machine knows it.
pub const DEBUG_DAEMON: &str = "/usr/local/sbin/mistryd-debug";

/// One test has the machine at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// The machine.
#[derive(Debug)]
pub struct Machine {
    _alone: MutexGuard<'static, ()>,
    /// Its first process, as the host knows it.
    leader: u32,
    /// The end of the journal when the test began.
    cursor: String,
}

impl Machine {
    /// With the packages installed as they come, the socket listening and no daemon; nothing has
    /// been built, and the user `member` is in group `mistry`.
    #[track_caller]
    pub fn installed() -> Machine {
        let machine = Machine::enter();
        machine.run("mkdir -p /run/mistry-test");
        let version = machine.version("mistryd");
        let whole = machine.attempt("test -e /run/mistry-test/whole").status == 0;
        if version.as_deref() != Some(FIRST) || !whole {
            machine.purge();
            machine.install(FIRST);
            // Only now: what is half installed is installed again by the next test.
            machine.run(
                "usermod -aG mistry member
                cp -a /etc/mistry/config.json /run/mistry-test/config.json
                touch /run/mistry-test/whole",
            );
        }
        machine.reset();
        machine
    }

    /// The packages will be changed: the next test installs them anew, however this one ends.
    pub fn changing(&self) {
        self.run("rm -f /run/mistry-test/whole");
    }

    /// Without anything of mistry. Whoever calls this may leave it as it likes.
    #[track_caller]
    pub fn bare() -> Machine {
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
        let leader = world("MISTRY_TEST_MACHINE");
        let leader = leader.to_str().and_then(|text| text.parse().ok());
        let leader = leader.expect("MISTRY_TEST_MACHINE is the number of a process");
        let comm = fs::read_to_string(format!("/proc/{leader}/comm")).unwrap_or_default();
        assert_eq!(
            comm.trim(),
            "systemd",
            "the machine of MISTRY_TEST_MACHINE is gone: `make clean-worlds worlds` boots another"
        );
        let mut machine = Machine {
            _alone: alone,
            leader,
            cursor: String::new(),
        };
        machine.revive();
        machine.cursor = machine.journal_end();
        machine
    }

    /// What a test stopped, or took from the machine, is there again.
    fn revive(&self) {
        self.run(
            "systemctl kill --signal=CONT systemd-journald.service mistryd.service 2> /dev/null || :
            systemctl unmask --runtime --quiet docker.service docker.socket
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

    /// Nothing of mistry is left, not even what people put there.
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

    /// Installs both packages of a version, as an administrator does.
    #[track_caller]
    pub fn install(&self, version: &str) {
        let ran = self.attempt(&self.install_command(version));
        assert_eq!(ran.status, 0, "{ran}");
    }

    /// Brings the packages of a version to the machine; returns what installs them.
    pub fn install_command(&self, version: &str) -> String {
        let from = match version {
            FIRST => world("MISTRY_TEST_DEBS"),
            _ => world("MISTRY_TEST_DEBS_NEXT"),
        };
        let to = Path::new("/var/tmp/mistry-debs").join(version);
        let there = self.path(&to);
        fs::create_dir_all(&there).unwrap();
        let mut brought = 0;
        for entry in fs::read_dir(&from).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if name.contains(&format!("_{version}_")) && name.ends_with(".deb") {
                fs::copy(entry.path(), there.join(name)).unwrap();
                brought += 1;
            }
        }
        assert_eq!(
            brought,
            2,
            "the packages of {version} in '{}': `make worlds` builds them",
            from.display()
        );
        format!(
            "cd {} && DEBIAN_FRONTEND=noninteractive apt-get install -q -y ./mistryd_*.deb ./mistry_*.deb",
            to.display()
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

    /// The service runs the daemon of this build, with its fault points, told `faults`; `more` are
    /// other lines of its section.
    pub fn wedge(&self, faults: &str, more: &str) {
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

/// The version that is installed, and the one that it is upgraded to.
pub const FIRST: &str = "0.1.0";
pub const NEXT: &str = "0.1.1";

/// What `make worlds` says in this variable.
#[track_caller]
pub fn world(variable: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(place) => PathBuf::from(place),
        None => panic!("{variable} is not set: `make worlds` brings up what it names, and says so"),
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

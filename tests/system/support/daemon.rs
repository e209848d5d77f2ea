//! A `mistryd` of a test's own, with its projects, its build path and its objects in the Engine.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::engine::Engine;
use super::http::{self, Answer, TEST_TIMEOUT};
use super::{Home, Place, environment, word};

/// The label of all that is made from the projects of one test, layers and left-overs included.
const LABEL: &str = "mistry.test-daemon";
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/projects");

/// What the daemon will find when it starts.
#[derive(Debug)]
pub struct Setup {
    home: Home,
    place: Place,
    config: Value,
    docker_host: Option<String>,
    user: Option<(u32, u32)>,
    environment: Vec<(String, String)>,
    program: Option<PathBuf>,
    group: Option<PathBuf>,
    word: String,
}

/// A shell that enters a cgroup, and hands on a unix socket and a TCP socket as systemd does.
const ENTER: &str = "echo $$ > \"$1\" && shift && export LISTEN_PID=$$ && \
    exec \"$@\" 3<&0 4<&1 0</dev/null 1>/dev/null";

impl Setup {
    pub fn on(place: Place) -> Setup {
        let home = Home::on(place);
        for name in ["projects", "builds"] {
            fs::create_dir(home.join(name)).unwrap();
        }
        Setup {
            config: json!({
                "projects_path": "projects",
                "build_path": "builds",
                "filesystem": place.kind(),
                "job_concurrency": 4,
            }),
            home,
            place,
            docker_host: std::env::var("DOCKER_HOST").ok(),
            user: None,
            environment: Vec::new(),
            program: None,
            group: None,
            word: word(),
        }
    }

    /// A daemon of its own with the very same projects.
    pub fn beside(other: &Daemon) -> Setup {
        let mut setup = Setup::on(other.setup.place);
        setup.word.clone_from(&other.setup.word);
        setup
    }

    /// Sets keys of the configuration.
    pub fn config(mut self, keys: Value) -> Setup {
        let keys = keys.as_object().unwrap().clone();
        self.config.as_object_mut().unwrap().extend(keys);
        self
    }

    /// The Engine is looked for there.
    pub fn docker_host(mut self, host: String) -> Setup {
        self.docker_host = Some(host);
        self
    }

    /// The daemon runs as this user and group, and no other group; all is theirs.
    pub fn user(mut self, user: u32, group: u32) -> Setup {
        self.user = Some((user, group));
        self
    }

    /// A variable in the environment of the daemon.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Setup {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Another program than the one that is built with the tests.
    pub fn program(mut self, program: PathBuf) -> Setup {
        self.program = Some(program);
        self
    }

    /// The daemon enters a cgroup by writing to this file, and serves a unix socket as well as TCP.
    pub fn in_group(mut self, processes: PathBuf) -> Setup {
        self.group = Some(processes);
        self
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// A copy of a project of the fixtures.
    pub fn fixture(self, name: &str) -> Setup {
        let from = Path::new(FIXTURES).join(name);
        let to = self.home.join("projects").join(name);
        fs::create_dir(&to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
        self.add_busybox_and_label(&to);
        self
    }

    /// A project whose container runs this script of busybox, in /data.
    pub fn script(self, name: &str, script: &str) -> Setup {
        let to = self.home.join("projects").join(name);
        fs::create_dir(&to).unwrap();
        let dockerfile = "FROM scratch\nCOPY busybox /bin/busybox\nCOPY run.sh /run.sh\n\
            ENTRYPOINT [\"/bin/busybox\", \"sh\", \"/run.sh\"]\n";
        fs::write(to.join("Dockerfile"), dockerfile).unwrap();
        let script = format!("set -eu\ncd /data\n{script}");
        fs::write(to.join("run.sh"), script).unwrap();
        self.add_busybox_and_label(&to);
        self
    }

    /// A project as it is, but with its base image replaced.
    pub fn project(self, from: &Path, base: Option<(&str, &str)>) -> Setup {
        let to = self.home.join("projects").join(from.file_name().unwrap());
        fs::create_dir(&to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
        if let Some((was, is)) = base {
            let dockerfile = fs::read_to_string(to.join("Dockerfile")).unwrap();
            assert!(dockerfile.contains(was), "{dockerfile}");
            fs::write(to.join("Dockerfile"), dockerfile.replace(was, is)).unwrap();
        }
        self
    }

    /// Gives a project its busybox, and its image the label that all of one test carries: so even
    /// layers that a failed image build has left are found, and no layer is shared with another
    /// test, which would remove it at a bad moment.
    fn add_busybox_and_label(&self, project: &Path) {
        fs::copy(environment("MISTRY_TEST_BUSYBOX"), project.join("busybox")).unwrap();
        let file = project.join("Dockerfile");
        let dockerfile = fs::read_to_string(&file).unwrap();
        let label = format!("FROM scratch\nLABEL {LABEL}={}\n", self.word);
        fs::write(file, dockerfile.replace("FROM scratch\n", &label)).unwrap();
    }

    /// Starts the daemon and waits until it serves.
    #[track_caller]
    pub fn start(self) -> Daemon {
        fs::write(self.home.join("config.json"), self.config.to_string()).unwrap();
        let built = || PathBuf::from(env!("CARGO_BIN_EXE_mistryd"));
        let mut program = self.program.clone().unwrap_or_else(built);
        if let Some((user, group)) = self.user {
            // The repository may be where no other user can get to.
            let copy = self.home.join("mistryd");
            // Not by this process: what another test starts meanwhile would inherit the open file, and a
            // program that is open for writing cannot be started.
            let copied = Command::new("cp").arg(&program).arg(&copy).status();
            assert!(copied.unwrap().success());
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
            program = copy;
            chown(self.home.path(), Some(user), Some(group)).unwrap();
            chown(self.home.join("builds"), Some(user), Some(group)).unwrap();
        }
        let mut daemon = Daemon {
            setup: self,
            program,
            running: None,
        };
        daemon.start();
        daemon
    }
}

#[derive(Debug)]
struct Running {
    child: Child,
    address: String,
    log: Arc<Mutex<String>>,
}

/// A daemon. When it is dropped it is killed, and nothing of it is left.
#[derive(Debug)]
pub struct Daemon {
    setup: Setup,
    program: PathBuf,
    running: Option<Running>,
}

impl Daemon {
    /// Starts it, again.
    #[track_caller]
    pub fn start(&mut self) {
        self.start_at("127.0.0.1:0", "");
    }

    /// Starts it at an address, to fail where `MISTRY_FAULTS` says.
    #[track_caller]
    pub fn start_at(&mut self, address: &str, faults: &str) {
        assert!(self.running.is_none());
        let mut command = match &self.setup.group {
            Some(processes) => self.mistryd_in(processes),
            None => self.mistryd(),
        };
        if self.setup.group.is_none() {
            command.args(["--addr", address]);
        }
        command.env("MISTRY_FAULTS", faults);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let ready = listen(&mut child, log.clone());
        let serves = ready.recv_timeout(TEST_TIMEOUT).is_ok();
        if !serves {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("mistryd did not start: {}", log.lock().unwrap());
        }
        let address = {
            let log = log.lock().unwrap();
            let at = log.split("serving on http://").nth(1).unwrap();
            at.split([';', ' ']).next().unwrap().to_owned()
        };
        self.running = Some(Running {
            child,
            address,
            log,
        });
    }

    /// Notices its end, if it was not asked for: a descriptor of its process that becomes
    /// readable then.
    pub fn watch(&self) -> OwnedFd {
        let process = rustix::process::Pid::from_child(&self.running().child);
        rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).unwrap()
    }

    /// `mistryd --config …`, as this daemon is started.
    pub fn mistryd(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--config")
            .arg(self.setup.home.join("config.json"));
        command.current_dir(self.setup.home.path());
        command.stdin(Stdio::null());
        // Whatever bus this host has is not for tests.
        command.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus");
        for (name, value) in &self.setup.environment {
            command.env(name, value);
        }
        match &self.setup.docker_host {
            Some(host) => command.env("DOCKER_HOST", host),
            None => command.env_remove("DOCKER_HOST"),
        };
        if let Some((user, group)) = self.setup.user {
            // As root, this leaves all other groups as well.
            command.uid(user).gid(group);
        }
        command
    }

    /// The same in a cgroup, with sockets as systemd hands them on.
    fn mistryd_in(&self, processes: &Path) -> Command {
        let mistryd = self.mistryd();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let unix = std::os::unix::net::UnixListener::bind(self.socket()).unwrap();
        // As many as systemd has waiting; what std asks for is less.
        rustix::net::listen(&tcp, 4_096).unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", ENTER, "sh"]).arg(processes);
        command
            .arg(mistryd.get_program())
            .args(mistryd.get_args())
            .current_dir(self.setup.home.path())
            .env("LISTEN_FDS", "2")
            .stdin(OwnedFd::from(tcp))
            .stdout(OwnedFd::from(unix));
        for (name, value) in mistryd.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// Where its unix socket is, if it has one.
    pub fn socket(&self) -> PathBuf {
        self.setup.home.join("mistryd.sock")
    }

    /// Asks over the unix socket.
    #[track_caller]
    pub fn ask_socket(&self, method: &str, path: &str) -> Answer {
        let headers = [("accept", "application/json, */*;q=0.5")];
        http::ask_socket(&self.socket(), method, path, &headers, b"")
    }

    /// Sends JSON over the unix socket; the answer.
    #[track_caller]
    pub fn ask_socket_json(&self, method: &str, path: &str, body: &Value) -> Value {
        let headers = [("content-type", "application/json")];
        let body = body.to_string();
        http::ask_socket(&self.socket(), method, path, &headers, body.as_bytes()).json()
    }

    /// `kill -9` while it is watched: the process stays in our hands.
    pub fn signal_kill(&self) {
        let process = rustix::process::Pid::from_child(&self.running().child);
        rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.child.kill().unwrap();
            running.child.wait().unwrap();
        }
    }

    /// Asks it to end, and waits for that.
    #[track_caller]
    pub fn end(&mut self) -> ExitStatus {
        let log = self.running().log.clone();
        let status = self.end_somehow();
        assert!(status.success(), "{status}: {}", log.lock().unwrap());
        status
    }

    /// The same, for one that may be killed meanwhile.
    pub fn end_somehow(&mut self) -> ExitStatus {
        let mut running = self.running.take().unwrap();
        let process = rustix::process::Pid::from_child(&running.child);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
        running.child.wait().unwrap()
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("the daemon runs")
    }

    pub fn address(&self) -> &str {
        &self.running().address
    }

    pub fn port(&self) -> &str {
        self.address().rsplit_once(':').unwrap().1
    }

    pub fn process(&self) -> u32 {
        self.running().child.id()
    }

    /// What it has said on standard error since it started.
    pub fn log(&self) -> String {
        self.running().log.lock().unwrap().clone()
    }

    pub fn home(&self) -> &Path {
        self.setup.home.path()
    }

    pub fn builds(&self) -> PathBuf {
        self.setup.home.join("builds")
    }

    pub fn project(&self, name: &str) -> PathBuf {
        self.setup.home.join("projects").join(name)
    }

    /// Where a build is when it is over.
    pub fn ready(&self, project: &str, id: &str) -> PathBuf {
        self.builds().join(project).join("ready").join(id)
    }

    pub fn pending(&self, project: &str, id: &str) -> PathBuf {
        self.builds().join(project).join("pending").join(id)
    }

    /// Its label on containers and images.
    pub fn label(&self) -> String {
        let instance = fs::read_to_string(self.builds().join(".mistry/instance")).unwrap();
        format!("mistry.instance={}", instance.trim())
    }

    /// The label of all that is made from its projects: steps of image builds, too.
    pub fn mark(&self) -> String {
        format!("{LABEL}={}", self.setup.word)
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        let headers = [("accept", "application/json, */*;q=0.5")];
        http::ask(self.address(), "GET", path, &headers, b"")
    }

    /// A page of the web view.
    pub fn page(&self, path: &str) -> Answer {
        http::ask(self.address(), "GET", path, &[("accept", "text/html")], b"")
    }

    /// `GET` without headers: of artifacts, their tar.
    pub fn get_plain(&self, path: &str) -> Answer {
        http::ask(self.address(), "GET", path, &[], b"")
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        let headers = [
            ("content-type", "application/json"),
            ("accept", "application/json"),
        ];
        http::ask(
            self.address(),
            "POST",
            path,
            &headers,
            body.to_string().as_bytes(),
        )
    }

    /// Asks for a job and waits for its build: the build info.
    #[track_caller]
    pub fn build(&self, job: Value) -> Value {
        let answer = self.post("/jobs", &job);
        assert_eq!(
            answer.status,
            201,
            "{job}: {}\n{}",
            answer.text(),
            self.log()
        );
        answer.json()
    }

    /// The same, for a build that must succeed.
    #[track_caller]
    pub fn succeed(&self, job: Value) -> Value {
        let info = self.build(job);
        assert_eq!(info["Outcome"], "succeeded", "{info:#}\n{}", self.log());
        info
    }

    /// Asks for a job and does not wait; its id.
    #[track_caller]
    pub fn submit(&self, job: Value) -> String {
        let answer = self.post("/jobs?async", &job);
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()["ID"].as_str().unwrap().to_owned()
    }

    /// The build info of a job, when its build is over.
    #[track_caller]
    pub fn wait(&self, project: &str, id: &str) -> Value {
        let answer = self.get(&format!("/job/{project}/{id}?wait"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["BuildInfo"].clone()
    }

    /// Waits until a build has printed something.
    #[track_caller]
    pub fn until(&self, project: &str, id: &str, printed: &str) {
        http::follow(self.address(), &format!("/log/{project}/{id}"), printed);
    }

    /// The same, from a byte of the log on.
    pub fn until_from(&self, project: &str, id: &str, from: usize, printed: &str) {
        let path = format!("/log/{project}/{id}?text&follow&from={from}");
        http::follow(self.address(), &path, printed);
    }

    /// Lets a build of the fixture `slow` go on, once it waits.
    pub fn release(&self, project: &str, id: &str) {
        let gate = self.pending(project, id).join("data/gate");
        // Opening waits for the build's own end of it; nothing is written, which means 0.
        drop(fs::File::options().write(true).open(gate).unwrap());
    }

    /// Runs `mistry VERB …` against this daemon.
    pub fn mistry(&self, arguments: &[&str]) -> Output {
        self.client(arguments).output().unwrap()
    }

    /// The same, not run yet.
    pub fn client(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mistry"));
        let (verb, rest) = arguments.split_first().unwrap();
        command
            .args([verb, "--host", "127.0.0.1", "--port", self.port()])
            .args(rest);
        command
            .env_remove("MISTRY_URL")
            .env_remove("MISTRY_TOKEN_FILE");
        command
            .current_dir(self.setup.home.path())
            .stdin(Stdio::null());
        command
    }
}

/// Keeps what the daemon says, and sends word when it serves.
fn listen(child: &mut Child, log: Arc<Mutex<String>>) -> Receiver<()> {
    let (serves, ready) = channel();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    // Ends with the daemon.
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let ready = line.contains("serving on");
            log.lock().unwrap().push_str(&format!("{line}\n"));
            if ready {
                let _ = serves.send(());
            }
        }
    });
    ready
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() && self.running.is_some() {
            eprintln!("mistryd said:\n{}", self.log());
        }
        self.kill();
        let engine = Engine::new();
        if self.builds().join(".mistry/instance").exists() {
            engine.sweep(&self.label());
        }
        engine.sweep(&self.mark());
    }
}

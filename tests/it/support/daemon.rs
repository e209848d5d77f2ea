//! A server for one test, with an Engine, projects and a build path of its own, all temporary.
//!
//! Most tests are about the modules together and not about a process: [`Builder::start`] runs the real
//! scheduler and the real web server on a free port and on a unix socket, in the test's own process.
//! What concerns the process is tested with [`super::process`], over the same [`Home`].

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mistry::{
    build::BuildStore,
    docker::Docker,
    filesystem::{Filesystem, Kind},
    metrics::Metrics,
    policy::Policy,
    project::{Limits, Projects},
    scheduler::{Scheduler, SchedulerConfig},
    web::{Access, Listener, Proxies, Public, TokensFile, Web},
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    context::Context,
    engine::Engine,
    http::{Answer, Ask, At, Opened, within},
};

/// The Dockerfile of projects that a test makes itself.
const DOCKERFILE: &str = "FROM scratch\nCOPY run.sh /\nENTRYPOINT [\"/run.sh\"]\n";

/// An Engine, projects and a build path.
pub struct Home {
    pub engine: Engine,
    dir: tempfile::TempDir,
}

impl Home {
    pub async fn new() -> Home {
        let dir = tempfile::tempdir().unwrap();
        for name in ["projects", "builds"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let engine = Engine::start().await;
        Home { engine, dir }
    }

    /// A place of the test's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn projects(&self) -> PathBuf {
        self.path("projects")
    }

    pub fn builds(&self) -> PathBuf {
        self.path("builds")
    }

    /// Where a build is in one of `pending`, `ready`, `failed`.
    pub fn build(&self, project: &str, state: &str, id: &str) -> PathBuf {
        self.builds().join(project).join(state).join(id)
    }

    /// The names in a project's `pending`, `ready`, `failed`; none when it is not there.
    pub fn ids(&self, project: &str, state: &str) -> Vec<String> {
        names(&self.builds().join(project).join(state))
    }

    /// A project from `tests/fixtures/projects`.
    pub fn fixture(&self, name: &str) {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/projects");
        let to = self.projects().join(name);
        std::fs::create_dir(&to).unwrap();
        for file in names(&from.join(name)) {
            std::fs::copy(from.join(name).join(&file), to.join(file)).unwrap();
        }
    }

    /// A project of these files.
    pub fn project(&self, name: &str, context: &Context) {
        context.write(&self.projects().join(name));
    }

    /// A project that runs these lines of shell.
    pub fn script(&self, name: &str, lines: &str) {
        self.project(name, &script(lines));
    }
}

/// A context that runs these lines of shell.
pub fn script(lines: &str) -> Context {
    Context::of(DOCKERFILE).script("run.sh", &format!("D=${{DATA:-/data}}\n{lines}"))
}

/// The names in a directory, sorted; none when it is not there.
pub fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The settings of a server.
pub struct Builder {
    pub home: Home,
    rules: SchedulerConfig,
    tokens: Option<String>,
    public: Public,
    proxies: Proxies,
}

/// A running server; see the head of the file.
pub struct TestDaemon {
    pub home: Home,
    rules: SchedulerConfig,
    tokens: bool,
    public: Public,
    proxies: Proxies,
    running: Option<Running>,
    at: At,
}

struct Running {
    pub scheduler: Scheduler,
    stop: CancellationToken,
    serving: JoinHandle<std::io::Result<()>>,
}

/// The rules of a scheduler on the fake Engine.
pub fn rules() -> SchedulerConfig {
    SchedulerConfig {
        slots: 4,
        backlog: 8,
        mounts: BTreeMap::new(),
        network: "host".to_owned(),
        builder: mistry::project::Builder::Auto,
        limits: Limits::default(),
        shm_size: None,
        ulimits: None,
        dns: None,
        extra_hosts: None,
        registry_auth: None,
        proxies: Default::default(),
        cap_add: Default::default(),
        log_limit: 64 << 20,
        job_timeout: None,
        silence_timeout: None,
        keep_attempts: 10,
        engine_wait: Duration::from_secs(60),
        gc: None,
    }
}

impl TestDaemon {
    pub async fn builder() -> Builder {
        Builder {
            home: Home::new().await,
            rules: rules(),
            tokens: None,
            public: Public::Read,
            proxies: Proxies::default(),
        }
    }

    /// A server with these fixtures.
    pub async fn with(fixtures: &[&str]) -> TestDaemon {
        let mut builder = TestDaemon::builder().await;
        for name in fixtures {
            builder = builder.fixture(name);
        }
        builder.start().await
    }
}

impl Builder {
    pub fn slots(mut self, slots: usize) -> Builder {
        self.rules.slots = slots;
        self
    }

    pub fn backlog(mut self, backlog: usize) -> Builder {
        self.rules.backlog = backlog;
        self
    }

    /// How long an accepted job waits for an Engine that went away.
    pub fn engine_wait(mut self, timeout: Duration) -> Builder {
        self.rules.engine_wait = timeout;
        self
    }

    /// What garbage collection may keep.
    pub fn gc(mut self, policy: Policy) -> Builder {
        self.rules.gc = Some(policy);
        self
    }

    pub fn log_limit(mut self, bytes: u64) -> Builder {
        self.rules.log_limit = bytes;
        self
    }

    /// How many earlier executions of a job are kept.
    pub fn keep_attempts(mut self, most: u32) -> Builder {
        self.rules.keep_attempts = most;
        self
    }

    /// How long a build may run.
    pub fn job_timeout(mut self, limit: Duration) -> Builder {
        self.rules.job_timeout = Some(limit);
        self
    }

    /// How long a build may print nothing.
    pub fn silence_timeout(mut self, limit: Duration) -> Builder {
        self.rules.silence_timeout = Some(limit);
        self
    }

    /// With a tokens file of these lines.
    pub fn tokens(mut self, lines: impl Into<String>) -> Builder {
        self.tokens = Some(lines.into());
        self
    }

    pub fn public(mut self, public: Public) -> Builder {
        self.public = public;
        self
    }

    /// With proxies that are trusted.
    pub fn proxies(mut self, networks: &[&str]) -> Builder {
        let networks = networks.iter().map(|network| network.parse().unwrap());
        self.proxies = Proxies::new(networks.collect());
        self
    }

    /// With other rules.
    pub fn rules(mut self, change: impl FnOnce(&mut SchedulerConfig)) -> Builder {
        change(&mut self.rules);
        self
    }

    pub fn fixture(self, name: &str) -> Builder {
        self.home.fixture(name);
        self
    }

    pub fn project(self, name: &str, make: impl FnOnce(Context) -> Context) -> Builder {
        let context = make(Context::of(DOCKERFILE));
        self.home.project(name, &context);
        self
    }

    pub fn script(self, name: &str, lines: &str) -> Builder {
        self.home.script(name, lines);
        self
    }

    pub async fn start(self) -> TestDaemon {
        if let Some(lines) = &self.tokens {
            std::fs::write(self.home.path("tokens"), lines).unwrap();
        }
        let mut daemon = TestDaemon {
            rules: self.rules,
            tokens: self.tokens.is_some(),
            public: self.public,
            proxies: self.proxies,
            running: None,
            at: At::Unix(self.home.path("mistryd.sock")),
            home: self.home,
        };
        daemon.start_again().await;
        daemon
    }
}

impl TestDaemon {
    /// Starts the server again over what is on disk.
    pub async fn start_again(&mut self) {
        assert!(self.running.is_none(), "it runs");
        let filesystem = Filesystem::detect(Kind::Plain, &self.home.builds()).unwrap();
        // What is handed out is made by a program that this test is not.
        let mistryd = Path::new(env!("CARGO_BIN_EXE_mistryd"));
        let store = within("the lock of the build path", async {
            loop {
                match BuildStore::open(&self.home.builds(), filesystem) {
                    // A child that another test begins in this process has our descriptors, and
                    // with them the lock of the process before, until it executes its program.
                    Err(mistry::build::Error::Held { .. }) => tokio::task::yield_now().await,
                    opened => return opened.unwrap().confined_by(mistryd),
                }
            }
        })
        .await;
        let metrics = Metrics::new().unwrap();
        let docker = Docker::new(&self.home.engine.socket()).unwrap();
        let projects = Projects::new(&self.home.projects());
        let scheduler =
            Scheduler::new(self.rules.clone(), projects, store, docker, metrics.clone());
        scheduler.adopt().await.unwrap();
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.at = At::Tcp(tcp.local_addr().unwrap());
        let _ = std::fs::remove_file(self.socket());
        let unix = tokio::net::UnixListener::bind(self.socket()).unwrap();
        let tokens = || Arc::new(TokensFile::open(&self.home.path("tokens")).unwrap());
        let access = Access {
            hosts: vec!["build.example".to_owned()],
            tokens: self.tokens.then(tokens),
            public: self.public,
            local: None,
            proxies: self.proxies.clone(),
        };
        let stop = CancellationToken::new();
        let web = Web::new(scheduler.clone(), metrics, access, stop.clone());
        let listeners = vec![Listener::Tcp(tcp), Listener::Unix(unix)];
        self.running = Some(Running {
            scheduler,
            stop,
            serving: tokio::spawn(mistry::web::serve(listeners, web)),
        });
    }

    /// Another policy of garbage collection, from the next process on.
    pub fn collect_by(&mut self, policy: Policy) {
        self.rules.gc = Some(policy);
    }

    /// Ends as the daemon does on SIGTERM.
    pub async fn stop(&mut self) {
        let running = self.running.take().expect("it does not run");
        running.stop.cancel();
        let grace = std::time::Duration::from_secs(60);
        let (drained, served) = within("the end", async {
            tokio::join!(running.scheduler.drain(grace), running.serving)
        })
        .await;
        assert!(drained, "builds did not let go");
        served.unwrap().unwrap();
    }

    /// What its interfaces ask.
    pub fn scheduler(&self) -> &Scheduler {
        &self.running.as_ref().expect("it does not run").scheduler
    }

    /// Where it listens over TCP.
    pub fn at(&self) -> At {
        self.at.clone()
    }

    pub fn port(&self) -> u16 {
        match &self.at {
            At::Tcp(address) => address.port(),
            At::Unix(_) => 0,
        }
    }

    /// Where its unix socket is.
    pub fn socket(&self) -> PathBuf {
        self.home.path("mistryd.sock")
    }

    pub async fn ask(&self, ask: Ask) -> Answer {
        self.at.ask(ask).await
    }

    pub async fn open(&self, ask: Ask) -> Opened {
        self.at.open(ask).await
    }

    /// Asks in a task of its own.
    pub fn asking(&self, ask: Ask) -> JoinHandle<Answer> {
        let at = self.at.clone();
        tokio::spawn(async move { at.ask(ask).await })
    }

    pub async fn get(&self, path: impl Into<String>) -> Answer {
        self.ask(Ask::get(path).json()).await
    }

    pub async fn post(&self, path: impl Into<String>, body: &Value) -> Answer {
        self.ask(Ask::post(path, body)).await
    }

    /// Builds a job and returns its build info; it must be answered with 201.
    pub async fn build(&self, job: Value) -> Value {
        self.post("/jobs", &job).await.expect(201).json()
    }

    /// Submits a job and returns its id.
    pub async fn submit(&self, job: Value) -> String {
        self.at().submit(&job).await
    }

    /// Waits for a job that was submitted, and returns its build info.
    pub async fn wait(&self, project: &str, id: &str) -> Value {
        let path = format!("/job/{project}/{id}?wait");
        self.get(path).await.expect(200).json()["BuildInfo"].clone()
    }

    /// A job's build info as it is now.
    pub async fn info(&self, project: &str, id: &str) -> Value {
        let path = format!("/job/{project}/{id}");
        self.get(path).await.expect(200).json()["BuildInfo"].clone()
    }

    /// A metric of a project (or, with "", of the server); 0 when it is not there.
    pub async fn metric(&self, name: &str, project: &str) -> f64 {
        let text = self.ask(Ask::get("/metrics")).await.text();
        let line = match project {
            "" => format!("{name} "),
            project => format!("{name}{{project=\"{project}\"}} "),
        };
        let found = text.lines().find_map(|there| there.strip_prefix(&line));
        found.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Returns when a metric has this value: nothing else shows the state inside.
    pub async fn until_metric(&self, name: &str, project: &str, value: f64) {
        within(name, async {
            while self.metric(name, project).await != value {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// An artifact, or the error.
    pub async fn artifact(&self, info: &Value, path: &str) -> Answer {
        let (project, id) = (info["Project"].as_str(), info["ID"].as_str());
        let (project, id) = (project.unwrap(), id.unwrap());
        self.ask(Ask::get(format!("/artifacts/{project}/{id}/{path}")))
            .await
    }
}

/// A job without params.
pub fn job(project: &str) -> Value {
    json!({ "project": project })
}

/// The text of a field.
pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field]
        .as_str()
        .unwrap_or_else(|| panic!("no {field}: {value}"))
}

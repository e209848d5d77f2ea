//! A Docker Engine for tests: speaks enough of the API, on a unix socket, for the same client code that
//! speaks to the real one. Its images are directories, its containers processes of the host.
//!
//! What it was asked for is recorded; any kind of call can be counted, held back and made to fail. The
//! kinds: `ping version info events images pull build tag create start logs wait inspect kill stop remove list history
//! inspect-image remove-image archive`. A dropped engine takes its processes with it.
//!
//! It proves nothing about Docker; what matters about the real one is tested in `tests/system`.

mod container;
mod gate;
mod image;
mod kind;
mod serve;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::{net::UnixListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use self::{container::Container, gate::Gates};
pub use self::{
    container::ContainerSeen,
    image::{BuildSeen, Image, PullSeen},
};

/// The engine; see the head of the file.
pub struct Engine {
    shared: Arc<Shared>,
    server: Mutex<Option<(JoinHandle<()>, CancellationToken)>>,
}

/// What the server and the test share.
struct Shared {
    dir: tempfile::TempDir,
    gates: Gates,
    /// The newest and the oldest API it speaks, as minor versions of 1.
    api: (AtomicUsize, AtomicUsize),
    registry: AtomicBool,
    lossy: AtomicBool,
    driver: Mutex<String>,
    /// The version of podman that it says it is.
    podman: Mutex<Option<String>>,
    sequence: AtomicUsize,
    images: Mutex<Vec<Image>>,
    builds: Mutex<Vec<BuildSeen>>,
    pulls: Mutex<Vec<PullSeen>>,
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
    /// Ids of those that were started since it is there.
    started: Mutex<BTreeSet<String>>,
    /// In the order of creation, those removed since too.
    seen: Mutex<Vec<Arc<Container>>>,
    supervisors: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// A running engine, as old as Debian 12's.
    pub async fn start() -> Engine {
        let shared = Shared {
            dir: tempfile::tempdir().unwrap(),
            gates: Gates::default(),
            api: (AtomicUsize::new(41), AtomicUsize::new(12)),
            registry: AtomicBool::new(true),
            lossy: AtomicBool::new(false),
            driver: Mutex::new("cgroupfs".to_owned()),
            podman: Mutex::new(None),
            sequence: AtomicUsize::new(0),
            images: Mutex::default(),
            builds: Mutex::default(),
            pulls: Mutex::default(),
            containers: Mutex::default(),
            started: Mutex::default(),
            seen: Mutex::default(),
            supervisors: Mutex::default(),
        };
        let engine = Engine {
            shared: Arc::new(shared),
            server: Mutex::default(),
        };
        engine.start_again();
        engine
    }

    /// Where it listens, when it does.
    pub fn socket(&self) -> PathBuf {
        self.shared.dir.path().join("docker.sock")
    }

    /// Lets it be another version: it refuses paths with an API version past `newest` or before
    /// `oldest` (minor versions of 1).
    pub fn speak(&self, newest: usize, oldest: usize) {
        self.shared.api.0.store(newest, Ordering::Relaxed);
        self.shared.api.1.store(oldest, Ordering::Relaxed);
    }

    /// Lets it be podman of this version, or Docker, with its log drivers, its words and its ways.
    pub fn speak_as(&self, podman: Option<&str>) {
        *self.shared.podman.lock().unwrap() = podman.map(str::to_owned);
    }

    /// Whether pulls succeed; they do at first. A base other than `scratch` is on this host always.
    pub fn registry(&self, there: bool) {
        self.shared.registry.store(there, Ordering::Relaxed);
    }

    /// Whether followers lose the last piece of a container's output, as those of Engines before 23 do
    /// now and then.
    pub fn lose_log_ends(&self, lossy: bool) {
        self.shared.lossy.store(lossy, Ordering::Relaxed);
    }

    /// What makes the cgroups of containers; `cgroupfs` at first.
    pub fn cgroup_driver(&self, driver: &str) {
        *self.shared.driver.lock().unwrap() = driver.to_owned();
    }

    /// The engine goes away: socket gone, connections cut. Containers run on, as with live-restore.
    pub async fn stop(&self) {
        let server = self.server.lock().unwrap().take();
        if let Some((server, _)) = server {
            let _ = std::fs::remove_file(self.socket());
            server.abort();
            // Cancelled, and with it every connection.
            let _ = server.await;
            self.shared.started.lock().unwrap().clear();
        }
    }

    /// The engine gets SIGTERM: no new connection is accepted, those that it has are answered. The real
    /// one then ends its containers, and goes.
    pub fn close(&self) {
        if let Some((_, closed)) = &*self.server.lock().unwrap() {
            let _ = std::fs::remove_file(self.socket());
            closed.cancel();
        }
    }

    /// It is back, with all it had.
    pub fn start_again(&self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let closed = CancellationToken::new();
        let serve = serve::serve(listener, self.shared.clone(), closed.clone());
        *self.server.lock().unwrap() = Some((tokio::spawn(serve), closed));
    }

    /// From now on calls of this kind wait.
    pub fn hold(&self, call: &str) {
        self.shared.gates.hold(call);
    }

    /// Lets the calls of this kind go.
    pub fn release(&self, call: &str) {
        self.shared.gates.release(call);
    }

    /// Returns when `count` calls of this kind have arrived since the engine was made, held or not.
    pub async fn wait_for(&self, call: &str, count: usize) {
        self.shared.gates.wait_for(call, count).await;
    }

    /// The next call of this kind (and, said again, the one after it) fails with this status.
    pub fn fail_next(&self, call: &str, status: u16) {
        self.shared.gates.fail_next(call, status);
    }

    /// How many calls of this kind have arrived.
    pub fn count(&self, call: &str) -> usize {
        self.shared.gates.count(call)
    }

    /// Every container that was created, removed or not, in order.
    pub fn containers(&self) -> Vec<ContainerSeen> {
        let there = self.shared.containers.lock().unwrap();
        let seen = self.shared.seen.lock().unwrap();
        seen.iter()
            .map(|one| one.seen(!there.contains_key(&one.id)))
            .collect()
    }

    /// Returns when the container that was made as the `at`th has ended.
    pub async fn ended(&self, at: usize) {
        let container = self.shared.seen.lock().unwrap()[at].clone();
        container.ended().await;
    }

    /// As if all that the containers did had been done that much earlier.
    pub fn age(&self, by: std::time::Duration) {
        for container in self.shared.seen.lock().unwrap().iter() {
            container.age(by);
        }
    }

    /// Kills every container, as an Engine does that goes down; removes them, too, where that is said.
    pub async fn take_down(&self, remove: bool) {
        let all: Vec<_> = self
            .shared
            .containers
            .lock()
            .unwrap()
            .values()
            .cloned()
            .collect();
        for container in all {
            container.kill_all();
            container.ended().await;
            if remove {
                self.shared.containers.lock().unwrap().remove(&container.id);
            }
        }
    }

    /// Kills every container, as a host does that goes down, and does not know afterwards how it ended.
    pub async fn lose_power(&self) {
        self.take_down(false).await;
        for container in self.shared.containers.lock().unwrap().values() {
            container.lose_its_end();
        }
    }

    /// Every image build that was asked for, in order.
    pub fn builds(&self) -> Vec<BuildSeen> {
        self.shared.builds.lock().unwrap().clone()
    }

    /// Every pull that was asked for, in order.
    pub fn pulls(&self) -> Vec<PullSeen> {
        self.shared.pulls.lock().unwrap().clone()
    }

    /// The images there are.
    pub fn images(&self) -> Vec<Image> {
        self.shared.images.lock().unwrap().clone()
    }

    /// Removes an image, as a user of the host might.
    pub fn forget_image(&self, id: &str) {
        self.shared
            .images
            .lock()
            .unwrap()
            .retain(|image| image.id != id);
    }
}

impl Shared {
    fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Takes the images that a docker-buildx of a test has put beside the socket.
    fn take_built(&self) {
        let built = self.dir().join("built");
        for name in super::daemon::names(&built) {
            let (root, id) = (built.join(&name), format!("sha256:{name}"));
            let mut images = self.images.lock().unwrap();
            if name.starts_with('.') || images.iter().any(|image| image.id == id) {
                continue;
            }
            let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap_or_default();
            let pairs = read("labels");
            let pairs = pairs.lines().filter_map(|line| line.split_once('='));
            images.push(Image {
                id,
                tags: BTreeSet::new(),
                labels: pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
                created: 1_700_000_000 + self.next() as i64,
                root: root.join("root"),
            });
        }
    }

    fn next(&self) -> usize {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    fn container(&self, name: &str) -> Option<Arc<Container>> {
        let containers = self.containers.lock().unwrap();
        let mut all = containers.values();
        all.find(|one| one.id == name || one.name == name).cloned()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for container in self.shared.seen.lock().unwrap().iter() {
            container.kill_all();
        }
        if let Some((server, _)) = self.server.lock().unwrap().take() {
            server.abort();
        }
        for supervisor in self.shared.supervisors.lock().unwrap().drain(..) {
            supervisor.abort();
        }
    }
}

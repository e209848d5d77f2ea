//! Reads for HTTP and D-Bus clients: builds, lists, logs, projects. The number of concurrent reads is
//! bounded, and builds do not wait for them: each read takes a permit of its kind from
//! [`read_limiter`](crate::read_limiter).

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::error::Error;
use super::service::Scheduler;
use crate::budget::Client;
use crate::build::{BuildInfo, Filter, Listing, LogFollower, Place};
use crate::job::{JobId, Status};
use crate::project::{ParamSchema, ProjectName};
use crate::read_limiter::{ClientReadLimiter, ReadLimiter, ReadPermit};

/// The purpose of a read.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    /// A request, which is refused where too many wait.
    Request,
    /// A response that is already being sent.
    Answer,
    /// A client that waits for a build.
    Build,
}

/// Reads on behalf of one client.
#[derive(Clone, Debug)]
pub struct Reader {
    pub(super) scheduler: Scheduler,
    client: Client,
    purpose: Purpose,
}

impl Scheduler {
    /// A reader for requests of `client`. All its reads may fail with [`Error::ReadersFull`].
    pub fn reader(&self, client: Client) -> Reader {
        Reader {
            scheduler: self.clone(),
            client,
            purpose: Purpose::Request,
        }
    }

    /// A reader for a client that waits for a build, with permits separate from those of other readers. It is
    /// never refused: the memory that the client uses is counted by [`Scheduler::bodies`].
    pub fn builder(&self, client: Client) -> Reader {
        Reader {
            purpose: Purpose::Build,
            ..self.reader(client)
        }
    }
}

impl Reader {
    /// A reader for a response that is already being sent, which cannot be refused any more.
    #[must_use]
    pub fn under_way(&self) -> Reader {
        Reader {
            purpose: match self.purpose {
                Purpose::Request | Purpose::Answer => Purpose::Answer,
                Purpose::Build => Purpose::Build,
            },
            ..self.clone()
        }
    }

    /// Limits how a response that is being sent is read from the disk.
    pub fn limiter(&self) -> ClientReadLimiter {
        self.reads().for_client(self.client)
    }

    pub(super) fn reads(&self) -> &ReadLimiter {
        match self.purpose {
            Purpose::Request | Purpose::Answer => &self.scheduler.0.readers.reads,
            Purpose::Build => &self.scheduler.0.readers.builders,
        }
    }

    /// Runs `work` with a permit of `limiter`, on a thread that may block. The permit is released when the
    /// work drops it.
    pub(super) async fn run_limited<T: Send + 'static>(
        &self,
        limiter: &ReadLimiter,
        work: impl FnOnce(ReadPermit) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let limiter = limiter.for_client(self.client);
        let done = match self.purpose {
            Purpose::Request => limiter.try_run(work).await.ok_or(Error::ReadersFull)?,
            Purpose::Answer | Purpose::Build => limiter.run(work).await,
        };
        done.map_err(|_| Error::Lost)
    }

    /// Reads a range of the index.
    pub(super) async fn walk<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let walks = &self.scheduler.0.readers.index_walks;
        self.run_limited(walks, |_permit| work()).await
    }

    /// Reads something small from the disk.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.run_limited(self.reads(), |_permit| work()).await
    }
}

/// The current load and capacity of the daemon.
#[derive(Clone, Debug)]
pub struct HostReport {
    /// Builds that may run in parallel.
    pub slots: usize,
    /// Builds that hold a slot.
    pub running: usize,
    /// Jobs that may wait for a slot.
    pub backlog: usize,
    /// Jobs that wait.
    pub queued: usize,
    /// No new build starts.
    pub paused: bool,
    /// Free bytes of the filesystem of the builds.
    pub disk_free: u64,
    /// That filesystem's size.
    pub disk_size: u64,
    /// The kind of filesystem.
    pub filesystem: &'static str,
    /// The Docker Engine's version; `None` when no Engine answers.
    pub engine: Option<String>,
}

/// A project's newest build: when it began, and its status.
pub type Newest = (Timestamp, Status);

/// The end of a page of a list.
#[derive(Clone, Debug)]
pub struct ListEnd {
    /// The last build of the page; `None` where no builds follow.
    pub last: Option<Place>,
}

/// Whether the end of its log is read with a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTail {
    /// It is read.
    Read,
    /// It is not needed.
    Omit,
}

impl LogTail {
    /// The end of the log as `read` returns it, if it is to be read.
    pub(super) fn read_by<E>(
        self,
        read: impl FnOnce() -> Result<String, E>,
    ) -> Result<Option<String>, E> {
        match self {
            LogTail::Read => read().map(Some),
            LogTail::Omit => Ok(None),
        }
    }
}

impl Reader {
    /// The known state of a build: of the active one, else of the one on disk. Long params are cut, as in
    /// lists.
    ///
    /// # Errors
    /// [`Error::UnknownJob`], [`Error::NoRecord`], [`Error::Store`].
    pub async fn find(&self, project: &ProjectName, id: JobId) -> Result<BuildInfo, Error> {
        let short = |mut info: BuildInfo, _log, _permit| {
            info.abridge();
            info
        };
        self.find_and(project, id, LogTail::Omit, short).await
    }

    /// The complete state of a build, and the end of its log. The next record is read for
    /// another request when the permit is dropped: by then the memory made from the info should be counted.
    ///
    /// # Errors
    /// As for [`Reader::find`].
    pub async fn find_with_permit(
        &self,
        project: &ProjectName,
        id: JobId,
        log: LogTail,
    ) -> Result<(BuildInfo, Option<String>, ReadPermit), Error> {
        self.find_and(project, id, log, |info, log, permit| (info, log, permit))
            .await
    }

    /// Calls `then` with the info and the log, on the thread that has read it.
    async fn find_and<T: Send + 'static>(
        &self,
        project: &ProjectName,
        id: JobId,
        log: LogTail,
        then: impl FnOnce(BuildInfo, Option<String>, ReadPermit) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let active = self.scheduler.handle(project, id).await;
        let active = active.and_then(|handle| handle.now());
        let (shared, project) = (self.scheduler.0.clone(), project.clone());
        let reading = self.run_limited(&self.scheduler.0.readers.records, move |permit| {
            let found = match active {
                Some(info) => Some(BuildInfo::clone(&info)),
                None => shared.store.find(&project, id)?,
            };
            let info = found.ok_or_else(|| Error::absent(&shared.store, &project, id))?;
            let log = log.read_by(|| shared.store.log_tail(&project, id))?;
            Ok(then(info, log, permit))
        });
        reading.await?
    }

    /// At most `limit` builds, newest first, and the place where the next page begins.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn list(
        &self,
        filter: Filter,
        limit: usize,
    ) -> Result<(Vec<Listing>, Option<Place>), Error> {
        self.scheduler.0.store.indexed().await;
        self.scheduler.0.adopted.wait().await;
        let shared = self.scheduler.0.clone();
        let walking = self.walk(move || {
            let active = |project: &ProjectName, id| shared.active_job(project, id)?.now();
            shared.store.list(&filter, limit, active)
        });
        walking.await
    }

    /// The place where a list of at most `limit` builds ends, without the builds.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn list_end(&self, filter: Filter, limit: usize) -> Result<ListEnd, Error> {
        self.scheduler.0.store.indexed().await;
        self.scheduler.0.adopted.wait().await;
        let shared = self.scheduler.0.clone();
        let walking = self.walk(move || shared.store.list_end(&filter, limit));
        let last = walking.await?;
        Ok(ListEnd { last })
    }

    /// True when a build is pinned.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn is_pinned(&self, project: &ProjectName, id: JobId) -> Result<bool, Error> {
        let (shared, project) = (self.scheduler.0.clone(), project.clone());
        self.read(move || shared.store.is_pinned(&project, id))
            .await
    }

    /// Follows a build's log from byte `from`.
    ///
    /// # Errors
    /// [`Error::UnknownJob`], [`Error::NoRecord`]; [`Error::NoLog`] where there is a build without one;
    /// [`Error::Log`].
    pub async fn follow(
        &self,
        project: &ProjectName,
        id: JobId,
        from: u64,
    ) -> Result<LogFollower, Error> {
        let progress = match self.scheduler.handle(project, id).await {
            Some(mut handle) => {
                handle.accepted().await?;
                handle.log()
            }
            None => None,
        };
        let (shared, name, limiter) = (self.scheduler.0.clone(), project.clone(), self.limiter());
        let opening = self.read(move || {
            // Between finding and opening, a build may move from pending to ready, so this tries twice.
            for _ in 0..2 {
                let Some(path) = shared.store.log_path(&name, id) else {
                    break;
                };
                match LogFollower::open(&path, from, progress.clone(), limiter.clone()) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    other => return other.map(Some).map_err(Error::Log),
                }
            }
            Ok(None)
        });
        if let Some(log) = opening.await?? {
            return Ok(log);
        }
        self.find(project, id).await?;
        Err(Error::NoLog(project.clone(), id))
    }

    /// Every project, with the number of its builds and when the newest of them began.
    ///
    /// # Errors
    /// [`Error::Project`].
    pub async fn projects(&self) -> Result<Vec<(ProjectName, u64, Option<Timestamp>)>, Error> {
        self.scheduler.0.store.indexed().await;
        let shared = self.scheduler.0.clone();
        let reading = self.read(move || {
            let counts = shared.store.counts();
            let names = shared.projects.list()?;
            Ok(names
                .into_iter()
                .map(|name| {
                    let (count, newest) = counts.get(&name).copied().unwrap_or_default();
                    (name, count, newest)
                })
                .collect())
        });
        reading.await?
    }

    /// The newest build of each project that has one: when it began, and its last known status.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn newest(&self) -> Result<BTreeMap<ProjectName, Newest>, Error> {
        self.scheduler.0.store.indexed().await;
        self.scheduler.0.adopted.wait().await;
        let shared = self.scheduler.0.clone();
        let walking = self.walk(move || {
            let newest = shared.store.newest().into_iter();
            let newest = newest.map(|(project, (id, started, status))| {
                let active = shared.active_job(&project, id);
                let newest = match active.and_then(|active| active.now()) {
                    Some(now) => (now.started_at, now.status),
                    None => (started, status),
                };
                (project, newest)
            });
            newest.collect()
        });
        walking.await
    }

    /// The latest build of a project without a group, and those of its groups.
    ///
    /// # Errors
    /// [`Error::Project`] when there is no such project, [`Error::Store`].
    pub async fn bases(
        &self,
        project: &ProjectName,
    ) -> Result<(Option<JobId>, BTreeMap<String, JobId>), Error> {
        let (shared, project) = (self.scheduler.0.clone(), project.clone());
        let reading = self.read(move || {
            shared.projects.open(&project)?;
            Ok(shared.store.bases(&project)?)
        });
        reading.await?
    }

    /// The params that a project takes; `None` without a schema.
    ///
    /// # Errors
    /// [`Error::Project`] where its `mistry.json` is invalid, [`Error::Lost`].
    pub async fn param_schema(&self, project: &ProjectName) -> Result<Option<ParamSchema>, Error> {
        let (shared, project) = (self.scheduler.0.clone(), project.clone());
        let params = self.read(move || shared.projects.params(&project)).await?;
        Ok(params?)
    }

    /// The current load and capacity of the daemon.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn host(&self) -> Result<HostReport, Error> {
        let shared = self.scheduler.0.clone();
        let room = self.read(move || shared.store.disk_space()).await?;
        let (free, size) = room.unwrap_or((0, 0));
        let config = self.scheduler.0.config.load();
        let engine = match self.scheduler.0.engine_there().await {
            Ok(()) => self.scheduler.0.docker.version().await.ok(),
            Err(_) => None,
        };
        let queue = self.scheduler.0.queue();
        Ok(HostReport {
            slots: config.slots,
            running: queue.running(),
            backlog: config.backlog,
            queued: queue.waiting(),
            paused: queue.is_paused(),
            disk_free: free,
            disk_size: size,
            filesystem: self.scheduler.0.store.filesystem().name(),
            engine,
        })
    }

    /// Updates the metrics that are only measured on request.
    pub async fn refresh_metrics(&self) {
        let shared = self.scheduler.0.clone();
        let refreshed = self.read(move || {
            for (project, (builds, _)) in shared.store.counts() {
                shared.metrics.record_hosted(project.as_str(), builds);
            }
            // Without an answer the last known value remains.
            if let Ok((free, _)) = shared.store.disk_space() {
                shared.metrics.record_free(free);
            }
        });
        // Only a panic could end it early; the last known values remain then.
        let _ = refreshed.await;
    }
}

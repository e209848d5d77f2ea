//! Reads for HTTP and D-Bus clients: builds, lists, logs, projects. Only a few run at a time, and no build
//! waits for them.
//!
//! A turn belongs to the thread that reads and not to the client: it is given back when the thread is
//! done, whether or not the client is still there.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Error, Scheduler, blocking};
use crate::build::{BuildInfo, Filter, Listing, LogFollower, Outcome, Phase, Place};
use crate::job::JobId;
use crate::project::ProjectName;

/// A walk through a hundred thousand builds takes some milliseconds of a processor: however many
/// strangers ask at once, builds and answers get theirs.
const WALKS: usize = 4;
/// Records that are read at once: each may hold 16 MiB of params, as text and as values.
const RECORDS: usize = 2;
/// Other reads of the disk at once, a thread each: few of the 512 threads, which builds need as well.
const LOOKS: usize = 16;

/// How many reads of each kind may run at once.
#[derive(Debug)]
pub(super) struct Readers {
    walks: Arc<Semaphore>,
    records: Arc<Semaphore>,
    looks: Arc<Semaphore>,
}

/// Permission to hold what was read from a record. Other readers wait until it is dropped.
#[derive(Debug)]
pub struct Turn(
    #[expect(dead_code, reason = "held until it is dropped")] Arc<OwnedSemaphorePermit>,
);

impl Default for Readers {
    fn default() -> Readers {
        Readers {
            walks: Arc::new(Semaphore::new(WALKS)),
            records: Arc::new(Semaphore::new(RECORDS)),
            looks: Arc::new(Semaphore::new(LOOKS)),
        }
    }
}

impl Readers {
    /// Walks through the index on a thread that may block.
    pub(super) async fn walk<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        in_turn(&self.walks, work).await.map(|(done, _)| done)
    }

    /// Reads a record. The next record is read when the returned turn is dropped.
    pub(super) async fn record<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<(T, Turn), Error> {
        in_turn(&self.records, work).await
    }

    /// Reads something small from the disk.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        in_turn(&self.looks, work).await.map(|(done, _)| done)
    }
}

async fn in_turn<T: Send + 'static>(
    turns: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<(T, Turn), Error> {
    let turn = turns.clone().acquire_owned().await;
    let turn = Arc::new(turn.map_err(|_| Error::Lost)?);
    let own = turn.clone();
    let done = blocking(move || {
        // The asker may be gone before the work is done.
        let _own = own;
        work()
    });
    Ok((done.await?, Turn(turn)))
}

/// A project's newest build: when it began, its phase and its outcome.
pub type Newest = (Timestamp, Option<Phase>, Option<Outcome>);

/// Where a page of a list ends.
#[derive(Clone, Debug)]
pub struct ListEnd {
    /// The last build of the page; `None` where all that are left are on it.
    pub last: Option<Place>,
}

impl Scheduler {
    /// What is known of a build: of the live one, else of the one on disk. With `log`, the info
    /// holds the end of its log.
    ///
    /// # Errors
    /// [`Error::UnknownJob`], [`Error::NoRecord`], [`Error::Store`].
    pub async fn find(
        &self,
        project: &ProjectName,
        id: JobId,
        log: bool,
    ) -> Result<BuildInfo, Error> {
        let found = self.find_in_turn(project, id, log).await;
        found.map(|(info, _)| info)
    }

    /// The same. The next record is read for another asker when the turn is dropped: by then what is
    /// made of the info should be counted.
    ///
    /// # Errors
    /// As [`Scheduler::find`].
    pub async fn find_in_turn(
        &self,
        project: &ProjectName,
        id: JobId,
        log: bool,
    ) -> Result<(BuildInfo, Turn), Error> {
        let live = self.ticket(project, id).await;
        let live = live.and_then(|ticket| ticket.now());
        let (shared, project) = (self.0.clone(), project.clone());
        let reading = self.0.readers.record(move || {
            let found = match live {
                Some(info) => Some(BuildInfo::clone(&info)),
                None => shared.store.find(&project, id)?,
            };
            let mut info = found.ok_or_else(|| Error::absent(&shared.store, &project, id))?;
            info.container_stdouterr = match log {
                true => Some(shared.store.log_tail(&project, id)?),
                false => None,
            };
            Ok(info)
        });
        let (found, turn): (Result<BuildInfo, Error>, Turn) = reading.await?;
        found.map(|info| (info, turn))
    }

    /// The last rebuild of a job that did not succeed and lies beside the build that did; without its
    /// params, which are those of the build.
    pub async fn failed_rebuild(&self, project: &ProjectName, id: JobId) -> Option<BuildInfo> {
        let (shared, project) = (self.0.clone(), project.clone());
        let reading = self.0.readers.record(move || {
            let mut found = shared.store.failed_rebuild(&project, id);
            if let Some(info) = &mut found {
                info.params.clear();
            }
            found
        });
        let found = reading.await.map(|(found, _)| found);
        found.ok().flatten()
    }

    /// At most `limit` builds, newest first, and where the next page begins.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn list(
        &self,
        filter: Filter,
        limit: usize,
    ) -> Result<(Vec<Listing>, Option<Place>), Error> {
        self.0.store.indexed().await;
        self.0.adopted.wait().await;
        let shared = self.0.clone();
        let walking = self.0.readers.walk(move || {
            let live = |project: &ProjectName, id| shared.live(project, id)?.now();
            shared.store.list(&filter, limit, live)
        });
        walking.await
    }

    /// Where a list of at most `limit` builds ends, without the builds.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn list_end(&self, filter: Filter, limit: usize) -> Result<ListEnd, Error> {
        self.0.store.indexed().await;
        self.0.adopted.wait().await;
        let shared = self.0.clone();
        let walking = self
            .0
            .readers
            .walk(move || shared.store.list_end(&filter, limit));
        let last = walking.await?;
        Ok(ListEnd { last })
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
        let progress = match self.ticket(project, id).await {
            Some(mut ticket) => {
                ticket.accepted().await?;
                ticket.log()
            }
            None => None,
        };
        // Between finding and opening, a build may move from pending to ready: look twice.
        for _ in 0..2 {
            let (shared, name) = (self.0.clone(), project.clone());
            let looking = self
                .0
                .readers
                .read(move || shared.store.log_path(&name, id));
            let Some(path) = looking.await? else { break };
            match LogFollower::open(&path, from, progress.clone()).await {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => return other.map_err(Error::Log),
            }
        }
        self.find(project, id, false).await?;
        Err(Error::NoLog(project.clone(), id))
    }

    /// Every project, with the number of its builds and when the newest of them began.
    ///
    /// # Errors
    /// [`Error::Project`].
    pub async fn projects(&self) -> Result<Vec<(ProjectName, u64, Option<Timestamp>)>, Error> {
        self.0.store.indexed().await;
        let shared = self.0.clone();
        let reading = self.0.readers.read(move || {
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

    /// The newest build of each project that has one: when it began, its phase while it is live, and how
    /// it ended.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn newest(&self) -> Result<BTreeMap<ProjectName, Newest>, Error> {
        self.0.store.indexed().await;
        self.0.adopted.wait().await;
        let shared = self.0.clone();
        let walking = self.0.readers.walk(move || {
            let newest = shared.store.newest().into_iter();
            let live = shared.live_infos();
            let newest = newest.map(|(project, (id, started, outcome))| {
                let newest = match live.get(&id) {
                    Some(now) => (now.started_at, now.phase, now.outcome),
                    None => (started, None, outcome),
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
        let (shared, project) = (self.0.clone(), project.clone());
        let reading = self.0.readers.read(move || {
            shared.projects.open(&project)?;
            Ok(shared.store.bases(&project)?)
        });
        reading.await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_is_not_given_back_by_an_asker_who_leaves() {
        let readers = Readers::default();
        let (go_on, until) = std::sync::mpsc::channel::<()>();
        let (begun, beginning) = tokio::sync::oneshot::channel();
        let mut asking = Box::pin(readers.walk(move || {
            begun.send(()).unwrap();
            // Ends when the other side is dropped.
            let _ = until.recv();
        }));
        assert!(futures_util::poll!(&mut asking).is_pending());
        beginning.await.unwrap();
        drop(asking);
        assert_eq!(readers.walks.available_permits(), WALKS - 1);
        drop(go_on);
        // All turns can be had once the walk is over.
        drop(readers.walks.acquire_many(WALKS as u32).await.unwrap());
    }
}

//! Jobs that are not over, as objects: shown when they begin, taken away when they end.
//!
//! Of one job everything is told by one task, in order: `JobNew`, what changes, `JobRemoved`. Who
//! submits a job holds it here until the answer is sent, so that an end comes after the answer that
//! names the job, however short the build.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zbus::Connection;
use zbus::object_server::SignalEmitter;

use super::job::{self, Job, Shown};
use super::manager::Manager;
use super::{Dbus, PATH};
use crate::build::Outcome;
use crate::job::JobId;
use crate::scheduler::JobFollower;

/// The jobs that are shown.
#[derive(Debug)]
pub(super) struct Objects {
    /// Where each is shown. Tokio's, because it is held until the object is there and told.
    shown: tokio::sync::Mutex<HashMap<JobId, String>>,
    /// Answers that are on their way, by job. Std, held for a count.
    holds: Arc<Holds>,
    /// How many are shown.
    count: watch::Sender<usize>,
    /// One task for each.
    tasks: TaskTracker,
    /// Ends them, with the connection that they tell it to.
    end: Mutex<CancellationToken>,
}

#[derive(Debug, Default)]
struct Holds {
    by_job: Mutex<HashMap<JobId, usize>>,
    released: Notify,
}

/// Keeps a job's end from being told.
#[derive(Debug)]
pub(super) struct Hold {
    holds: Arc<Holds>,
    id: JobId,
}

impl Holds {
    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, usize>> {
        self.by_job.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = self.holds.lock();
        if let Some(count) = holds.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                holds.remove(&self.id);
            }
        }
        drop(holds);
        self.holds.released.notify_waiters();
    }
}

impl Default for Objects {
    fn default() -> Objects {
        Objects {
            shown: tokio::sync::Mutex::default(),
            holds: Arc::default(),
            count: watch::channel(0).0,
            tasks: TaskTracker::new(),
            end: Mutex::default(),
        }
    }
}

impl Objects {
    /// How many there are, now and from now on.
    pub(super) fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Keeps the end of a job from being told as long as the hold is held.
    pub(super) fn hold(&self, id: JobId) -> Hold {
        *self.holds.lock().entry(id).or_default() += 1;
        Hold {
            holds: self.holds.clone(),
            id,
        }
    }

    /// Where a job is shown, if it is.
    pub(super) async fn path(&self, id: JobId) -> Option<String> {
        self.shown.lock().await.get(&id).cloned()
    }

    /// Shows a job that was accepted, unless it is shown already, and tells how it goes from now on.
    /// Returns where it is.
    pub(super) async fn show(
        &self,
        face: &Dbus,
        connection: &Connection,
        follower: JobFollower,
    ) -> zbus::Result<String> {
        let id = follower.id();
        let mut shown = self.shown.lock().await;
        if let Some(path) = shown.get(&id) {
            return Ok(path.clone());
        }
        let server = connection.object_server();
        let mut path = job::path(id, true);
        let object = Job {
            face: face.clone(),
            follower: follower.clone(),
        };
        let before = Shown::of(&follower);
        // Two ids that begin alike are no accident, but no reason to mix them up either.
        if let Some(refused) = server.at(path.clone(), object).await? {
            path = job::path(id, false);
            server.at(path.clone(), refused).await?;
        }
        shown.insert(id, path.clone());
        self.count.send_replace(shown.len());
        let emitter = SignalEmitter::new(connection, PATH)?;
        let at = zbus::ObjectPath::try_from(path.clone())?;
        let told = Manager::job_new(&emitter, &id.to_string(), at).await;
        let (face, connection, at) = (face.clone(), connection.clone(), path.clone());
        let end = self.end().clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = attend(&face, &connection, follower, before, at) => {}
            }
        });
        told.map(|()| path)
    }

    /// Lets all of them go without a word: the connection that they were shown on is gone or goes.
    pub(super) async fn forget(&self) {
        let end = std::mem::take(&mut *self.end());
        end.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
        self.shown.lock().await.clear();
        self.count.send_replace(0);
    }

    fn end(&self) -> MutexGuard<'_, CancellationToken> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no answer that names a job is on its way; then takes its object away and tells its
    /// end, while nobody else shows anything.
    async fn remove(
        &self,
        connection: &Connection,
        job: &JobFollower,
        path: &str,
    ) -> zbus::Result<()> {
        let id = job.id();
        let mut shown = loop {
            let released = self.holds.released.notified();
            let shown = self.shown.lock().await;
            if !self.holds.lock().contains_key(&id) {
                break shown;
            }
            drop(shown);
            released.await;
        };
        shown.remove(&id);
        self.count.send_replace(shown.len());
        let server = connection.object_server();
        server.remove::<Job, _>(path.to_owned()).await?;
        let outcome = job.outcome().unwrap_or(Outcome::Errored);
        let emitter = SignalEmitter::new(connection, PATH)?;
        let at = zbus::ObjectPath::try_from(path)?;
        Manager::job_removed(&emitter, &id.to_string(), at, outcome.as_str()).await
    }
}

/// Tells how a job goes, and that it is over.
async fn attend(
    face: &Dbus,
    connection: &Connection,
    mut job: JobFollower,
    mut before: Shown,
    path: String,
) {
    let told = async {
        let server = connection.object_server();
        let emitter = SignalEmitter::new(connection, path.clone())?;
        while !job.is_over() {
            let now = Shown::of(&job);
            if now != before {
                let object = server.interface::<_, Job>(path.clone()).await?;
                now.tell(&before, &*object.get().await, &emitter).await?;
                before = now;
            }
            if job.changed().await.is_err() {
                // It goes on in the next life of the daemon, and so does its story.
                return Ok(());
            }
        }
        face.0.objects.remove(connection, &job, &path).await
    };
    let told: zbus::Result<()> = told.await;
    if let Err(error) = told {
        tracing::debug!(
            mistry_job = %job.id(),
            error = &error as &dyn std::error::Error,
            "the bus does not hear of a job, ignoring"
        );
    }
}

//! Jobs that are not over, as objects on one connection: shown when they begin, taken away when they
//! end.
//!
//! Of one job everything is told by one task, in order: `JobNew`, what changes, `JobRemoved`. Who
//! submits a job, or asks where it is, holds it until the answer is sent, so that an end comes after
//! the answer that names the job, however short the build. The same job may be built again: that is
//! another object, shown when the one before is told to its end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zbus::Connection;
use zbus::object_server::SignalEmitter;

use super::error::{Error, Kind};
use super::job::{self, Job, Shown};
use super::manager::Manager;
use super::{Dbus, PATH};
use crate::build::Outcome;
use crate::job::JobId;
use crate::scheduler::JobObserver;

/// The jobs that are shown on a connection.
#[derive(Debug)]
pub(super) struct Objects {
    /// Tokio's, because it is held until an object is there and told, or gone and told.
    shown: tokio::sync::Mutex<HashMap<JobId, Entry>>,
    /// Answers that are on their way. Std, held for a count.
    holds: Arc<Holds>,
    /// Told when an object is gone.
    gone: Notify,
    /// How many are shown.
    count: watch::Sender<usize>,
    /// One task for each.
    tasks: TaskTracker,
    /// Ends them, with the connection that they tell it to; nothing is shown after that.
    end: CancellationToken,
}

#[derive(Debug)]
struct Entry {
    path: String,
    job: JobObserver,
}

#[derive(Debug, Default)]
struct Holds {
    held: Mutex<Vec<JobObserver>>,
    released: Notify,
}

/// Keeps a job's end from being told.
#[derive(Debug)]
pub(super) struct Hold {
    holds: Arc<Holds>,
    job: JobObserver,
}

impl Holds {
    fn lock(&self) -> MutexGuard<'_, Vec<JobObserver>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.holds.lock();
        if let Some(at) = held.iter().position(|job| job.is_same(&self.job)) {
            held.swap_remove(at);
        }
        drop(held);
        self.holds.released.notify_waiters();
    }
}

impl Objects {
    /// None yet; `count` is told how many there are.
    pub(super) fn new(count: watch::Sender<usize>) -> Arc<Objects> {
        count.send_replace(0);
        Arc::new(Objects {
            shown: tokio::sync::Mutex::default(),
            holds: Arc::default(),
            gone: Notify::new(),
            count,
            tasks: TaskTracker::new(),
            end: CancellationToken::new(),
        })
    }

    /// Keeps the end of a job from being told as long as the hold is held.
    pub(super) fn hold(&self, job: &JobObserver) -> Hold {
        self.holds.lock().push(job.clone());
        Hold {
            holds: self.holds.clone(),
            job: job.clone(),
        }
    }

    /// Where a job is shown, if it is; its end is not told as long as the hold is held.
    pub(super) async fn find(&self, id: JobId) -> Option<(String, Hold)> {
        let shown = self.shown.lock().await;
        let entry = shown.get(&id)?;
        Some((entry.path.clone(), self.hold(&entry.job)))
    }

    /// Shows a job that was accepted, unless it is shown already, and tells how it goes from now on.
    /// Returns where it is. When the connection is being left, it is shown by the next process.
    ///
    /// # Errors
    /// When the bus does not take it, or the job is over.
    pub(super) async fn show(
        self: &Arc<Self>,
        dbus: &Dbus,
        connection: &Connection,
        job: JobObserver,
    ) -> Result<String, Error> {
        let id = job.id();
        let mut shown = loop {
            let gone = self.gone.notified();
            let shown = self.shown.lock().await;
            if self.end.is_cancelled() {
                // The job goes on, and the next process shows it there.
                return Ok(job::path(id, true));
            }
            match shown.get(&id) {
                Some(entry) if entry.job.is_same(&job) => return Ok(entry.path.clone()),
                // It came and went while others were told; the client that asked for it looks how it ended.
                Some(entry) if job.is_over() && !entry.job.is_over() => {
                    let sentence = format!("job '{id}' is over; DescribeBuild tells how");
                    return Err(Error::new(Kind::JobOver, sentence));
                }
                // The build before is over; its end comes first.
                Some(_) => drop(shown),
                None => break shown,
            }
            gone.await;
        };
        let before = Shown::of(&job);
        let path = self.register(dbus, connection, &job).await;
        let path = path.map_err(|error| Error::ours("could not show a job on the bus", &error))?;
        let entry = Entry {
            path: path.clone(),
            job: job.clone(),
        };
        shown.insert(id, entry);
        self.count.send_replace(shown.len());
        let told = tell_new(connection, id, &path).await;
        let (objects, dbus, connection) = (self.clone(), dbus.clone(), connection.clone());
        let (end, at) = (self.end.clone(), path.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = objects.attend(&dbus, &connection, job, before, at) => {}
            }
        });
        told.map_err(|error| Error::ours("could not tell of a job on the bus", &error))?;
        Ok(path)
    }

    async fn register(
        self: &Arc<Self>,
        dbus: &Dbus,
        connection: &Connection,
        job: &JobObserver,
    ) -> zbus::Result<String> {
        let server = connection.object_server();
        let path = job::path(job.id(), true);
        let object = Job {
            dbus: dbus.clone(),
            follower: job.clone(),
        };
        match server.at(path.clone(), object).await? {
            None => Ok(path),
            // Two ids that begin alike are no accident, but no reason to mix them up either.
            Some(object) => {
                let path = job::path(job.id(), false);
                server.at(path.clone(), object).await?;
                Ok(path)
            }
        }
    }

    /// Lets all of them go without a word: the connection that they were shown on is gone or goes.
    pub(super) async fn leave(&self) {
        self.end.cancel();
        // A task that shows one just now sees it through; after that none begins.
        drop(self.shown.lock().await);
        self.tasks.close();
        self.tasks.wait().await;
        self.count.send_replace(0);
    }

    /// Tells how a job goes, and that it is over.
    async fn attend(
        &self,
        dbus: &Dbus,
        connection: &Connection,
        mut job: JobObserver,
        before: Shown,
        path: String,
    ) {
        let changes = tell_changes(connection, &mut job, before, &path).await;
        while !job.is_over() {
            if job.changed().await.is_err() {
                // It goes on in the next process of the daemon, and so does its story.
                return;
            }
        }
        let told = changes.and(self.remove(connection, &job, &path).await);
        dbus.0.departures.over();
        if let Err(error) = told {
            tracing::debug!(
                mistry_job = %job.id(),
                error = &error as &dyn std::error::Error,
                "the bus does not hear of a job, ignoring"
            );
        }
    }

    /// Waits until no answer that names a job is on its way; then takes its object away and tells its
    /// end, while nothing else is shown.
    async fn remove(
        &self,
        connection: &Connection,
        job: &JobObserver,
        path: &str,
    ) -> zbus::Result<()> {
        let id = job.id();
        let mut shown = loop {
            let released = self.holds.released.notified();
            let shown = self.shown.lock().await;
            if !self.holds.lock().iter().any(|held| held.is_same(job)) {
                break shown;
            }
            drop(shown);
            released.await;
        };
        let server = connection.object_server();
        let removed = server.remove::<Job, _>(path.to_owned()).await;
        let outcome = job.outcome().unwrap_or(Outcome::Errored);
        let emitter = SignalEmitter::new(connection, PATH)?;
        let at = zbus::ObjectPath::try_from(path)?;
        let told = Manager::job_removed(&emitter, &id.to_string(), at, outcome.as_str()).await;
        shown.remove(&id);
        self.count.send_replace(shown.len());
        drop(shown);
        self.gone.notify_waiters();
        removed.and(told)
    }
}

async fn tell_new(connection: &Connection, id: JobId, path: &str) -> zbus::Result<()> {
    let emitter = SignalEmitter::new(connection, PATH)?;
    let at = zbus::ObjectPath::try_from(path)?;
    Manager::job_new(&emitter, &id.to_string(), at).await
}

/// Tells what changes of a job until it is over, or the daemon ends.
async fn tell_changes(
    connection: &Connection,
    job: &mut JobObserver,
    mut before: Shown,
    path: &str,
) -> zbus::Result<()> {
    let server = connection.object_server();
    let emitter = SignalEmitter::new(connection, path.to_owned())?;
    while !job.is_over() {
        let now = Shown::of(job);
        if now != before {
            let object = server.interface::<_, Job>(path.to_owned()).await?;
            now.tell(&before, &*object.get().await, &emitter).await?;
            before = now;
        }
        if job.changed().await.is_err() {
            break;
        }
    }
    Ok(())
}

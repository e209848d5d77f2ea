//! The objects of jobs that are not over, on one connection: published when a job begins, removed when it
//! ends.
//!
//! One task emits all signals of a job, in order: `JobNew`, property changes, `JobRemoved`. A call that
//! submits a job or asks for its path holds the job until the answer is sent, so the end comes after the
//! answer that names the job, however short the build. The same job may be built again: that is another
//! object, published when the end of the earlier one has been emitted.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zbus::Connection;
use zbus::object_server::SignalEmitter;

use parking_lot::{Mutex, MutexGuard};

use super::error::{Error, Kind};
use super::job::{self, Job, JobState};
use super::shared::Dbus;
use super::signals::{emit_job_new, emit_job_removed};
use crate::job::{JobId, Outcome};
use crate::scheduler::JobObserver;

/// The jobs that are published on a connection.
#[derive(Debug)]
pub(super) struct Objects {
    /// Tokio's mutex, because it is held until an object is registered, or removed, and the signal is
    /// emitted.
    published: tokio::sync::Mutex<HashMap<JobId, Entry>>,
    /// Answers that are being sent. Locked for a count.
    holds: Arc<Holds>,
    /// Notified when an object is gone.
    gone: Notify,
    /// The number of objects.
    count: watch::Sender<usize>,
    /// One task for each object.
    tasks: TaskTracker,
    /// Ends the tasks when the connection ends; nothing is published after that.
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

/// Delays the signal of a job's end.
#[derive(Debug)]
pub(super) struct Hold {
    holds: Arc<Holds>,
    job: JobObserver,
}

impl Holds {
    fn lock(&self) -> MutexGuard<'_, Vec<JobObserver>> {
        self.held.lock()
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
    /// Creates an empty set; `count` receives its size.
    pub(super) fn new(count: watch::Sender<usize>) -> Arc<Objects> {
        count.send_replace(0);
        Arc::new(Objects {
            published: tokio::sync::Mutex::default(),
            holds: Arc::default(),
            gone: Notify::new(),
            count,
            tasks: TaskTracker::new(),
            end: CancellationToken::new(),
        })
    }

    /// Delays the signal of a job's end until the hold is dropped.
    pub(super) fn hold(&self, job: &JobObserver) -> Hold {
        self.holds.lock().push(job.clone());
        Hold {
            holds: self.holds.clone(),
            job: job.clone(),
        }
    }

    /// The object of a job, if it has one; the signal of its end is delayed until the hold is dropped.
    pub(super) async fn find(&self, id: JobId) -> Option<(String, Hold)> {
        let published = self.published.lock().await;
        let entry = published.get(&id)?;
        Some((entry.path.clone(), self.hold(&entry.job)))
    }

    /// Publishes an accepted job, unless it is published already, and emits its changes from now on. Returns
    /// its path. While the connection is being closed, nothing is published; the next process does it.
    ///
    /// # Errors
    /// If the bus does not accept it, or the job is over.
    pub(super) async fn publish(
        self: &Arc<Self>,
        dbus: &Dbus,
        connection: &Connection,
        job: JobObserver,
    ) -> Result<String, Error> {
        let id = job.id();
        let mut published = loop {
            let gone = self.gone.notified();
            let published = self.published.lock().await;
            if self.end.is_cancelled() {
                // The job continues, and the next process publishes it there.
                return Ok(job::short_path(id));
            }
            match published.get(&id) {
                Some(entry) if entry.job.is_same(&job) => return Ok(entry.path.clone()),
                // It began and ended while other signals were emitted; its client must ask for the outcome.
                Some(entry) if job.is_over() && !entry.job.is_over() => {
                    let sentence = format!("job '{id}' is over; DescribeBuild tells how");
                    return Err(Error::new(Kind::JobOver, sentence));
                }
                // The earlier build is over; its end must be emitted first.
                Some(_) => drop(published),
                None => break published,
            }
            gone.await;
        };
        let before = JobState::of(&job);
        let path = self.register(dbus, connection, &job).await;
        let path =
            path.map_err(|error| Error::ours("could not publish a job on the bus", &error))?;
        let entry = Entry {
            path: path.clone(),
            job: job.clone(),
        };
        published.insert(id, entry);
        self.count.send_replace(published.len());
        let emitted = emit_job_new(connection, id, &path).await;
        let (objects, dbus, connection) = (self.clone(), dbus.clone(), connection.clone());
        let (end, at) = (self.end.clone(), path.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = objects.follow(&dbus, &connection, job, before, at) => {}
            }
        });
        emitted.map_err(|error| Error::ours("could not emit a signal on the bus", &error))?;
        Ok(path)
    }

    async fn register(
        self: &Arc<Self>,
        dbus: &Dbus,
        connection: &Connection,
        job: &JobObserver,
    ) -> zbus::Result<String> {
        let server = connection.object_server();
        let path = job::short_path(job.id());
        let object = Job {
            dbus: dbus.clone(),
            follower: job.clone(),
        };
        match server.at(path.clone(), object).await? {
            None => Ok(path),
            // Two ids with the same prefix are no accident, but they must not be mixed up either.
            Some(object) => {
                let path = job::full_path(job.id());
                server.at(path.clone(), object).await?;
                Ok(path)
            }
        }
    }

    /// Drops all objects without a signal: their connection is closed or closing.
    pub(super) async fn leave(&self) {
        self.end.cancel();
        // A task that is publishing an object finishes that; no other begins after it.
        drop(self.published.lock().await);
        self.tasks.close();
        self.tasks.wait().await;
        self.count.send_replace(0);
    }

    /// Emits the changes of a job, and its end.
    async fn follow(
        &self,
        dbus: &Dbus,
        connection: &Connection,
        mut job: JobObserver,
        before: JobState,
        path: String,
    ) {
        let changes = emit_changes(connection, &mut job, before, &path).await;
        while !job.is_over() {
            if job.changed().await.is_err() {
                // The next process of the daemon continues it and publishes it again.
                return;
            }
        }
        let emitted = changes.and(self.remove(connection, &job, &path).await);
        dbus.0.client_handles.drop_ended();
        if let Err(error) = emitted {
            tracing::debug!(
                mistry_job = %job.id(),
                error = &error as &dyn std::error::Error,
                "could not emit the signals of a job on the bus, ignoring"
            );
        }
    }

    /// Waits until every answer that names a job is sent; then removes its object and emits its end, under
    /// the lock.
    async fn remove(
        &self,
        connection: &Connection,
        job: &JobObserver,
        path: &str,
    ) -> zbus::Result<()> {
        let id = job.id();
        let mut published = loop {
            let released = self.holds.released.notified();
            let published = self.published.lock().await;
            if !self.holds.lock().iter().any(|held| held.is_same(job)) {
                break published;
            }
            drop(published);
            released.await;
        };
        let server = connection.object_server();
        let removed = server.remove::<Job, _>(path.to_owned()).await;
        let outcome = job.outcome().unwrap_or(Outcome::Errored);
        let emitted = emit_job_removed(connection, id, path, outcome).await;
        published.remove(&id);
        self.count.send_replace(published.len());
        drop(published);
        self.gone.notify_waiters();
        removed.and(emitted)
    }
}

/// Emits the changes of a job until it is over, or the daemon stops.
async fn emit_changes(
    connection: &Connection,
    job: &mut JobObserver,
    mut before: JobState,
    path: &str,
) -> zbus::Result<()> {
    let server = connection.object_server();
    let emitter = SignalEmitter::new(connection, path.to_owned())?;
    while !job.is_over() {
        let now = JobState::of(job);
        if now != before {
            let object = server.interface::<_, Job>(path.to_owned()).await?;
            now.emit_changes(&before, &*object.get().await, &emitter)
                .await?;
            before = now;
        }
        if job.changed().await.is_err() {
            break;
        }
    }
    Ok(())
}

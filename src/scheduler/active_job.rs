//! The shared state of an active job: queued or running, not finished.
//!
//! [`ActiveJob`] is shared by the queue, the task that runs the build, and its observers. A [`JobObserver`]
//! reads progress. A [`JobHandle`] also counts as a waiter: when the last waiter is dropped and every
//! request set `cancel_on_disconnect`, the job is cancelled.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use jiff::Timestamp;
use tokio::sync::{Notify, SetOnce, watch};
use tokio_util::sync::CancellationToken;

use parking_lot::{Mutex, MutexGuard};

use super::error::Error;
use crate::budget::Held;
use crate::build::{BuildAnswer, BuildInfo, Cancelled, LogProgress, Outcome};
use crate::job::JobId;
use crate::project::ProjectName;

/// How it ended for its waiters.
#[derive(Clone, Debug)]
enum Ended {
    /// There is a build, whatever its outcome.
    Built(BuildAnswer),
    /// The job was not accepted, or its end could not be written down.
    Rejected(Arc<Error>),
}

#[derive(Clone, Debug, Default)]
struct View {
    /// `None` before the job is on stable storage.
    info: Option<Arc<BuildInfo>>,
    log: Option<LogProgress>,
    ended: Option<Ended>,
    /// The container that is its own now.
    container: Option<String>,
    /// Until when that must have ended.
    deadline: Option<Timestamp>,
}

impl View {
    fn now(&self) -> Option<Arc<BuildInfo>> {
        match &self.ended {
            Some(Ended::Built(answer)) => Some(answer.info().clone()),
            _ => self.info.clone(),
        }
    }
}

/// Decides whether a job is cancelled when its last waiter disconnects, and who may ask for its end.
#[derive(Debug, Default)]
struct Waiters {
    /// At least one request did not set `cancel_on_disconnect`.
    keep_when_disconnected: bool,
    /// Handles whose clients wait.
    count: usize,
    /// All handles: also a client that has stopped waiting may ask for the end.
    handles: usize,
}

const CANCELLED_BY: &str = "mistryd";
const ALL_WAITERS_DISCONNECTED: &str = "all clients that wanted it have disconnected";

/// Who is at the beginning of a job, and what they wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Origin {
    /// The request that asked first; `None` when that was in an earlier process.
    pub(super) request: Option<String>,
    /// Who asked first, as the interface knows them.
    pub(super) asker: Option<String>,
    /// A new image was asked for: what is cached stays in force meanwhile.
    pub(super) rebuild: bool,
}

/// A job between admission and end.
#[derive(Debug)]
pub(super) struct ActiveJob {
    pub(super) project: ProjectName,
    pub(super) id: JobId,
    /// The group's name, if any.
    pub(super) group: Option<String>,
    pub(super) origin: Origin,
    /// Told once, when it gets its slot.
    pub(super) slot: Notify,
    /// Set when its end is asked for.
    cancel: SetOnce<Cancelled>,
    /// Askers who came after the first.
    joined: AtomicU32,
    /// Held for a count, and for the decision that follows from it.
    waiters: Mutex<Waiters>,
    view: watch::Sender<View>,
    /// What its large params are counted by until it is over. A observer may stay for as long as a
    /// reader is slow, and must not take the budget of those who build.
    params: Mutex<Option<Arc<Held>>>,
}

impl ActiveJob {
    pub(super) fn new(
        project: ProjectName,
        id: JobId,
        group: Option<String>,
        origin: Origin,
        params: Option<Arc<Held>>,
    ) -> Arc<ActiveJob> {
        Arc::new(ActiveJob {
            project,
            id,
            group,
            origin,
            slot: Notify::new(),
            cancel: SetOnce::new(),
            joined: AtomicU32::new(0),
            waiters: Mutex::default(),
            view: watch::channel(View::default()).0,
            params: Mutex::new(params),
        })
    }

    /// Asks for its end; the first who asks is named.
    pub(super) fn cancel(&self, cancelled: Cancelled) {
        // A second wish changes nothing.
        let _ = self.cancel.set(cancelled);
    }

    /// Waits until its end is asked for.
    pub(super) async fn cancelled(&self) -> Cancelled {
        self.cancel.wait().await.clone()
    }

    /// A client that has a handle wants the build. False when it is being cancelled already.
    pub(super) fn want(&self, cancel_on_disconnect: bool) -> bool {
        let mut waiters = self.waiters();
        waiters.keep_when_disconnected |= !cancel_on_disconnect;
        !self.cancel.initialized()
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock()
    }

    /// Shows what the build is doing now. The first time means: it is accepted.
    pub(super) fn show(&self, info: &BuildInfo) {
        let mut info = info.clone();
        self.view.send_modify(|view| {
            info.joined = self.joined();
            view.info = Some(Arc::new(info));
        });
    }

    /// One more has asked for it.
    pub(super) fn join(&self) {
        self.view.send_modify(|view| {
            let joined = self.joined.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some(info) = &mut view.info {
                Arc::make_mut(info).joined = joined;
            }
        });
    }

    /// How many have asked for it after the first.
    pub(super) fn joined(&self) -> u32 {
        self.joined.load(Ordering::Relaxed)
    }

    pub(super) fn show_log(&self, log: LogProgress) {
        self.view.send_modify(|view| view.log = Some(log));
    }

    /// Shows which container is its own, and until when it may run; any other that runs for this job
    /// has no owner.
    pub(super) fn own(&self, container: Option<String>, deadline: Option<Timestamp>) {
        self.view.send_modify(|view| {
            view.container = container;
            view.deadline = deadline;
        });
    }

    /// The container that is its own now.
    pub(super) fn container(&self) -> Option<String> {
        self.view.borrow().container.clone()
    }

    pub(super) fn end_built(&self, answer: BuildAnswer) {
        self.end(Ended::Built(answer));
    }

    pub(super) fn end_rejected(&self, error: Error) {
        self.end(Ended::Rejected(Arc::new(error)));
    }

    /// What the build is doing now; `None` before it is accepted.
    pub(super) fn now(&self) -> Option<Arc<BuildInfo>> {
        self.view.borrow().now()
    }

    fn end(&self, ended: Ended) {
        self.view.send_modify(|view| view.ended = Some(ended));
        self.abridge();
        let mut params = self.params.lock();
        *params = None;
    }

    /// Keeps only what lists show of a job that is over, unless a client with a handle may ask for its end.
    /// A observer may stay for as long as a reader is slow, and what it keeps is counted no more.
    fn abridge(&self) {
        let waiters = self.waiters();
        if waiters.handles > 0 {
            return;
        }
        self.view.send_if_modified(|view| {
            match &mut view.ended {
                None => {}
                Some(Ended::Built(answer)) => {
                    let mut info = BuildInfo::clone(answer.info());
                    info.abridge();
                    *answer = BuildAnswer::new(info);
                    view.info = Some(answer.info().clone());
                }
                Some(Ended::Rejected(_)) => {
                    if let Some(info) = &mut view.info {
                        Arc::make_mut(info).abridge();
                    }
                }
            }
            // It is no news.
            false
        });
    }

    pub(super) fn handle(
        self: &Arc<ActiveJob>,
        coalesced: bool,
        stop: CancellationToken,
    ) -> JobHandle {
        let mut waiters = self.waiters();
        waiters.count += 1;
        waiters.handles += 1;
        JobHandle {
            observer: self.observer(stop),
            coalesced,
            is_waiting: true,
        }
    }

    pub(super) fn observer(self: &Arc<ActiveJob>, stop: CancellationToken) -> JobObserver {
        JobObserver {
            view: self.view.subscribe(),
            active: self.clone(),
            stop,
        }
    }
}

/// Reads the progress of a job, without counting as a waiter.
#[derive(Clone, Debug)]
pub struct JobObserver {
    active: Arc<ActiveJob>,
    view: watch::Receiver<View>,
    stop: CancellationToken,
}

impl JobObserver {
    /// The project asked for.
    pub fn project(&self) -> &ProjectName {
        &self.active.project
    }

    /// The job's id.
    pub fn id(&self) -> JobId {
        self.active.id
    }

    /// True when both follow the same build of a job. The same id may be asked for again when it is
    /// over, and that is another.
    pub fn is_same(&self, other: &JobObserver) -> bool {
        Arc::ptr_eq(&self.active, &other.active)
    }

    /// Who asked for it first, as the interface knows them; `None` where that is not known.
    pub fn asker(&self) -> Option<&str> {
        self.active.origin.asker.as_deref()
    }

    /// A new image was asked for, whatever was cached.
    pub fn is_rebuild(&self) -> bool {
        self.active.origin.rebuild
    }

    /// The container that is its own now.
    pub fn container(&self) -> Option<String> {
        self.active.container()
    }

    /// Until when its container must have ended, where it has one and that matters.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.view.borrow().deadline
    }

    /// How it ended: `None` while it has not. What could not be brought to its end is errored.
    pub fn outcome(&self) -> Option<Outcome> {
        match &self.view.borrow().ended {
            Some(Ended::Built(answer)) => Some(answer.info().outcome.unwrap_or(Outcome::Errored)),
            Some(Ended::Rejected(_)) => Some(Outcome::Errored),
            None => None,
        }
    }

    /// Waits until the job is on stable storage.
    ///
    /// # Errors
    /// Why it was not accepted, or [`Error::Stopping`].
    pub async fn accepted(&mut self) -> Result<Arc<BuildInfo>, Error> {
        loop {
            let view = self.view.borrow_and_update().clone();
            match (view.ended, view.info) {
                (Some(Ended::Built(answer)), _) => return Ok(answer.info().clone()),
                (Some(Ended::Rejected(error)), _) => return Err(Error::Rejected(error)),
                (None, Some(info)) => return Ok(info),
                (None, None) => self.changed().await?,
            }
        }
    }

    /// Waits for news of the job, which [`JobObserver::now`] then shows.
    ///
    /// # Errors
    /// [`Error::Stopping`] when the daemon ends first, [`Error::Ending`] when the job was not even
    /// accepted by then.
    pub async fn changed(&mut self) -> Result<(), Error> {
        let is_accepted = self.view.borrow().info.is_some();
        let stopping = || match is_accepted {
            true => Error::Stopping(self.active.project.clone(), self.active.id),
            false => Error::Ending,
        };
        tokio::select! {
            // The sender lives in our own `ActiveJob`.
            changed = self.view.changed() => changed.map_err(|_| stopping()),
            () = self.stop.cancelled() => Err(stopping()),
        }
    }

    /// What the build is doing now; `None` before it is accepted. When it is over, and no handle is held,
    /// as much as lists show.
    pub fn now(&self) -> Option<Arc<BuildInfo>> {
        self.view.borrow().now()
    }

    /// Whether it is over, and what the build is doing or how it ended; what changes from now on
    /// [`JobObserver::changed`] tells.
    pub fn snapshot(&mut self) -> (bool, Option<Arc<BuildInfo>>) {
        let view = self.view.borrow_and_update();
        (view.ended.is_some(), view.now())
    }

    /// True when there is no more to wait for.
    pub fn is_over(&self) -> bool {
        self.view.borrow().ended.is_some()
    }

    /// Where followers of its log get on; `None` before it is accepted.
    pub fn log(&self) -> Option<LogProgress> {
        self.view.borrow().log.clone()
    }
}

/// What a client that waits for a job holds. When the last one is dropped and every request set
/// `cancel_on_disconnect`, the job is cancelled.
#[derive(Debug)]
pub struct JobHandle {
    observer: JobObserver,
    coalesced: bool,
    /// It counts as a waiter.
    is_waiting: bool,
}

impl Deref for JobHandle {
    type Target = JobObserver;

    fn deref(&self) -> &JobObserver {
        &self.observer
    }
}

impl DerefMut for JobHandle {
    fn deref_mut(&mut self) -> &mut JobObserver {
        &mut self.observer
    }
}

impl Drop for JobHandle {
    fn drop(&mut self) {
        self.stop_waiting();
        self.active.waiters().handles -= 1;
        self.active.abridge();
    }
}

impl JobHandle {
    /// Stops wanting the build, as dropping the handle does, and still follows it.
    pub fn stop_waiting(&mut self) {
        if !std::mem::take(&mut self.is_waiting) {
            return;
        }
        let mut waiters = self.active.waiters();
        waiters.count -= 1;
        // A daemon that ends sends all clients away, and no build with them.
        let is_left = waiters.count == 0 && !waiters.keep_when_disconnected;
        if is_left && !self.stop.is_cancelled() && !self.is_over() {
            self.active.cancel(Cancelled {
                by: CANCELLED_BY.to_owned(),
                reason: ALL_WAITERS_DISCONNECTED.to_owned(),
            });
        }
    }

    /// To see how the job goes without wanting it.
    pub fn observer(&self) -> JobObserver {
        self.observer.clone()
    }

    /// Another client had asked for it already.
    pub fn coalesced(&self) -> bool {
        self.coalesced
    }

    /// Asks for the build's end, unless `only_own` names another than who asked for it first.
    /// Returns how it stands when that is on stable storage.
    ///
    /// # Errors
    /// [`Error::NotYours`]; [`Error::Over`] when it ended otherwise meanwhile; why it was not accepted;
    /// [`Error::Stopping`].
    pub(super) async fn cancel(
        &mut self,
        cancelled: Cancelled,
        only_own: Option<&str>,
    ) -> Result<Arc<BuildInfo>, Error> {
        self.accepted().await?;
        let (project, id) = (self.active.project.clone(), self.active.id);
        if only_own.is_some_and(|by| self.asker() != Some(by)) {
            return Err(Error::NotYours(project, id));
        }
        self.active.cancel(cancelled);
        loop {
            let view = self.view.borrow_and_update().clone();
            // Of what is over this is its end, on a disk that took no word of it before.
            if let Some(info) = view.now().filter(|info| info.cancelled.is_some()) {
                return Ok(info);
            }
            match view.ended {
                Some(Ended::Built(_)) => return Err(Error::Over(project, id)),
                Some(Ended::Rejected(error)) => return Err(Error::Rejected(error)),
                None => self.changed().await?,
            }
        }
    }

    /// Waits until the job is over; the answer holds the end of the log. Whether this asker was coalesced
    /// [`JobHandle::coalesced`] says.
    ///
    /// # Errors
    /// Why there is no result, or [`Error::Stopping`] when the daemon ends first.
    pub async fn end(&mut self) -> Result<BuildAnswer, Error> {
        loop {
            let ended = self.view.borrow_and_update().ended.clone();
            match ended {
                Some(Ended::Built(answer)) => return Ok(answer),
                Some(Ended::Rejected(error)) => return Err(Error::Rejected(error)),
                None => self.changed().await?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{Budget, Client};

    #[test]
    fn an_observer_of_a_job_that_is_over_holds_nothing_of_the_budget() {
        let budget = Budget::new(100, 0);
        let project: ProjectName = "hello".parse().unwrap();
        let id = "0".repeat(64).parse().unwrap();
        let params = budget.hold(Client::Proxy, 40).map(Arc::new);
        let active = ActiveJob::new(project, id, None, Origin::default(), params);
        let observer = active.observer(CancellationToken::new());
        let handle = active.handle(false, CancellationToken::new());
        assert_eq!(budget.held(), 40);
        active.end_rejected(Error::Lost);
        assert_eq!(budget.held(), 0);
        assert!(observer.is_over() && handle.is_over());
    }

    #[test]
    fn an_observer_of_a_job_that_is_over_keeps_its_large_params_only_while_there_is_a_handle() {
        let end = |active: &ActiveJob, info: &BuildInfo, is_built| match is_built {
            true => active.end_built(BuildAnswer::new(info.clone())),
            false => active.end_rejected(Error::Lost),
        };
        for (is_built, has_ticket) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut info = BuildInfo {
                outcome: Some(Outcome::Failed),
                ..BuildInfo::default()
            };
            let value: Arc<str> = "x".repeat(1 << 20).into();
            let kept = Arc::downgrade(&value);
            info.params.insert("large".to_owned(), Some(value));
            let (project, id) = ("hello".parse().unwrap(), "0".repeat(64).parse().unwrap());
            let active = ActiveJob::new(project, id, None, Origin::default(), None);
            let mut observer = active.observer(CancellationToken::new());
            let handle = has_ticket.then(|| active.handle(false, CancellationToken::new()));
            active.show(&info);
            end(&active, &info, is_built);
            drop((info, active));
            if let Some(mut handle) = handle {
                // A client that has stopped waiting may still ask for the end.
                handle.stop_waiting();
                assert!(kept.upgrade().is_some());
            }
            assert!(kept.upgrade().is_none(), "{is_built}, {has_ticket}");
            let (is_over, info) = observer.snapshot();
            let info = info.unwrap();
            assert!(is_over && info.params.contains_key("large"));
            assert_eq!(info.outcome, Some(Outcome::Failed));
        }
    }
}

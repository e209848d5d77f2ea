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
use super::request::SubmitRequest;
use crate::budget::Held;
use crate::build::{BuildAnswer, BuildInfo, LogProgress};
use crate::job::{Cancelled, GroupName, JobId, Outcome};
use crate::project::ProjectName;

/// How far a job is.
#[derive(Clone, Debug, Default)]
enum Stage {
    /// It is not on stable storage yet.
    #[default]
    Submitted,
    /// It is queued or running.
    Accepted(Arc<BuildInfo>),
    /// It is over, and there is a build, whatever its outcome.
    Built(BuildAnswer),
    /// It is over without a build: it was not accepted, or its end could not be written to disk. With the last
    /// state of the build, if it had one.
    Rejected(Arc<Error>, Option<Arc<BuildInfo>>),
}

impl Stage {
    fn is_over(&self) -> bool {
        matches!(self, Stage::Built(_) | Stage::Rejected(..))
    }

    /// The last known state of the build.
    fn info(&self) -> Option<&Arc<BuildInfo>> {
        match self {
            Stage::Submitted => None,
            Stage::Accepted(info) => Some(info),
            Stage::Built(answer) => Some(answer.info()),
            Stage::Rejected(_, info) => info.as_ref(),
        }
    }

    /// The state of a build that is not over, to be changed.
    fn accepted_mut(&mut self) -> Option<&mut BuildInfo> {
        match self {
            Stage::Accepted(info) => Some(Arc::make_mut(info)),
            _ => None,
        }
    }
}

/// The state that observers of a job see.
#[derive(Clone, Debug, Default)]
struct Progress {
    stage: Stage,
    /// `None` before there is a log.
    log: Option<LogProgress>,
    /// The container that currently runs for the job.
    container: Option<String>,
    /// When the container must have ended.
    deadline: Option<Timestamp>,
}

/// Decides whether a job is cancelled when its last waiter disconnects, and whether it can be cancelled.
#[derive(Debug, Default)]
struct Waiters {
    /// At least one request did not set `cancel_on_disconnect`.
    keep_when_disconnected: bool,
    /// Handles whose clients are waiting.
    count: usize,
    /// All handles: a client that has stopped waiting may also cancel the job.
    handles: usize,
}

const CANCELLED_BY: &str = "mistryd";
const ALL_WAITERS_DISCONNECTED: &str = "all clients that wanted it have disconnected";

/// The first request for a job, and its options.
#[derive(Clone, Debug, Default)]
pub(super) struct Origin {
    /// The id of the first request; `None` when an earlier process received it.
    pub(super) request: Option<String>,
    /// The first request's user, as the interface names them.
    pub(super) asker: Option<String>,
    /// A new image was requested.
    pub(super) rebuild: bool,
    /// A cold build was requested.
    pub(super) cold: bool,
}

impl Origin {
    /// The build is made whatever is cached; a cached build stays valid meanwhile.
    pub(super) fn ignores_cache(&self) -> bool {
        self.rebuild || self.cold
    }

    /// True when a request may join the build: it is made anew in every way that the request wants.
    pub(super) fn satisfies(&self, request: &SubmitRequest) -> bool {
        (self.rebuild || !request.rebuild) && (self.cold || !request.cold)
    }
}

/// A job between admission and end.
#[derive(Debug)]
pub(super) struct ActiveJob {
    pub(super) project: ProjectName,
    pub(super) id: JobId,
    pub(super) group: Option<GroupName>,
    pub(super) origin: Origin,
    /// Notified once, when the job gets its slot.
    pub(super) slot: Notify,
    /// Set when the job is cancelled.
    cancel: SetOnce<Cancelled>,
    /// Requests that joined the job after the first.
    joined: AtomicU32,
    /// Locked for a count, and for the decision that follows from it.
    waiters: Mutex<Waiters>,
    progress: watch::Sender<Progress>,
    /// Holds the budget of the job's large params until the job is over. An observer may live as long as a
    /// slow reader, and must not use up the budget of clients that build.
    params: Mutex<Option<Arc<Held>>>,
}

impl ActiveJob {
    pub(super) fn new(
        project: ProjectName,
        id: JobId,
        group: Option<GroupName>,
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
            progress: watch::Sender::default(),
            params: Mutex::new(params),
        })
    }

    /// Cancels the job; the first request to do so is recorded.
    pub(super) fn cancel(&self, cancelled: Cancelled) {
        // A second cancellation changes nothing.
        let _ = self.cancel.set(cancelled);
    }

    /// Waits until the job is cancelled.
    pub(super) async fn cancelled(&self) -> Cancelled {
        self.cancel.wait().await.clone()
    }

    /// Adds a request of a client that has a handle. Returns false when the job is already being cancelled.
    pub(super) fn add_request(&self, cancel_on_disconnect: bool) -> bool {
        if !cancel_on_disconnect {
            self.keep_when_disconnected();
        }
        !self.cancel.initialized()
    }

    /// The job is built even if all clients disconnect.
    pub(super) fn keep_when_disconnected(&self) {
        self.waiters().keep_when_disconnected = true;
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock()
    }

    /// Publishes the build's current state. The first call means that the job is accepted.
    pub(super) fn publish_state(&self, info: &BuildInfo) {
        let mut info = info.clone();
        self.progress.send_modify(|progress| {
            info.joined = self.joined();
            if !progress.stage.is_over() {
                progress.stage = Stage::Accepted(Arc::new(info));
            }
        });
    }

    /// Counts one more request for the job.
    pub(super) fn join(&self) {
        self.progress.send_modify(|progress| {
            let joined = self.joined.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some(info) = progress.stage.accepted_mut() {
                info.joined = joined;
            }
        });
    }

    /// The number of requests for the job after the first.
    pub(super) fn joined(&self) -> u32 {
        self.joined.load(Ordering::Relaxed)
    }

    pub(super) fn publish_log(&self, log: LogProgress) {
        self.progress
            .send_modify(|progress| progress.log = Some(log));
    }

    /// Sets the container that belongs to the job, and until when it may run; any other container that runs
    /// for this job has no owner.
    pub(super) fn set_container(&self, container: String, deadline: Option<Timestamp>) {
        self.progress.send_modify(|progress| {
            progress.container = Some(container);
            progress.deadline = deadline;
        });
    }

    /// No container belongs to the job any more.
    pub(super) fn clear_container(&self) {
        self.progress.send_modify(|progress| {
            progress.container = None;
            progress.deadline = None;
        });
    }

    /// The container that currently belongs to the job.
    pub(super) fn container(&self) -> Option<String> {
        self.progress.borrow().container.clone()
    }

    pub(super) fn end_built(&self, answer: BuildAnswer) {
        self.end(|_| Stage::Built(answer));
    }

    pub(super) fn end_rejected(&self, error: Error) {
        self.end(|last| Stage::Rejected(Arc::new(error), last.info().cloned()));
    }

    /// The build's current state; `None` before the job is accepted.
    pub(super) fn now(&self) -> Option<Arc<BuildInfo>> {
        self.progress.borrow().stage.info().cloned()
    }

    fn end(&self, stage: impl FnOnce(&Stage) -> Stage) {
        self.progress
            .send_modify(|progress| progress.stage = stage(&progress.stage));
        self.abridge();
        let mut params = self.params.lock();
        *params = None;
    }

    /// Keeps only what lists show of a job that is over, unless a client with a handle may still cancel it.
    /// An observer may live as long as a slow reader, and the memory it holds is no longer counted.
    fn abridge(&self) {
        let waiters = self.waiters();
        if waiters.handles > 0 {
            return;
        }
        self.progress.send_if_modified(|progress| {
            match &mut progress.stage {
                Stage::Built(answer) => *answer = answer.abridged(),
                Stage::Rejected(_, Some(info)) => Arc::make_mut(info).abridge(),
                Stage::Submitted | Stage::Accepted(_) | Stage::Rejected(_, None) => {}
            }
            // No state changed.
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
            progress: self.progress.subscribe(),
            active: self.clone(),
            stop,
        }
    }
}

/// Reads the progress of a job, without counting as a waiter.
#[derive(Clone, Debug)]
pub struct JobObserver {
    active: Arc<ActiveJob>,
    progress: watch::Receiver<Progress>,
    stop: CancellationToken,
}

impl JobObserver {
    /// The project it builds.
    pub fn project(&self) -> &ProjectName {
        &self.active.project
    }

    /// The job's id.
    pub fn id(&self) -> JobId {
        self.active.id
    }

    /// True when both observe the same build of a job. The same id may be requested again after the build is
    /// over; that is another build.
    pub fn is_same(&self, other: &JobObserver) -> bool {
        Arc::ptr_eq(&self.active, &other.active)
    }

    /// The user who requested the job first, as the interface identifies them; `None` where that is not
    /// known.
    pub fn asker(&self) -> Option<&str> {
        self.active.origin.asker.as_deref()
    }

    /// The build is made whatever is cached, and a succeeded build of the job may stay beside it.
    pub fn ignores_cache(&self) -> bool {
        self.active.origin.ignores_cache()
    }

    /// The container that currently belongs to the job.
    pub fn container(&self) -> Option<String> {
        self.active.container()
    }

    /// The time by which its container must have ended, where it has a container and a deadline.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.progress.borrow().deadline
    }

    /// The outcome; `None` while the job is not over. A job whose end could not be recorded is errored.
    pub fn outcome(&self) -> Option<Outcome> {
        match &self.progress.borrow().stage {
            Stage::Submitted | Stage::Accepted(_) => None,
            Stage::Built(answer) => Some(answer.info().outcome().unwrap_or(Outcome::Errored)),
            Stage::Rejected(..) => Some(Outcome::Errored),
        }
    }

    /// Waits until the job is on stable storage.
    ///
    /// # Errors
    /// The reason why it was not accepted, or [`Error::Stopping`].
    pub async fn accepted(&mut self) -> Result<Arc<BuildInfo>, Error> {
        loop {
            let stage = self.progress.borrow_and_update().stage.clone();
            match stage {
                Stage::Submitted => self.changed().await?,
                Stage::Accepted(info) => return Ok(info),
                Stage::Built(answer) => return Ok(answer.info().clone()),
                Stage::Rejected(error, _) => return Err(Error::Rejected(error)),
            }
        }
    }

    /// Waits for a change of the job, which [`JobObserver::now`] then returns.
    ///
    /// # Errors
    /// [`Error::Stopping`] when the daemon ends first, [`Error::Ending`] when the job was not even
    /// accepted by then.
    pub async fn changed(&mut self) -> Result<(), Error> {
        let is_accepted = self.progress.borrow().stage.info().is_some();
        let stopping = || match is_accepted {
            true => Error::Stopping(self.active.project.clone(), self.active.id),
            false => Error::Ending,
        };
        tokio::select! {
            // This observer's `ActiveJob` has the sender.
            changed = self.progress.changed() => changed.map_err(|_| stopping()),
            () = self.stop.cancelled() => Err(stopping()),
        }
    }

    /// The build's current state; `None` before the job is accepted. When the job is over and no handle
    /// exists, it has only what lists show.
    pub fn now(&self) -> Option<Arc<BuildInfo>> {
        self.progress.borrow().stage.info().cloned()
    }

    /// Whether the job is over, and the state or result of the build; [`JobObserver::changed`] reports every
    /// later change.
    pub fn snapshot(&mut self) -> (bool, Option<Arc<BuildInfo>>) {
        let progress = self.progress.borrow_and_update();
        (progress.stage.is_over(), progress.stage.info().cloned())
    }

    /// True when the job was answered from a build that had become ready meanwhile.
    pub fn is_cached(&self) -> bool {
        matches!(&self.progress.borrow().stage, Stage::Built(answer) if answer.is_cached())
    }

    /// True when the job is over and will not change any more.
    pub fn is_over(&self) -> bool {
        self.progress.borrow().stage.is_over()
    }

    /// The progress of its log, for followers; `None` before the job is accepted.
    pub fn log(&self) -> Option<LogProgress> {
        self.progress.borrow().log.clone()
    }
}

/// The handle of a client that waits for a job. When the last one is dropped and every request set
/// `cancel_on_disconnect`, the job is cancelled.
#[derive(Debug)]
pub struct JobHandle {
    observer: JobObserver,
    coalesced: bool,
    /// This handle counts as a waiter.
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
    /// Stops counting as a waiter, as dropping the handle does, but still observes the job.
    pub fn stop_waiting(&mut self) {
        if !std::mem::take(&mut self.is_waiting) {
            return;
        }
        let mut waiters = self.active.waiters();
        waiters.count -= 1;
        // A daemon that stops disconnects all clients; that must not cancel their builds.
        let is_left = waiters.count == 0 && !waiters.keep_when_disconnected;
        if is_left && !self.stop.is_cancelled() && !self.is_over() {
            self.active.cancel(Cancelled {
                by: CANCELLED_BY.to_owned(),
                reason: ALL_WAITERS_DISCONNECTED.to_owned(),
            });
        }
    }

    /// An observer of the job, which does not count as a waiter.
    pub fn observer(&self) -> JobObserver {
        self.observer.clone()
    }

    /// An earlier request had started the job already.
    pub fn coalesced(&self) -> bool {
        self.coalesced
    }

    /// Cancels the build, unless `only_own` names a user other than the one who requested it first. Returns
    /// the build's state when the cancellation is on stable storage.
    ///
    /// # Errors
    /// [`Error::NotYours`]; [`Error::Over`] when it ended otherwise meanwhile; the reason why it was not
    /// accepted; [`Error::Stopping`].
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
            let stage = self.progress.borrow_and_update().stage.clone();
            // A job that is over was ended by this cancellation, if the disk could not record it earlier.
            if let Some(info) = stage.info().filter(|info| info.cancelled.is_some()) {
                return Ok(info.clone());
            }
            match stage {
                Stage::Built(_) => return Err(Error::Over(project, id)),
                Stage::Rejected(error, _) => return Err(Error::Rejected(error)),
                Stage::Submitted | Stage::Accepted(_) => self.changed().await?,
            }
        }
    }

    /// Waits until the job is over; the answer holds the end of the log. [`JobHandle::coalesced`] says
    /// whether this request was coalesced.
    ///
    /// # Errors
    /// The reason why there is no result, or [`Error::Stopping`] when the daemon stops first.
    pub async fn end(&mut self) -> Result<BuildAnswer, Error> {
        loop {
            let stage = self.progress.borrow_and_update().stage.clone();
            match stage {
                Stage::Built(answer) => return Ok(answer),
                Stage::Rejected(error, _) => return Err(Error::Rejected(error)),
                Stage::Submitted | Stage::Accepted(_) => self.changed().await?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{Budget, Client};
    use crate::job::Status;

    #[test]
    fn an_observer_of_a_finished_job_uses_no_budget() {
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
    fn an_observer_of_a_finished_job_has_its_large_params_only_while_a_handle_exists() {
        let end = |active: &ActiveJob, info: &BuildInfo, is_built| match is_built {
            true => active.end_built(BuildAnswer::new(info.clone(), None)),
            false => active.end_rejected(Error::Lost),
        };
        for (is_built, has_ticket) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut info = BuildInfo {
                status: Status::Ready(Outcome::Failed),
                ..BuildInfo::example()
            };
            let value: Arc<str> = "x".repeat(1 << 20).into();
            let kept = Arc::downgrade(&value);
            info.params.insert("large".to_owned(), Some(value));
            let (project, id) = ("hello".parse().unwrap(), "0".repeat(64).parse().unwrap());
            let active = ActiveJob::new(project, id, None, Origin::default(), None);
            let mut observer = active.observer(CancellationToken::new());
            let handle = has_ticket.then(|| active.handle(false, CancellationToken::new()));
            active.publish_state(&info);
            end(&active, &info, is_built);
            drop((info, active));
            if let Some(mut handle) = handle {
                // A client that has stopped waiting may still cancel the job.
                handle.stop_waiting();
                assert!(kept.upgrade().is_some());
            }
            assert!(kept.upgrade().is_none(), "{is_built}, {has_ticket}");
            let (is_over, info) = observer.snapshot();
            let info = info.unwrap();
            assert!(is_over && info.params.contains_key("large"));
            assert_eq!(info.outcome(), Some(Outcome::Failed));
        }
    }
}

//! `org.mistry.Mistry1.Job`: the object of a job that is not over.

use std::collections::BTreeMap;

use jiff::Timestamp;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, interface};

use super::authority::user_of;
use super::bus::PATH;
use super::error::Error;
use super::shared::Dbus;
use crate::build::BuildInfo;
use crate::job::{JobId, Phase};
use crate::scheduler::JobObserver;

/// The jobs' segment.
const JOBS: &str = "job";
/// Digits of an id in a short path.
const SHORT_DIGITS: usize = 16;
/// Bytes of params that an object shows: with ten thousand jobs in the queue, all objects together must still
/// fit in one message of the bus.
const MAX_PARAMS_BYTES: usize = 1 << 10;
/// The uid of an unknown user.
const UNKNOWN_USER: u32 = u32::MAX;

/// The path of a job's object.
pub(super) fn short_path(id: JobId) -> String {
    format!("{PATH}/{JOBS}/_{}", &id.to_string()[..SHORT_DIGITS])
}

/// The path where another job has the short one.
pub(super) fn full_path(id: JobId) -> String {
    format!("{PATH}/{JOBS}/_{id}")
}

/// A job's object.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) dbus: Dbus,
    pub(super) follower: JobObserver,
}

/// A job's variable properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JobState {
    state: &'static str,
    stopping: bool,
    started: u64,
    deadline: u64,
    container: String,
}

impl JobState {
    pub(super) fn of(job: &JobObserver) -> JobState {
        let info = job.now();
        let phase = info.as_deref().and_then(|info| info.phase());
        let is_begun = phase.is_some_and(|phase| phase != Phase::Queued);
        JobState {
            state: phase.unwrap_or(Phase::Finishing).as_str(),
            stopping: info.as_deref().is_some_and(BuildInfo::is_stopping),
            started: info
                .filter(|_| is_begun)
                .map_or(0, |info| microseconds(info.started_at)),
            deadline: job.deadline().map_or(0, microseconds),
            container: job.container().unwrap_or_default(),
        }
    }

    /// Emits the properties that have changed.
    pub(super) async fn emit_changes(
        &self,
        before: &JobState,
        job: &Job,
        emitter: &SignalEmitter<'_>,
    ) -> zbus::Result<()> {
        if self.state != before.state {
            job.state_changed(emitter).await?;
        }
        if self.stopping != before.stopping {
            job.stopping_changed(emitter).await?;
        }
        if self.started != before.started {
            job.started_at_changed(emitter).await?;
        }
        if self.deadline != before.deadline {
            job.deadline_changed(emitter).await?;
        }
        if self.container != before.container {
            job.container_id_changed(emitter).await?;
        }
        Ok(())
    }
}

/// µs since the epoch.
fn microseconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_microsecond()).unwrap_or(0)
}

impl Job {
    /// A value of the job's current state; the default before the job is accepted.
    fn of_info<T: Default>(&self, value: impl FnOnce(&BuildInfo) -> T) -> T {
        self.follower
            .now()
            .map(|info| value(&info))
            .unwrap_or_default()
    }

    /// The value of a property about a job's user or content. Every user of the host can read properties, so
    /// the real value is given only if every user may see builds.
    fn unless_closed<T>(&self, value: impl FnOnce() -> T, otherwise: T) -> T {
        match self.dbus.is_closed() {
            true => otherwise,
            false => value(),
        }
    }
}

/// A job that is not over. The object is removed when JobRemoved is sent. If the configuration has
/// public: none, Project, Group, Params and ContainerId are empty and StartedByUID is 4294967295:
/// DescribeBuild returns them to callers who may see builds.
#[interface(name = "org.mistry.Mistry1.Job")]
impl Job {
    /// Cancels the build. Answered when the cancellation is on stable storage; JobRemoved follows when
    /// the container has ended. The user who requested the job first may do this; others need
    /// org.mistry.mistry1.cancel.
    async fn cancel(
        &self,
        reason: String,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Error> {
        let _call = self.dbus.0.calls.admit(&header)?;
        let id = self.follower.id();
        self.dbus.cancel(connection, &header, id, reason).await
    }

    /// The job's id: 64 hex digits.
    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> String {
        self.follower.id().to_string()
    }

    /// The project that is built.
    #[zbus(property(emits_changed_signal = "const"))]
    fn project(&self) -> String {
        self.unless_closed(|| self.follower.project().to_string(), String::new())
    }

    /// The group: the build starts from its latest build, and becomes the latest; empty for none.
    #[zbus(property(emits_changed_signal = "const"))]
    fn group(&self) -> String {
        self.unless_closed(
            || self.of_info(|info| info.group_name().to_owned()),
            String::new(),
        )
    }

    /// The params that fit into 1 KiB, with long values cut and without the values of opaque params.
    #[zbus(property(emits_changed_signal = "const"))]
    fn params(&self) -> BTreeMap<String, String> {
        let abridged = |info: &BuildInfo| {
            let mut info = info.clone();
            info.abridge();
            info.params
        };
        let params = self.unless_closed(|| self.of_info(abridged), BTreeMap::new());
        let mut room = MAX_PARAMS_BYTES;
        let params = params.into_iter();
        let shown =
            params.map(|(name, value)| (name, value.as_deref().unwrap_or_default().to_owned()));
        shown
            .take_while(|(name, value)| {
                let fits = name.len() + value.len() <= room;
                room = room.saturating_sub(name.len() + value.len());
                fits
            })
            .collect()
    }

    /// Its phase: queued, preparing, imaging, running or finishing.
    #[zbus(property)]
    fn state(&self) -> &'static str {
        JobState::of(&self.follower).state
    }

    /// It is being stopped: a user has cancelled it, or it took too long.
    #[zbus(property)]
    fn stopping(&self) -> bool {
        JobState::of(&self.follower).stopping
    }

    /// When it was accepted, in microseconds since the epoch.
    #[zbus(property(emits_changed_signal = "const"))]
    fn queued_at(&self) -> u64 {
        self.of_info(|info| info.queued_at.map_or(0, microseconds))
    }

    /// When it got its slot, in microseconds since the epoch; 0 before that.
    #[zbus(property)]
    fn started_at(&self) -> u64 {
        JobState::of(&self.follower).started
    }

    /// When its container will be stopped, in microseconds since the epoch; 0 for never, or while
    /// there is no container.
    #[zbus(property)]
    fn deadline(&self) -> u64 {
        JobState::of(&self.follower).deadline
    }

    /// The user who requested it first, as reported by the bus or the kernel; 4294967295 if unknown.
    #[zbus(property(emits_changed_signal = "const"), name = "StartedByUID")]
    fn started_by_uid(&self) -> u32 {
        let user = self.unless_closed(|| user_of(self.follower.asker()), None);
        user.unwrap_or(UNKNOWN_USER)
    }

    /// Its Docker container; empty while there is none.
    #[zbus(property)]
    fn container_id(&self) -> String {
        self.unless_closed(|| JobState::of(&self.follower).container, String::new())
    }
}

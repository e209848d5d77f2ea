//! The current load, for its observers: systemd's status text, the stop for want of work.
//!
//! A plain value in a `watch`: a late reader sees the latest value, and delays no writer.

use std::time::Duration;

use tokio::sync::watch;

use crate::build::BuildInfo;
use crate::job::{JobId, Outcome};
use crate::project::ProjectName;

/// The current load.
#[derive(Clone, Debug, Default)]
pub struct Activity {
    /// Builds that hold a slot.
    pub building: usize,
    /// Jobs that wait for one.
    pub queued: usize,
    /// Builds that may hold one.
    pub slots: usize,
    /// Jobs that may wait for one.
    pub backlog: usize,
    /// No job gets a slot.
    pub paused: bool,
    /// Tasks under way, from admission until all their work is done: jobs, image builds, background reads and
    /// removals.
    pub tasks: usize,
    /// The last build that ended in this process.
    pub last: Option<Last>,
    /// The Engine did not answer the last request.
    pub engine_away: bool,
}

/// A build that has ended.
#[derive(Clone, Debug)]
pub struct Last {
    /// Its project.
    pub project: ProjectName,
    /// Its job.
    pub id: JobId,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

/// The place where the load is updated.
#[derive(Debug)]
pub(super) struct Status(watch::Sender<Activity>);

/// Counts as a task until it is dropped.
#[derive(Debug)]
pub(super) struct WorkGuard(watch::Sender<Activity>);

impl Status {
    pub(super) fn new() -> Status {
        Status(watch::channel(Activity::default()).0)
    }

    pub(super) fn watch(&self) -> watch::Receiver<Activity> {
        self.0.subscribe()
    }

    /// Counts one more task, until the value is dropped.
    pub(super) fn begin_work(&self) -> WorkGuard {
        self.0.send_modify(|activity| activity.tasks += 1);
        WorkGuard(self.0.clone())
    }

    /// Sets the numbers of slots and of places in the queue.
    pub(super) fn set_capacity(&self, slots: usize, backlog: usize) {
        self.0
            .send_modify(|activity| (activity.slots, activity.backlog) = (slots, backlog));
    }

    pub(super) fn set_counts(&self, building: usize, queued: usize, paused: bool) {
        self.0.send_if_modified(|activity| {
            let before = (activity.building, activity.queued, activity.paused);
            (activity.building, activity.queued, activity.paused) = (building, queued, paused);
            before != (building, queued, paused)
        });
    }

    pub(super) fn build_ended(
        &self,
        project: &ProjectName,
        id: JobId,
        info: &BuildInfo,
        took: Duration,
    ) {
        let Some(outcome) = info.outcome() else {
            return;
        };
        self.0.send_modify(|activity| {
            activity.last = Some(Last {
                project: project.clone(),
                id,
                outcome,
                took,
            });
        });
    }

    /// Records whether the Engine answers; true if that is a change.
    pub(super) fn set_engine_away(&self, away: bool) -> bool {
        self.0
            .send_if_modified(|activity| std::mem::replace(&mut activity.engine_away, away) != away)
    }
}

impl Drop for WorkGuard {
    fn drop(&mut self) {
        self.0.send_modify(|activity| activity.tasks -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_until_its_guard_is_dropped() {
        let status = Status::new();
        let watch = status.watch();
        let (one, two) = (status.begin_work(), status.begin_work());
        drop(one);
        assert_eq!(watch.borrow().tasks, 1);
        drop(two);
        assert_eq!(watch.borrow().tasks, 0);
    }

    #[test]
    fn a_pause_of_the_queue_is_reported_once() {
        let status = Status::new();
        let mut watch = status.watch();
        status.set_counts(1, 2, true);
        assert!(watch.has_changed().unwrap() && watch.borrow_and_update().paused);
        status.set_counts(1, 2, true);
        assert!(!watch.has_changed().unwrap());
        status.set_counts(1, 2, false);
        assert!(watch.has_changed().unwrap() && !watch.borrow_and_update().paused);
    }

    #[test]
    fn only_a_change_of_the_engine_state_is_reported() {
        let status = Status::new();
        assert!(!status.set_engine_away(false));
        assert!(status.set_engine_away(true));
        assert!(!status.set_engine_away(true));
        assert!(status.set_engine_away(false));
    }
}

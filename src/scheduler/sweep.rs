//! Containers made by mistry that no build owns: found by their labels and names, and removed. Containers
//! that inherited mistry's labels from their image have other names.
//!
//! An earlier process has left them, or an Engine that went away during their removal, or one that made them
//! without reporting it. None is left when a process makes its first container.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::blocking::blocking;
use super::engine::ENGINE_RETRY_INTERVAL;
use super::images::INSTANCE;
use super::shared::Shared;
use super::sweep_state::SweepState;
use crate::docker;
use crate::job::JobId;

/// The label with a container's job id.
pub(super) const JOB: &str = "mistry.job";
/// The label with its project's name.
pub(super) const PROJECT: &str = "mistry.project";
/// The label that distinguishes the containers of one build.
pub(super) const CONTAINER_TRY: &str = "mistry.attempt";

/// The longest pause between two tries: a host may have a container for weeks that Docker cannot
/// remove.
const MAX_SWEEP_RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// How long a stopping daemon waits for the removal of a container. An Engine on a busy host needs some
/// seconds; the daemon waits ten for all its tasks, and then exits. The next start removes the rest.
const LAST_REMOVAL_TIMEOUT: Duration = Duration::from_secs(3);

/// The result of a sweep.
#[derive(Debug, Default)]
pub(super) struct SweepResult {
    /// Containers that were removed.
    pub(super) removed: usize,
    /// The error of the first failed removal.
    pub(super) first_error: Option<docker::Error>,
    /// A remaining one runs.
    is_running: bool,
    /// A build may be about to use it; it must be checked again.
    may_be_in_use: bool,
}

impl SweepResult {
    /// No container is left.
    fn is_clean(&self) -> bool {
        self.first_error.is_none() && !self.may_be_in_use
    }
}

/// Ensures that no container runs without a build that owns it. A stopped one that cannot be removed does not
/// harm builds: its removal is tried again in the background.
pub(super) async fn ensure_swept(shared: &Arc<Shared>) -> Result<(), docker::Error> {
    let _one_at_a_time = shared.sweeper.sweeping.lock().await;
    let requests = {
        let state = shared.sweeper.state();
        if state.clean {
            if state.retrying {
                // This does not wait for it; but with a build under way the Engine may now be able to remove
                // it.
                shared.retry_removal.notify_one();
            }
            return Ok(());
        }
        state.requests
    };
    let sweep = sweep(shared).await?;
    let mut state = shared.sweeper.state();
    state.clean = !sweep.is_running && state.requests == requests;
    if !sweep.is_clean() {
        keep_trying(shared, &mut state);
    }
    drop(state);
    match sweep.first_error {
        Some(error) if sweep.is_running => Err(error),
        _ => Ok(()),
    }
}

/// Marks that there may be a container without an owner: it is removed in the background, when the Engine
/// can. The next build also checks, before it creates a container.
pub(super) fn sweep_soon(shared: &Arc<Shared>) {
    let mut state = shared.sweeper.state();
    state.clean = false;
    state.requests += 1;
    keep_trying(shared, &mut state);
}

/// Starts a background task that tries until there are none.
fn keep_trying(shared: &Arc<Shared>, state: &mut SweepState) {
    if std::mem::replace(&mut state.retrying, true) {
        return;
    }
    let soon = shared.clone();
    // Not counted as activity: an idle daemon may stop, and the next start sweeps.
    shared.tasks.spawn(async move {
        tokio::select! {
            () = sweep_until_clean(&soon) => {}
            () = removal_grace_over(&soon) => {}
        }
    });
}

/// Waits until the daemon stops and has waited long enough for the removal of containers.
pub(super) async fn removal_grace_over(shared: &Shared) {
    shared.stop.cancelled().await;
    tokio::time::sleep(LAST_REMOVAL_TIMEOUT).await;
}

async fn sweep_until_clean(shared: &Arc<Shared>) {
    let mut pause = ENGINE_RETRY_INTERVAL;
    let mut is_logged = false;
    loop {
        let requests = shared.sweeper.state().requests;
        if shared.engine_there().await.is_ok() {
            let sweep = sweep(shared).await;
            let first_error = match &sweep {
                Ok(sweep) => sweep.first_error.as_ref(),
                Err(error) => Some(error),
            };
            if let Some(error) = first_error
                && !std::mem::replace(&mut is_logged, true)
            {
                tracing::warn!(
                    error = error as &dyn std::error::Error,
                    "could not remove a container that no build owns; trying again"
                );
            }
            let mut state = shared.sweeper.state();
            if let Ok(sweep) = sweep
                && state.requests == requests
            {
                state.clean = !sweep.is_running;
                if sweep.is_clean() {
                    state.retrying = false;
                    return;
                }
            }
        }
        tokio::select! {
            // No event reports that an Engine is back, or has released a container.
            () = tokio::time::sleep(pause) => {}
            () = shared.retry_removal.notified() => {}
            () = shared.stop.cancelled() => return,
        }
        pause = (2 * pause).min(MAX_SWEEP_RETRY_INTERVAL);
    }
}

/// Removes every container of mistry that no active build owns, as far as the Engine can.
pub(super) async fn sweep(shared: &Shared) -> Result<SweepResult, docker::Error> {
    let ours = BTreeMap::from([(INSTANCE.to_owned(), shared.store.instance().to_owned())]);
    let mut sweep = SweepResult::default();
    let found = shared.docker.containers(&ours).await?;
    if let Some(idle) = shared.images.idle() {
        let records = shared.images.all_records().await;
        let mut removed = vec![shared.images.remove_step_containers(&records, &idle).await];
        for container in found.iter().filter(|container| is_label_step(container)) {
            removed.push(shared.docker.remove(&container.id).await.map(|()| 1));
        }
        for removed in removed {
            match removed {
                Ok(count) => sweep.removed += count,
                // It is no build's, and does not run for long: builds do not wait for its end.
                Err(error) => drop(sweep.first_error.get_or_insert(error)),
            }
        }
    }
    let instance = shared.store.instance();
    for container in found.into_iter().filter(|found| is_ours(found, instance)) {
        let id: Option<JobId> = container.labels.get(JOB).and_then(|id| id.parse().ok());
        let active = id.and_then(|id| shared.queue().get(id).cloned());
        if let Some(active) = active {
            let own = active.container();
            if own.as_ref() == Some(&container.id) {
                continue;
            }
            // It may be new: a running container is known to its build before it starts.
            if own.is_none() && !container.running {
                sweep.may_be_in_use = true;
                continue;
            }
        } else if let Some(id) = id
            && !shared.adopted.initialized()
            && is_awaited(shared, id, &container).await
        {
            continue;
        }
        match shared.docker.remove(&container.id).await {
            Ok(()) => sweep.removed += 1,
            Err(error) => {
                sweep.is_running |= container.running;
                sweep.first_error.get_or_insert(error);
            }
        }
    }
    Ok(sweep)
}

/// The name of a build's container; with its labels it shows that a container is mistry's.
pub(super) fn container_name(instance: &str, job: &str, tries: &str) -> String {
    let short = |text: &str, digits| text.get(..digits).unwrap_or(text).to_owned();
    format!("mistry-{}-{}-{tries}", short(instance, 8), short(job, 16))
}

/// True when mistry made this container for a build.
fn is_ours(found: &docker::Found, instance: &str) -> bool {
    let label = |key| found.labels.get(key).map(String::as_str);
    let (Some(job), Some(tries)) = (label(JOB), label(CONTAINER_TRY)) else {
        return false;
    };
    label(INSTANCE) == Some(instance) && found.name == container_name(instance, job, tries)
}

/// True when the builder made this container to set the labels of a mistry image, and was interrupted. It
/// never runs. Call this only while no image is built.
fn is_label_step(found: &docker::Found) -> bool {
    let is_nop = found.command.contains("#(nop)") && found.command.contains("LABEL");
    is_nop && found.command.contains("mistry.") && !found.running && !found.labels.contains_key(JOB)
}

/// Whether the record of a build without a task in this daemon names this container: the next daemon follows
/// it.
async fn is_awaited(shared: &Shared, id: JobId, container: &docker::Found) -> bool {
    let Some(project) = container.labels.get(PROJECT).and_then(|p| p.parse().ok()) else {
        return false;
    };
    let (store, name) = (shared.store.clone(), container.id.clone());
    let awaited = blocking(move || store.awaits(&project, id, &name)).await;
    awaited.unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, command: &str, labels: &[(&str, &str)]) -> docker::Found {
        let labels = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        docker::Found {
            id: "c".repeat(64),
            name: name.to_owned(),
            command: command.to_owned(),
            created: 0,
            labels: labels.collect(),
            running: false,
        }
    }

    #[test]
    fn a_container_is_ours_by_its_labels_and_its_name() {
        let (instance, job) = ("0123456789abcdef".repeat(2), "fedcba9876543210".repeat(4));
        let labels = [
            (INSTANCE, instance.as_str()),
            (JOB, &job),
            (CONTAINER_TRY, "2"),
        ];
        let ours = found("mistry-01234567-fedcba9876543210-2", "/run.sh", &labels);
        assert!(is_ours(&ours, &instance));
        assert!(!is_ours(&ours, &"f".repeat(32)), "of another build path");
        let copied = found("theirs", "/run.sh", &labels);
        assert!(!is_ours(&copied, &instance), "every label copied by hand");
        let inherited = found(
            "mistry-01234567-fedcba9876543210-2",
            "/run.sh",
            &labels[..1],
        );
        assert!(!is_ours(&inherited, &instance));
    }

    #[test]
    fn only_the_builders_own_container_is_a_step() {
        let labels = [(INSTANCE, "i")];
        let nop = "/bin/sh -c '#(nop) ' 'LABEL mistry.uid=0'";
        assert!(is_label_step(&found("brave_bell", nop, &labels)));
        assert!(!is_label_step(&found("theirs", "/run.sh", &labels)));
    }
}

//! Containers of ours that no build owns: found by their labels, and removed.
//!
//! An earlier life has left them, or an Engine that went away when they were to be removed, or one
//! that made them and did not say so. None is left when the first container of a life is made.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::images::INSTANCE;
use super::{ENGINE_AGAIN, Shared, blocking};
use crate::docker;
use crate::job::JobId;

/// The label with a container's job id.
pub(super) const JOB: &str = "mistry.job";
/// The label with its project's name.
pub(super) const PROJECT: &str = "mistry.project";
/// The label that tells executions of one job apart.
pub(super) const ATTEMPT: &str = "mistry.attempt";

/// How it stands with them.
#[derive(Debug, Default)]
pub(super) struct Swept {
    /// There are none.
    is_done: bool,
    /// Somebody tries until there are none.
    is_tried: bool,
}

/// Makes sure that no container runs that no build owns.
pub(super) async fn swept(shared: &Shared) -> Result<(), docker::Error> {
    let mut swept = shared.swept.lock().await;
    if !swept.is_done {
        sweep(shared).await?;
        // Those whose record is not read yet were passed over, and are their builds' own affair.
        swept.is_done = true;
    }
    Ok(())
}

/// There may be a container that no build owns: it is removed now, or when the Engine answers again.
/// The next build looks, too, before it makes one of its own.
pub(super) async fn sweep_soon(shared: &Arc<Shared>) {
    {
        let mut swept = shared.swept.lock().await;
        swept.is_done = false;
        if std::mem::replace(&mut swept.is_tried, true) {
            return;
        }
    }
    let soon = shared.clone();
    // No work in hand: a daemon may end for want of it, and the next start sweeps.
    shared.tasks.spawn(async move {
        loop {
            if soon.engine_there().await.is_ok()
                && let Err(error) = swept(&soon).await
            {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "could not remove containers that no build owns yet"
                );
            }
            {
                let mut swept = soon.swept.lock().await;
                if swept.is_done {
                    swept.is_tried = false;
                    return;
                }
            }
            tokio::select! {
                // An Engine that comes back tells nobody.
                () = tokio::time::sleep(ENGINE_AGAIN) => {}
                () = soon.stop.cancelled() => return,
            }
        }
    });
}

/// Removes every container of ours that no live build owns; returns how many there were.
pub(super) async fn sweep(shared: &Shared) -> Result<usize, docker::Error> {
    let ours = BTreeMap::from([(INSTANCE.to_owned(), shared.store.instance().to_owned())]);
    let mut removed = 0;
    for container in shared.docker.containers(&ours).await? {
        let id: Option<JobId> = container.labels.get(JOB).and_then(|id| id.parse().ok());
        let live = id.and_then(|id| shared.queue().get(id).cloned());
        if let Some(live) = live {
            // Which attempt it is at is not known before its record was read.
            let attempt = live.now().map(|info| info.attempt.to_string());
            if attempt.is_none() || attempt.as_ref() == container.labels.get(ATTEMPT) {
                continue;
            }
        } else if let Some(id) = id
            && !shared.adopted.initialized()
            && is_awaited(shared, id, &container).await
        {
            continue;
        }
        shared.docker.remove(&container.id).await?;
        removed += 1;
    }
    Ok(removed)
}

/// Whether the record of a build that no daemon is at now names this container: the next daemon
/// follows it.
async fn is_awaited(shared: &Shared, id: JobId, container: &docker::Found) -> bool {
    let Some(project) = container.labels.get(PROJECT).and_then(|p| p.parse().ok()) else {
        return false;
    };
    let (store, name) = (shared.store.clone(), container.id.clone());
    let awaited = blocking(move || store.awaits(&project, id, &name)).await;
    awaited.unwrap_or(true)
}

//! Garbage collection, pins, and the removal of builds.

use hyper::{Response, StatusCode};

use super::answer::{self, Body};
use super::error::Refusal;
use super::jobs;
use super::routes::Asked;
use super::{Web, list};
use crate::api::{GcRequest, GcView, RemovedView};
use crate::build::Removal;
use crate::job::JobId;
use crate::project::ProjectName;
use crate::scheduler::Collection;

/// `POST /gc`.
pub(super) async fn collect(web: &Web, asked: Asked) -> Result<Response<Body>, Refusal> {
    let room = asked.room.clone();
    let (bodies, client) = (web.scheduler.bodies(), asked.client);
    let body = jobs::read(asked.request.into_body(), jobs::SMALL_BODY, bodies, client).await?;
    let request = GcRequest::read(&body.bytes)
        .map_err(|error| Refusal::bad_request(format!("the request cannot be read: {error}")))?;
    drop(body);
    // Before anything is removed: the answer that lists it must not be refused afterwards.
    let mut held = list::hold(&room)?;
    let collection = web
        .scheduler
        .collect(request.policy, request.dry_run)
        .await?;
    let frame = frame(&collection, request.dry_run);
    let frame = serde_json::to_string(&frame)?;
    let key = "\"Removed\":[";
    let (head, tail) = frame.split_once(key).unwrap_or((&frame, ""));
    let (head, tail) = (format!("{head}{key}"), tail.to_owned());
    let removals = collection.plan.removals;
    // As far as there is room: what is gone already must be told.
    let _is_counted = held.grow(size_of_val(removals.as_slice()) as u64);
    let removed = removals.into_iter();
    let removed = removed.map(|removal| removed_view(&removal));
    let body = list::of_values(held, head, removed, tail);
    Ok(answer::of_json(StatusCode::OK, body))
}

/// `PUT /job/P/ID/pin`.
pub(super) async fn pin(
    web: &Web,
    project: &ProjectName,
    id: JobId,
) -> Result<Response<Body>, Refusal> {
    web.scheduler.pin(project, id).await?;
    Ok(answer::no_content())
}

/// `DELETE /job/P/ID/pin`.
pub(super) async fn unpin(
    web: &Web,
    project: &ProjectName,
    id: JobId,
) -> Result<Response<Body>, Refusal> {
    web.scheduler.unpin(project, id).await?;
    Ok(answer::no_content())
}

/// `DELETE /job/P/ID`.
pub(super) async fn remove(
    web: &Web,
    project: &ProjectName,
    id: JobId,
) -> Result<Response<Body>, Refusal> {
    web.scheduler.remove(project, id).await?;
    Ok(answer::no_content())
}

/// What a collection did, as strangers read it.
pub fn gc_view(collection: &Collection, dry_run: bool) -> GcView {
    let removals = collection.plan.removals.iter();
    GcView {
        removed: removals.map(removed_view).collect(),
        ..frame(collection, dry_run)
    }
}

fn removed_view(removal: &Removal) -> RemovedView {
    RemovedView {
        id: removal.build.id.to_string(),
        project: removal.build.project.to_string(),
        group: removal.build.group.to_string(),
        place: removal.build.shelf.as_str().to_owned(),
        why: removal.why.as_str().to_owned(),
        used: removal.build.last_used,
        bytes: removal.bytes,
    }
}

/// The same without the builds that went.
fn frame(collection: &Collection, dry_run: bool) -> GcView {
    let plan = &collection.plan;
    GcView {
        dry_run,
        removed: Vec::new(),
        bytes: plan.bytes,
        kept: plan.kept,
        kept_bytes: plan.kept_bytes,
        passed: collection.passed,
        unmeasured: plan.unmeasured,
        short: plan.short,
        doubted_until: plan.doubted_until,
        free: collection.free,
        images: collection.images.count as u64,
    }
}

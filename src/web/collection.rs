//! Garbage collection, pins, and the removal of builds.

use hyper::{Response, StatusCode};

use super::Web;
use super::answer::{self, Body};
use super::error::Refusal;
use super::jobs;
use super::routes::Asked;
use crate::api::{GcRequest, GcView, RemovedView};
use crate::job::JobId;
use crate::project::ProjectName;
use crate::scheduler::Collection;

/// `POST /gc`.
pub(super) async fn collect(web: &Web, asked: Asked) -> Result<Response<Body>, Refusal> {
    let body = jobs::read(asked.request.into_body(), jobs::SMALL_BODY).await?;
    let request = GcRequest::read(&body)
        .map_err(|error| Refusal::bad_request(format!("the request cannot be read: {error}")))?;
    let collection = web
        .scheduler
        .collect(request.policy, request.dry_run)
        .await?;
    answer::json(StatusCode::OK, &gc_view(&collection, request.dry_run))
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
    let plan = &collection.plan;
    let removed = plan.removals.iter().map(|removal| RemovedView {
        id: removal.build.id.to_string(),
        project: removal.build.project.to_string(),
        group: removal.build.group.clone(),
        place: removal.build.shelf.as_str().to_owned(),
        why: removal.why.as_str().to_owned(),
        used: removal.build.used,
        bytes: removal.bytes,
    });
    GcView {
        dry_run,
        removed: removed.collect(),
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

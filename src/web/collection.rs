//! Garbage collection, pins, and the removal of builds.

use hyper::StatusCode;

use super::body;
use super::error::ApiError;
use super::list;
use super::request::Request;
use super::response::{self, Response};
use super::state::Web;
use crate::api::{GcRequest, GcView, RemovedBase, RemovedView};
use crate::build::{IfBase, Removal};
use crate::scheduler::Collection;

/// `POST /gc`.
pub(super) async fn collect(web: &Web, request: Request) -> Result<Response, ApiError> {
    let budget = request.budget.clone();
    let (bodies, client) = (web.scheduler.bodies(), request.client);
    let body = body::read(request.http.into_body(), body::SMALL, bodies, client).await?;
    let gc = GcRequest::read(&body.bytes)
        .map_err(|error| ApiError::bad_request(format!("the request cannot be read: {error}")))?;
    drop(body);
    // Held before anything is removed: the response that lists it must not be refused afterwards.
    let mut held = list::hold(&budget)?;
    let collection = web.scheduler.collect(gc.policy, gc.dry_run).await?;
    let frame = frame(&collection, gc.dry_run);
    let frame = serde_json::to_string(&frame)?;
    let key = "\"Removed\":[";
    let (head, tail) = frame.split_once(key).unwrap_or((&frame, ""));
    let (head, tail) = (format!("{head}{key}"), tail.to_owned());
    let removals = collection.plan.removals;
    // As far as the budget allows: builds that were removed must be reported in any case.
    let _is_counted = held.grow(size_of_val(removals.as_slice()) as u64);
    let removed = removals.into_iter();
    let removed = removed.map(|removal| removed_view(&removal));
    let body = list::of_values(held, head, removed, tail);
    Ok(response::of_json(StatusCode::OK, body))
}

/// `PUT /job/P/ID/pin`.
pub(super) async fn pin(web: &Web, request: Request) -> Result<Response, ApiError> {
    let (project, id) = request.job()?;
    web.scheduler.pin(&project, id).await?;
    Ok(response::no_content())
}

/// `DELETE /job/P/ID/pin`.
pub(super) async fn unpin(web: &Web, request: Request) -> Result<Response, ApiError> {
    let (project, id) = request.job()?;
    web.scheduler.unpin(&project, id).await?;
    Ok(response::no_content())
}

/// `DELETE /job/P/ID`.
pub(super) async fn remove(web: &Web, request: Request) -> Result<Response, ApiError> {
    let (project, id) = request.job()?;
    if !request.flag("base")? {
        web.scheduler.remove(&project, id, IfBase::Keep).await?;
        return Ok(response::no_content());
    }
    let base_of = web.scheduler.remove(&project, id, IfBase::Unlink).await?;
    let answer = response::small_json(StatusCode::OK, &RemovedBase { base_of });
    answer.ok_or_else(|| ApiError::internal("the server could not write its answer"))
}

/// The result of a collection, for clients.
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
        place: removal.build.category.as_str().to_owned(),
        why: removal.why.as_str().to_owned(),
        used: removal.build.last_used,
        bytes: removal.bytes,
    }
}

/// The result of a collection, without the list of removed builds.
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

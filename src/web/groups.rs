//! The groups of a project: listed, reset.

use hyper::StatusCode;

use super::error::ApiError;
use super::request::Request;
use super::response::{self, Response};
use super::state::Web;
use super::{body, list};
use crate::api::{GroupItem, GroupRequest};

/// `GET /project/P/groups`.
pub(super) async fn list(_web: &Web, request: Request) -> Result<Response, ApiError> {
    let project = request.project()?;
    let held = list::hold(&request.budget)?;
    let groups = request.reader.groups(&project).await?;
    let items = groups.into_iter().map(|group| GroupItem {
        group: group.group,
        base: group.base.to_string(),
        finished_at: group.finished,
        bytes: (group.own > 0).then_some(group.own),
    });
    let body = list::of_values(held, "[".to_owned(), items, "]".to_owned());
    Ok(response::of_json(StatusCode::OK, body))
}

/// `POST /project/P/groups/reset`.
pub(super) async fn reset(web: &Web, request: Request) -> Result<Response, ApiError> {
    let project = request.project()?;
    let (bodies, client) = (web.scheduler.bodies(), request.client);
    let body = body::read(request.http.into_body(), body::SMALL, bodies, client).await?;
    let asked = GroupRequest::read(&body.bytes)
        .map_err(|error| ApiError::bad_request(format!("the request cannot be read: {error}")))?;
    drop(body);
    let group = asked.group.parse()?;
    let by = &request.caller.name;
    web.scheduler.reset_group(&project, &group, by).await?;
    Ok(response::no_content())
}

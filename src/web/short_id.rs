//! The first digits of a job's id in an address, completed before the handler sees them.

use hyper::StatusCode;
use hyper::header::LOCATION;

use super::access;
use super::error::ApiError;
use super::request::Request;
use super::response::{self, Response};
use super::routes::Route;
use super::state::Web;
use crate::job::JobIdPrefix;

/// Completes the id in the path of `request`, if its route has one. A browser that shows a page is sent to
/// the whole address, which stays valid when other ids begin with the same digits.
///
/// # Errors
/// The path has no valid names, or no build or several builds have such an id.
pub(super) async fn complete(
    web: &Web,
    route: &Route,
    request: &mut Request,
) -> Result<Option<Response>, ApiError> {
    if !request.path.iter().any(|(name, _)| *name == "id") {
        return Ok(None);
    }
    let project = request.project()?;
    let prefix: JobIdPrefix = request.segment("id").parse()?;
    if prefix.complete().is_some() {
        return Ok(None);
    }
    let (_, id) = web.scheduler.locate(Some(&project), &prefix).await?;
    for (name, value) in &mut request.path {
        if *name == "id" {
            *value = id.to_string();
        }
    }
    if !access::is_safe(request.method()) || !request.wants_page()? {
        return Ok(None);
    }
    let mut address = route.address(&request.path);
    if let Some(query) = request.http.uri().query() {
        address.push('?');
        address.push_str(query);
    }
    let mut redirect = response::no_content();
    *redirect.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    response::of_now(&mut redirect);
    response::set(&mut redirect, LOCATION, &address);
    Ok(Some(redirect))
}

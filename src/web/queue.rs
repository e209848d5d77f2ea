//! The queue as a whole: paused, resumed.

use super::error::ApiError;
use super::request::Request;
use super::response::{self, Response};
use super::state::Web;

/// `POST /queue/pause`.
pub(super) async fn pause(web: &Web, request: Request) -> Result<Response, ApiError> {
    web.scheduler.pause(&request.caller.name).await?;
    Ok(response::no_content())
}

/// `POST /queue/resume`.
pub(super) async fn resume(web: &Web, request: Request) -> Result<Response, ApiError> {
    web.scheduler.resume(&request.caller.name).await?;
    Ok(response::no_content())
}

//! The queue as a whole: paused, resumed.

use hyper::Response;

use super::Web;
use super::answer::{self, Body};
use super::error::Refusal;
use super::routes::Asked;

/// `POST /queue/pause`.
pub(super) async fn pause(web: &Web, asked: &Asked) -> Result<Response<Body>, Refusal> {
    web.scheduler.pause(&asked.caller.name).await?;
    Ok(answer::no_content())
}

/// `POST /queue/resume`.
pub(super) async fn resume(web: &Web, asked: &Asked) -> Result<Response<Body>, Refusal> {
    web.scheduler.resume(&asked.caller.name).await?;
    Ok(answer::no_content())
}

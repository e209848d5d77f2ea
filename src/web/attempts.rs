//! The attempts at a job, as a list.

use hyper::StatusCode;

use super::error::ApiError;
use super::request::Request;
use super::response::{self, Response};
use super::state::Web;
use crate::api::{AttemptView, NO_EXIT_CODE};
use crate::build::Attempt;

/// `GET /job/P/ID/attempts`.
pub(super) async fn list(_: &Web, request: Request) -> Result<Response, ApiError> {
    let (project, id) = request.job()?;
    let attempts = request.reader.attempts(&project, id).await?;
    let views: Vec<AttemptView> = attempts.into_iter().map(AttemptView::from).collect();
    response::json(&request.budget, StatusCode::OK, &views)
}

impl From<Attempt> for AttemptView {
    fn from(attempt: Attempt) -> AttemptView {
        AttemptView {
            number: attempt.number,
            state: attempt.state,
            outcome: attempt.outcome,
            exit_code: attempt.exit_code.unwrap_or(NO_EXIT_CODE),
            started_at: attempt.started_at,
            finished_at: attempt.finished_at,
            duration: attempt.duration,
            asked_by: attempt.asked_by,
            served: attempt.is_served,
        }
    }
}

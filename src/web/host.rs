//! The server itself: its status, its metrics, its health, and its OpenAPI document.

use hyper::StatusCode;

use super::error::ApiError;
use super::pages;
use super::request::Request;
use super::response::{self, Response};
use super::state::Web;
use crate::api::HostView;

/// The OpenAPI document; a test derives it (`super::openapi`) and compares.
const OPENAPI: &str = include_str!("../../docs/openapi.json");

/// `GET /status`.
pub(super) async fn status(web: &Web, request: Request) -> Result<Response, ApiError> {
    if request.wants_page()? {
        return pages::host(web, &request).await;
    }
    let host = request.reader.host().await?;
    response::json(
        &request.budget,
        StatusCode::OK,
        &HostView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            slots: host.slots,
            running: host.running,
            backlog: host.backlog,
            queued: host.queued,
            paused: host.paused,
            disk_free: host.disk_free,
            disk_size: host.disk_size,
            filesystem: host.filesystem.to_owned(),
            engine: host.engine,
        },
    )
}

/// `GET /metrics`.
pub(super) async fn metrics(web: &Web, request: Request) -> Result<Response, ApiError> {
    request.reader.refresh_metrics().await;
    let bodies = web.scheduler.bodies().held();
    web.metrics.record_held(web.held.held(), bodies);
    let text = web
        .metrics
        .text()
        .map_err(|error| ApiError::with_cause("the server could not write its metrics", error))?;
    Ok(response::typed(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        response::full(&request.budget, text.into())?,
    ))
}

/// `GET /healthz`.
pub(super) async fn healthz(_: &Web, _: Request) -> Result<Response, ApiError> {
    Ok(response::text(StatusCode::OK, "ok\n"))
}

/// `GET /openapi.json`.
pub(super) async fn openapi(_: &Web, _: Request) -> Result<Response, ApiError> {
    Ok(response::typed(
        StatusCode::OK,
        "application/json",
        response::fixed(OPENAPI.as_bytes()),
    ))
}

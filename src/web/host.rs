//! The host: what is going on, and what there is room for.

use hyper::{Response, StatusCode};

use super::Web;
use super::answer::{self, Body};
use super::error::Refusal;
use crate::api::HostView;

/// `GET /status`.
pub(super) async fn status(web: &Web) -> Result<Response<Body>, Refusal> {
    let host = web.scheduler.host().await?;
    answer::json(
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

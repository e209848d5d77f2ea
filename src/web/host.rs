//! The host: what is going on, and what there is room for.

use hyper::{Response, StatusCode};

use super::answer::{self, Body};
use super::error::Refusal;
use super::routes::Asked;
use super::{Web, pages};
use crate::api::HostView;

/// `GET /status`.
pub(super) async fn status(web: &Web, asked: &Asked) -> Result<Response<Body>, Refusal> {
    if asked.wants_page()? {
        return pages::host(web, asked).await;
    }
    let host = asked.reader.host().await?;
    answer::json(
        &asked.room,
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

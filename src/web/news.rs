//! `GET /events`: the events of jobs and the host, as one stream.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::error::ApiError;
use super::events::{self, ClientGone, Events};
use super::filter::filter;
use super::pages;
use super::request::Request;
use super::response::Response;
use super::state::Web;
use crate::api::{IndexItem, NewsHost, NewsRemoved};
use crate::budget::Held;
use crate::build::{BuildInfo, Filter};
use crate::scheduler::{Activity, EventStream, StreamEvent};

/// A job as a row of the web view.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    project: String,
    #[serde(rename = "ID")]
    id: String,
    state: crate::job::State,
    row: String,
}

/// The current state and then the events that match the filter; after `Last-Event-ID` also the ends that were
/// missed. With `?rows` jobs are sent as rows of the web view's tables.
pub(super) async fn follow(web: &Web, request: Request) -> Result<Response, ApiError> {
    let filter = filter(&request.query)?;
    if filter.pinned.is_some() {
        return Err(ApiError::bad_request(
            "pinned: events do not say it; expected of lists only",
        ));
    }
    let since: Option<Timestamp> = match request.headers().get("last-event-id") {
        None => None,
        Some(id) => Some(
            id.to_str()
                .ok()
                .and_then(|id| id.parse().ok())
                .ok_or_else(|| {
                    ApiError::bad_request(
                        "Last-Event-ID: expected the id of an event of this stream",
                    )
                })?,
        ),
    };
    let as_rows = request.flag("rows")?;
    let held = request.budget.hold(events::STREAM_BYTES)?;
    let news = request.reader.events(since).await?;
    let feed = request.budget.hold(news.bytes())?;
    let sender = Sender {
        web: web.clone(),
        filter,
        as_rows,
    };
    Ok(events::stream(&request.budget, held, |events| async move {
        sender.send_all(&events, news, feed).await
    }))
}

/// Sends the events of one stream.
struct Sender {
    web: Web,
    filter: Filter,
    /// Jobs are sent as rows of the web view's tables.
    as_rows: bool,
}

impl Sender {
    async fn send_all(
        &self,
        events: &Events,
        mut feed: EventStream,
        mut held: Held,
    ) -> Result<(), ClientGone> {
        let mut last_host = None;
        while let Some(news) = feed.next().await {
            let bytes = feed.bytes();
            held.shrink_to(bytes);
            if !held.grow(bytes - held.amount()) {
                // The client reconnects with the id of its last event when there is memory again.
                return Ok(());
            }
            // A client that reconnects with this id gets every end that it has missed.
            let id = feed.resume_from().to_string();
            match news {
                StreamEvent::Host(activity) => {
                    let host = host(&activity);
                    if last_host.as_ref() != Some(&host) {
                        events.json_with_id("host", &id, &host).await?;
                        last_host = Some(host);
                    }
                }
                StreamEvent::Job(info) => self.send_job(events, &id, info).await?,
                StreamEvent::Removed(project, job) => {
                    let filter = &self.filter.project;
                    if filter.as_ref().is_none_or(|filter| *filter == project) {
                        let removed = removed(project.as_str(), &job.to_string());
                        events.json_with_id("gone", &id, &removed).await?;
                    }
                }
                StreamEvent::Missed => {
                    let nothing = serde_json::json!({});
                    events.json_with_id("missed", &id, &nothing).await?;
                }
                StreamEvent::Present => {
                    let nothing = serde_json::json!({});
                    events.json_with_id("present", &id, &nothing).await?;
                }
            }
        }
        Ok(())
    }

    async fn send_job(
        &self,
        events: &Events,
        id: &str,
        info: Arc<BuildInfo>,
    ) -> Result<(), ClientGone> {
        if !self.filter.takes_build(&info) {
            if info.phase().is_none() && self.filter.may_have_taken(&info) {
                let removed = removed(info.project.as_str(), &info.id.to_string());
                drop(info);
                events.json_with_id("gone", id, &removed).await?;
            }
            return Ok(());
        }
        // The job's state is dropped before its event is sent: a client that reads slowly must not keep its
        // params in memory.
        if self.as_rows {
            let row = Row {
                project: info.project.to_string(),
                id: info.id.to_string(),
                state: info.state(),
                row: pages::row_of(&self.web, &info).map_err(|_| ClientGone)?,
            };
            drop(info);
            return events.json_with_id("row", id, &row).await;
        }
        let mut listed = BuildInfo::clone(&info);
        listed.abridge();
        let item = IndexItem::written(listed.view()).map_err(|_| ClientGone)?;
        drop((info, listed));
        events.json_with_id("job", id, &item).await
    }
}

fn removed(project: &str, id: &str) -> NewsRemoved {
    NewsRemoved {
        project: project.to_owned(),
        id: id.to_owned(),
    }
}

fn host(activity: &Activity) -> NewsHost {
    NewsHost {
        slots: activity.slots,
        running: activity.building,
        backlog: activity.backlog,
        queued: activity.queued,
        paused: activity.paused,
        engine_away: activity.engine_away,
    }
}

//! `GET /events`: what happens to jobs and the host, as one stream.

use jiff::Timestamp;
use serde::Serialize;

use super::error::ApiError;
use super::events::{self, Events, Gone};
use super::filter::filter;
use super::pages;
use super::request::Request;
use super::response::Response;
use super::state::Web;
use crate::api::{IndexItem, NewsHost, NewsRemoved};
use crate::budget::Held;
use crate::build::{BuildInfo, Filter};
use crate::scheduler::{Activity, StreamEvent, EventStream};

/// A row of the web view in the place of the facts.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    project: String,
    #[serde(rename = "ID")]
    id: String,
    state: crate::build::State,
    row: String,
}

/// The present and then the news, of what the filter takes; after `Last-Event-ID` also the ends that
/// were missed. With `?rows` jobs come as rows of the web view's tables.
pub(super) async fn follow(web: &Web, request: Request) -> Result<Response, ApiError> {
    let filter = filter(&request.query)?;
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
    let held = request.budget.hold(events::STREAM)?;
    let news = request.reader.events(since).await?;
    let feed = request.budget.hold(news.bytes())?;
    let web = web.clone();
    Ok(events::stream(&request.budget, held, |events| async move {
        tell(&web, &events, (news, feed), &filter, as_rows).await
    }))
}

async fn tell(
    web: &Web,
    events: &Events,
    (mut feed, mut held): (EventStream, Held),
    filter: &Filter,
    as_rows: bool,
) -> Result<(), Gone> {
    let mut told_host = None;
    while let Some(news) = feed.next().await {
        let bytes = feed.bytes();
        held.shrink_to(bytes);
        if !held.grow(bytes - held.amount()) {
            // The client comes back with the id of its last event when there is room.
            return Ok(());
        }
        // A client that comes back with it is told every end that it was not told.
        let id = feed.told().to_string();
        match news {
            StreamEvent::Host(activity) => {
                let host = host(&activity);
                if told_host.as_ref() != Some(&host) {
                    events.told("host", &id, &host).await?;
                    told_host = Some(host);
                }
            }
            StreamEvent::Job(info) if !filter.takes_build(&info) => {
                if info.phase.is_none() && filter.may_have_taken(&info) {
                    let removed = removed(&info.project, &info.id);
                    drop(info);
                    events.told("gone", &id, &removed).await?;
                }
            }
            StreamEvent::Job(info) if as_rows => {
                let row = Row {
                    project: info.project.clone(),
                    id: info.id.clone(),
                    state: info.state,
                    row: pages::row_of(web, &info).map_err(|_| Gone)?,
                };
                drop(info);
                events.told("row", &id, &row).await?;
            }
            StreamEvent::Job(info) => {
                let mut listed = BuildInfo::clone(&info);
                listed.abridge();
                let item = IndexItem::written(&listed).map_err(|_| Gone)?;
                // A client that reads slowly must not keep the params of the job.
                drop((info, listed));
                events.told("job", &id, &item).await?;
            }
            StreamEvent::Removed(project, _)
                if filter.project.as_ref().is_some_and(|of| *of != project) => {}
            StreamEvent::Removed(project, job) => {
                let removed = removed(project.as_str(), &job.to_string());
                events.told("gone", &id, &removed).await?;
            }
            StreamEvent::Missed => events.told("missed", &id, &serde_json::json!({})).await?,
            StreamEvent::Present => events.told("present", &id, &serde_json::json!({})).await?,
        }
    }
    Ok(())
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

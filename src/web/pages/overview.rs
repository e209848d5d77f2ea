//! `GET /`: the builds that are queued or running, and the latest that have ended.

use askama::Template;
use jiff::Timestamp;

use super::super::error::ApiError;
use super::super::request::Request;
use super::super::response::Response;
use super::super::state::Web;
use super::super::{filter, format};
use super::filters::Form;
use super::page::page;
use super::row::row_of;
use crate::build::{BuildInfo, Filter, Listing};
use crate::job::{Outcome, Phase, State};
use crate::project::ProjectName;
use crate::scheduler::Activity;

/// Builds that have ended on one page, which keeps the page small.
const SHOWN: usize = 50;
/// Active builds that are shown; a backlog can be longer.
const MAX_LIVE: usize = 100;

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview<'a> {
    heading: String,
    icon: &'static str,
    is_paused: bool,
    is_engine_away: bool,
    load: String,
    form: Form<'a>,
    /// The builds of the last day.
    day: String,
    is_filtered: bool,
    events: String,
    since: String,
    /// The address has no `before`: the page shows the newest builds.
    is_first: bool,
    first: String,
    older: Option<String>,
    most: usize,
    live: Vec<String>,
    recent: Vec<String>,
}

/// The page of the builds that the query selects.
pub(in crate::web) async fn overview(web: &Web, request: Request) -> Result<Response, ApiError> {
    // A form sends its empty fields, too; they are ignored here.
    let choice = request.query.clone().without_empty();
    let filter = filter::filter(&choice)?;
    let is_first = filter.before.is_none();
    // Taken before the builds are read: the stream of events reports those that end from now on.
    let since = format::stamp(Timestamp::now());
    let live = live(web, &filter).await;
    let ready = Filter {
        state: Some(State::Ready),
        ..filter.clone()
    };
    let (recent, next) = match filter.state {
        // They are all in the first table.
        Some(State::Pending) => (Vec::new(), None),
        _ => request.reader.list(ready, SHOWN).await?,
    };
    let query = filter::query(&choice).finish();
    let older = next.map(|place| {
        let mut before = form_urlencoded::Serializer::new(String::new());
        let before = before.append_pair("before", &place.to_string()).finish();
        address("/", [&query, &before])
    });
    let activity = web.scheduler.activity().borrow().clone();
    let names = request.reader.projects().await?;
    let day = day(web, &request, names.iter().map(|(name, ..)| name)).await?;
    let form = Form::of(
        &request,
        &choice,
        filter.outcome,
        filter.project.clone(),
        &names,
    )
    .await?;
    let rows = |infos: &mut dyn Iterator<Item = &BuildInfo>| -> Result<Vec<String>, ApiError> {
        infos.map(|info| row_of(web, info)).collect()
    };
    page(
        &request.budget,
        request.headers(),
        &Overview {
            heading: heading(choice.get("project").unwrap_or_default()),
            icon: icon(!live.is_empty(), recent.first()),
            is_paused: activity.paused,
            is_engine_away: activity.engine_away,
            load: load(&activity),
            form,
            day,
            is_filtered: !query.is_empty(),
            events: address("/events", ["rows", &query]),
            since,
            is_first,
            first: address("/", [&query, ""]),
            older,
            most: SHOWN,
            live: rows(&mut live.iter().map(|info| &**info))?,
            recent: rows(&mut recent.iter().map(|listing| listing.info()))?,
        },
    )
}

/// The builds that ended in the last 24 hours, and the answers of today.
async fn day(
    web: &Web,
    request: &Request,
    projects: impl Iterator<Item = &ProjectName>,
) -> Result<String, ApiError> {
    let (ended, failed) = request.reader.last_day().await?;
    let answers = projects.map(|name| web.scheduler.answer_stats(name).last(1));
    let cached: u64 = answers.map(|day| day.cached + day.coalesced).sum();
    let builds = match ended {
        0 => "no builds in 24 h".to_owned(),
        1 => format!("{failed} of 1 build failed in 24 h"),
        _ => format!("{failed} of {ended} builds failed in 24 h"),
    };
    Ok(match cached {
        0 => builds,
        1 => format!("{builds}, 1 request answered without a build today"),
        _ => format!("{builds}, {cached} requests answered without a build today"),
    })
}

fn heading(project: &str) -> String {
    match project {
        "" => "Builds".to_owned(),
        project => format!("Builds of {project}"),
    }
}

fn load(activity: &Activity) -> String {
    format!(
        "{} of {} slots in use, {} queued",
        activity.building, activity.slots, activity.queued
    )
}

/// `path` with the non-empty parts of a query.
fn address(path: &str, query: [&str; 2]) -> String {
    let parts: Vec<&str> = query.into_iter().filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        [] => path.to_owned(),
        parts => format!("{path}?{}", parts.join("&")),
    }
}

/// The name of the page's icon: the state of the builds.
fn icon(is_running: bool, newest: Option<&Listing>) -> &'static str {
    match newest.map(|newest| newest.info().outcome()) {
        _ if is_running => "running",
        None => "idle",
        Some(Some(Outcome::Succeeded | Outcome::Cancelled)) => "good",
        Some(_) => "bad",
    }
}

/// Active builds, running ones before waiting ones, each in the order of their requests.
pub(super) async fn live(web: &Web, filter: &Filter) -> Vec<std::sync::Arc<BuildInfo>> {
    let jobs = web.scheduler.active_jobs().await;
    let now = jobs.into_iter().filter_map(|job| job.now());
    let mut live: Vec<_> = now
        .filter(|info| info.phase().is_some() && filter.takes_build(info))
        .collect();
    live.sort_by_key(|info| (info.phase() == Some(Phase::Queued), info.queued_at));
    live.truncate(MAX_LIVE);
    live
}

//! The pages of `GET /projects` and `GET /project/P`.

use askama::Template;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::super::error::ApiError;
use super::super::format;
use super::super::request::Request;
use super::super::response::Response;
use super::super::state::Web;
use super::commands::{self, Command, Server};
use super::page::page;
use super::plot::{Plot, plot};
use super::row::row_of;
use super::start::{self, Form};
use crate::build::{BuildInfo, Filter, Listing};
use crate::job::{JobId, Outcome};
use crate::project::ProjectName;
use crate::scheduler;

/// Builds and answers in the plot.
const PLOTTED: usize = 200;
/// Builds in the table.
const SHOWN: usize = 20;
/// Days over which the rate of cached answers is computed.
const RATE_DAYS: i32 = 30;
/// Groups in the table: one per branch, and there may be thousands.
const MAX_GROUPS: usize = 200;

#[derive(Template)]
#[template(path = "projects.html")]
struct Projects {
    projects: Vec<Line>,
}

struct Line {
    name: String,
    builds: u64,
    /// State, `datetime`, time for users.
    last: Option<(&'static str, String, String)>,
    expected: String,
    own: String,
}

/// Every project.
pub(in crate::web) async fn projects(web: &Web, request: &Request) -> Result<Response, ApiError> {
    let mut projects = Vec::new();
    let mut own = request.reader.sizes().await?;
    let mut newest = request.reader.newest().await?;
    for (name, builds, _) in request.reader.projects().await? {
        projects.push(Line {
            builds,
            last: newest.remove(&name).map(|(started, status)| {
                let (stamp, utc) = (format::stamp(started), format::utc(started));
                (status.as_str(), stamp, utc)
            }),
            expected: web
                .scheduler
                .expected(&name, false)
                .map(format::span)
                .unwrap_or_default(),
            own: format::bytes(own.remove(&name).unwrap_or(0)),
            name: name.to_string(),
        });
    }
    page(&request.budget, request.headers(), &Projects { projects })
}

#[derive(Template)]
#[template(path = "project.html")]
struct Project {
    name: String,
    icon: &'static str,
    builds: u64,
    ended: u64,
    succeeded: u64,
    success_rate: u64,
    answers: u64,
    cached: u64,
    coalesced: u64,
    hit_rate: u64,
    days: i32,
    own: String,
    cold: String,
    incremental: String,
    /// The builds of which these are the medians.
    similar: usize,
    form: Form,
    plot: Option<Plot>,
    latest: Option<(String, String)>,
    groups: Vec<Group>,
    more_groups: usize,
    /// `None` over TLS, which mistry does not speak.
    build_command: Option<Command>,
    curl_command: Command,
    rows: Vec<String>,
}

struct Group {
    name: String,
    /// The name for requests, percent-encoded: a page contains no characters that steer the display.
    encoded: String,
    href: String,
    id: String,
    short: String,
}

impl Group {
    fn of(project: &ProjectName, group: &str, latest: JobId) -> Group {
        Group {
            name: format::visible(group),
            encoded: utf8_percent_encode(group, NON_ALPHANUMERIC).to_string(),
            href: form_urlencoded::Serializer::new("/?".to_owned())
                .append_pair("project", project.as_str())
                .append_pair("group", group)
                .finish(),
            id: latest.to_string(),
            short: latest.short(),
        }
    }
}

/// One project.
pub(in crate::web) async fn project(
    web: &Web,
    request: &Request,
    name: &ProjectName,
) -> Result<Response, ApiError> {
    let (latest, groups) = request.reader.bases(name).await?;
    let trend = request.reader.trend(name, PLOTTED).await?;
    // The page of the build that is started says what is wrong in an invalid mistry.json.
    let schema = match request.reader.param_schema(name).await {
        Err(scheduler::Error::Project(_)) => None,
        schema => schema?,
    };
    let stats = web.scheduler.answer_stats(name);
    let answers = stats.last(RATE_DAYS);
    let (builds, _) = request.reader.list(of(name), SHOWN).await?;
    let all = answers.built + answers.cached + answers.coalesced;
    let expected = |incremental| {
        let expected = web.scheduler.expected(name, incremental);
        expected.map(format::span).unwrap_or_default()
    };
    // The params of the latest build are the best guess for the next one.
    let newest = builds.first().map(Listing::info);
    let job = next_job(name, newest);
    let server = Server::of(web, request);
    page(
        &request.budget,
        request.headers(),
        &Project {
            icon: match trend.points.first().map(|point| point.outcome) {
                None => "idle",
                Some(Outcome::Succeeded | Outcome::Cancelled) => "good",
                Some(_) => "bad",
            },
            builds: trend.builds,
            ended: trend.ended,
            succeeded: trend.succeeded,
            success_rate: percent(trend.succeeded, trend.ended),
            answers: all,
            cached: answers.cached,
            coalesced: answers.coalesced,
            hit_rate: percent(answers.cached + answers.coalesced, all),
            days: RATE_DAYS,
            own: format::bytes(trend.own),
            cold: expected(false),
            incremental: expected(true),
            similar: crate::build::SIMILAR_BUILDS,
            form: start::form(schema.as_ref(), newest),
            plot: plot(name, &trend, &stats),
            latest: latest.map(|id| (id.to_string(), id.short())),
            more_groups: groups.len().saturating_sub(MAX_GROUPS),
            groups: groups
                .into_iter()
                .take(MAX_GROUPS)
                .map(|(group, id)| Group::of(name, &group, id))
                .collect(),
            build_command: server.mistry(&job),
            curl_command: server.curl(&job),
            rows: builds
                .iter()
                .map(|listing| row_of(web, listing.info()))
                .collect::<Result<_, _>>()?,
            name: name.to_string(),
        },
    )
}

/// The job that the commands build: like the newest.
fn next_job<'a>(project: &'a ProjectName, newest: Option<&'a BuildInfo>) -> commands::Job<'a> {
    commands::Job {
        project,
        group: newest.map_or("", BuildInfo::group_name),
        params: newest
            .into_iter()
            .flat_map(|newest| &newest.params)
            .map(|(name, value)| (&**name, value.as_deref()))
            .collect(),
    }
}

fn percent(part: u64, of: u64) -> u64 {
    (part * 100).checked_div(of).unwrap_or(0)
}

fn of(project: &ProjectName) -> Filter {
    Filter {
        project: Some(project.clone()),
        ..Filter::default()
    }
}

//! The web view: a plain list of builds, a plain page for one, listings of artifacts.
//!
//! Works without JavaScript and loads nothing from elsewhere. Everything that a client or a
//! container wrote goes through the templates' escaping.

use askama::Template;
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderValue};
use hyper::{Response, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use super::Web;
use super::answer::{self, Body};
use super::error::Refusal;
use super::routes::Asked;
use crate::build::{BuildInfo, Filter, Outcome};
use crate::job::JobId;
use crate::project::ProjectName;

/// Builds on one page.
const SHOWN: usize = 100;
const STYLE: &str = include_str!("static/style.css");
/// What a file name keeps in an address.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'.')
    .remove(b'-')
    .remove(b'_')
    .remove(b'~');

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    is_paused: bool,
    builds: Vec<Row>,
    project: Option<String>,
    more: bool,
}

struct Row {
    url: String,
    short: String,
    project: String,
    group: String,
    outcome: &'static str,
    started: String,
    took: String,
}

#[derive(Template)]
#[template(path = "job.html")]
struct Job<'a> {
    info: &'a BuildInfo,
    row: Row,
    log: &'a str,
    is_over: bool,
    is_cut: bool,
}

#[derive(Template)]
#[template(path = "directory.html")]
struct Directory {
    project: String,
    id: String,
    path: String,
    items: Vec<Listed>,
}

struct Listed {
    href: String,
    name: String,
    size: String,
}

/// `GET /`: the newest builds, or those of `?project=`.
pub(super) async fn overview(web: &Web, asked: &Asked) -> Result<Response<Body>, Refusal> {
    let project = asked.query("project").filter(|name| !name.is_empty());
    let filter = Filter {
        project: project.map(str::parse).transpose()?,
        ..Filter::default()
    };
    let (builds, next) = web.scheduler.list(filter, SHOWN).await?;
    page(&Overview {
        is_paused: web.scheduler.is_paused(),
        builds: builds.iter().map(|build| row(build.info())).collect(),
        project: project.map(str::to_owned),
        more: next.is_some(),
    })
}

/// `GET /job/P/ID` for people.
pub(super) fn job(mut info: BuildInfo) -> Result<Response<Body>, Refusal> {
    let log = info.container_stdouterr.take().unwrap_or_default();
    info.abridge();
    page(&Job {
        row: row(&info),
        is_over: info.phase.is_none(),
        is_cut: log.len() + 4 >= crate::build::LOG_TAIL,
        log: &log,
        info: &info,
    })
}

/// What is in a directory of artifacts: names, whether each is a directory, and sizes.
pub(super) fn directory<'a>(
    project: &ProjectName,
    id: JobId,
    path: &[u8],
    items: impl Iterator<Item = (&'a [u8], bool, u64)>,
) -> Result<Response<Body>, Refusal> {
    let mut base = format!("/artifacts/{project}/{id}");
    for part in path
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty())
    {
        base = format!("{base}/{}", percent_encode(part, IN_PATH));
    }
    page(&Directory {
        project: project.to_string(),
        id: id.to_string(),
        path: shown(path),
        items: items
            .map(|(name, is_directory, size)| Listed {
                href: format!("{base}/{}", percent_encode(name, IN_PATH)),
                name: shown(name),
                size: if is_directory {
                    "directory".to_owned()
                } else {
                    format!("{size} bytes")
                },
            })
            .collect(),
    })
}

/// A file name as text: whoever reads the page in a terminal gets no commands from it.
fn shown(name: &[u8]) -> String {
    let letters = String::from_utf8_lossy(name);
    let shown = |letter: char| {
        if letter.is_control() {
            '\u{fffd}'
        } else {
            letter
        }
    };
    letters.chars().map(shown).collect()
}

/// `GET /static/<name>`.
pub(super) fn file(name: &str) -> Result<Response<Body>, Refusal> {
    let body = match name {
        "style.css" => STYLE,
        _ => return Err(Refusal::not_found("there is nothing at this address")),
    };
    let mut response = answer::typed(
        StatusCode::OK,
        "text/css; charset=utf-8",
        answer::full(body),
    );
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
    Ok(response)
}

fn page(template: &impl Template) -> Result<Response<Body>, Refusal> {
    let text = template
        .render()
        .map_err(|error| Refusal::caused("the server could not write the page", error))?;
    let mut response = answer::typed(
        StatusCode::OK,
        "text/html; charset=utf-8",
        answer::full(text),
    );
    let policy = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn row(info: &BuildInfo) -> Row {
    Row {
        url: format!("/{}", info.url),
        short: info.id.chars().take(7).collect(),
        project: info.project.clone(),
        group: info.group.clone(),
        outcome: match info.phase {
            Some(phase) => phase.as_str(),
            None => info.outcome.map_or("pending", Outcome::as_str),
        },
        started: info
            .started_at
            .strftime("%Y-%m-%d %H:%M:%S UTC")
            .to_string(),
        took: match u64::try_from(info.duration) {
            Ok(nanos) => took(std::time::Duration::from_nanos(nanos)),
            Err(_) => String::new(),
        },
    }
}

fn took(time: std::time::Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        seconds @ 1..60 => format!("{seconds} s"),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

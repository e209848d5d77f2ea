//! `mistry status [ID]`: the status of the server, or of a build.

use clap::Args;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::attempts::{attempt_lines, attempt_text, page_path};
use super::build_progress::phase_text;
use super::build_ref::BuildRef;
use super::format::{format_duration, format_time, short_id};
use super::json_result::Document;
use super::output::print_line;
use super::{Error, list, server_status};
use crate::api::{BuildView, JobView, NO_EXIT_CODE};
use crate::client::{self, Address, Client, Filter};
use crate::job::{Outcome, State};
use crate::screen;

/// Builds whose durations say how long another one takes.
const COMPARED_BUILDS: usize = 20;

/// Show the state of the server or of one build
#[derive(Debug, Args)]
pub(super) struct Status {
    /// The build's id or the first digits of it, also as PROJECT/ID; without it, the server
    #[arg(value_name = "ID")]
    id: Option<BuildRef>,
    /// Attempt N of the build; else the current one
    #[arg(long, value_name = "N", requires = "id")]
    attempt: Option<u32>,
    /// Print the state as JSON, as the server sends it
    #[arg(long)]
    pub(super) json: bool,
}

impl Status {
    pub(super) async fn run(&self, client: &Client, document: &mut Document) -> Result<(), Error> {
        let state = match &self.id {
            None => client.status().await?,
            Some(build) => {
                let (project, id) = build.resolve(client).await?;
                client.job_json(&project, id, self.attempt).await?
            }
        };
        if self.json {
            return document.print(&state);
        }
        let lines = match &self.id {
            None => server_status::lines(&client.address().to_string(), &state),
            Some(_) => build_lines(client, &state).await?,
        };
        let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in lines {
            print_line(&screen::cell(&format!("{name:width$}  {value}")))?;
        }
        Ok(())
    }
}

async fn build_lines(client: &Client, document: &Value) -> Result<Vec<(String, String)>, Error> {
    let view = JobView::<BuildView>::deserialize(document).map_err(client::Error::from)?;
    let info = &view.build_info;
    let is_over = info.state == State::Ready;
    let mut lines = vec![
        ("id", view.id.clone()),
        ("project", view.project.clone()),
        ("group", info.group.clone()),
        ("state", state(info)),
        ("attempt", attempt_text(info)),
        ("error", info.err.clone().unwrap_or_default()),
        ("exit code", exit_code(info)),
        ("asked by", asked_by(info)),
        ("kind", kind(info)),
        ("started", format_time(info.started_at)),
    ];
    if is_over {
        lines.push(("took", format_duration(info.duration)));
    } else {
        lines.push(("so far", format_duration(nanos_since(info.started_at))));
        lines.push(("usually", usual_duration(client, info).await));
    }
    lines.push(("pinned", if view.pinned { "yes" } else { "" }.to_owned()));
    if is_over {
        lines.push(artifacts(client.address(), info));
    }
    let page = client.address().page(&page_path(info));
    lines.push(("page", page.unwrap_or_default()));
    if let Some(by) = &info.cancelled {
        let reason = match by.reason.as_str() {
            "" => String::new(),
            reason => format!(": {reason}"),
        };
        lines.push(("cancelled", format!("by {}{reason}", by.by)));
    }
    let named = lines
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    let params = info.params.iter().map(|(name, value)| {
        let shown = value.as_deref().map_or("(hidden)".to_owned(), first_line);
        (format!("param {name}"), shown)
    });
    let lines = named
        .chain(params)
        .chain(attempt_lines(client, info).await?);
    Ok(lines.filter(|(_, value)| !value.is_empty()).collect())
}

/// `running: building`, `stopping`, `succeeded (cached)`.
fn state(info: &BuildView) -> String {
    let text = list::state_text(info.state, info);
    match (info.state, info.phase) {
        (State::Pending, Some(_)) if !list::is_stopping(info) => {
            format!("{text}: {}", phase_text(info.phase))
        }
        _ => text.to_owned(),
    }
}

fn exit_code(info: &BuildView) -> String {
    match info.exit_code {
        NO_EXIT_CODE => String::new(),
        code => code.to_string(),
    }
}

fn asked_by(info: &BuildView) -> String {
    let by = info.asked_by.clone().unwrap_or_default();
    match info.joined {
        0 => by,
        1 => format!("{by}; 1 further request joined it"),
        joined => format!("{by}; {joined} further requests joined it"),
    }
}

fn kind(info: &BuildView) -> String {
    let base = info.base.as_deref().map(short_id);
    match (info.incremental, base) {
        (true, Some(base)) => format!("incremental: it began as a copy of {base}"),
        (true, None) => "incremental: it began as a copy of another build".to_owned(),
        (false, _) if info.cold => "cold build: it was asked to begin empty".to_owned(),
        (false, _) => "cold: it began empty".to_owned(),
    }
}

/// Where the artifacts are: a path is of use on the server's host only.
fn artifacts(address: &Address, info: &BuildView) -> (&'static str, String) {
    match address.is_of_this_host() {
        true => ("artifacts", info.path.clone()),
        false => ("artifacts", format!("{} on the server's host", info.path)),
    }
}

/// How long such builds have taken: the median of the last ones; "" if there are none.
async fn usual_duration(client: &Client, info: &BuildView) -> String {
    let filter = Filter {
        project: info.project.clone(),
        group: info.group.clone(),
        outcome: Outcome::Succeeded.as_str().to_owned(),
        kind: list::kind(info).to_owned(),
        ..Filter::default()
    };
    let Ok(items) = client.index(&filter, COMPARED_BUILDS).await else {
        return String::new();
    };
    let durations = items.iter().map(|item| item.build_info.duration);
    let mut durations: Vec<i64> = durations.filter(|nanos| *nanos >= 0).collect();
    durations.sort_unstable();
    match durations.get(durations.len() / 2) {
        Some(median) => format!("about {}", format_duration(*median)),
        None => String::new(),
    }
}

fn nanos_since(at: Timestamp) -> i64 {
    i64::try_from(Timestamp::now().duration_since(at).as_nanos()).unwrap_or(i64::MAX)
}

/// The first line of a value, shortened: a param may be a whole lock file.
fn first_line(value: &str) -> String {
    const MAX_CHARS: usize = 100;
    let line = value.lines().next().unwrap_or_default();
    let shown: String = line.chars().take(MAX_CHARS).collect();
    if shown.len() < value.trim_end().len() {
        format!("{shown}... ({} bytes)", value.len())
    } else {
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_described_in_words() {
        let mut info = BuildView {
            phase: Some(crate::job::Phase::Running),
            asked_by: Some("uid 1".to_owned()),
            path: "/b/p/ready/x".to_owned(),
            ..BuildView::default()
        };
        assert_eq!(state(&info), "running: building");
        assert_eq!(kind(&info), "cold: it began empty");
        assert_eq!(asked_by(&info), "uid 1");
        info.joined = 1;
        assert_eq!(asked_by(&info), "uid 1; 1 further request joined it");
        (info.incremental, info.base) = (true, Some("0123456789abcdef".to_owned()));
        let words = "incremental: it began as a copy of 0123456789ab";
        assert_eq!(kind(&info), words);
        info.cancelled = Some(crate::job::Cancelled {
            by: "x".to_owned(),
            reason: String::new(),
        });
        assert_eq!(state(&info), "stopping");
        let remote: Address = "http://h:1".parse().unwrap();
        let shown = artifacts(&remote, &info).1;
        assert_eq!(shown, "/b/p/ready/x on the server's host");
        let local: Address = "http://127.0.0.1:1".parse().unwrap();
        assert_eq!(artifacts(&local, &info).1, "/b/p/ready/x");
    }

    #[test]
    fn a_long_param_is_cut() {
        assert_eq!(first_line("short"), "short");
        assert_eq!(first_line("a\nb\n"), "a... (4 bytes)");
        assert!(first_line(&"x".repeat(1_000)).ends_with("... (1000 bytes)"));
    }
}

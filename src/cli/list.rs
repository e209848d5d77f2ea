//! `mistry list`: builds, newest first.

use std::collections::HashSet;

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use serde::Deserialize;

use super::Error;
use super::attempts::attempt_text;
use super::format::{format_duration, format_time, short_id};
use super::json_result::Document;
use super::output::{print_message, print_table};
use crate::api::{BuildView, IndexItem};
use crate::client::{self, Client, Filter};
use crate::job::{Outcome, Phase, State};
use crate::project::ProjectName;

/// List builds, newest first
#[derive(Debug, Args)]
pub(super) struct List {
    /// Only builds of this project
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    /// Only builds of this group
    #[arg(long, short, value_name = "NAME")]
    group: Option<String>,
    /// Only builds that are not over (pending), or that are (ready)
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<State>,
    /// Only builds that ended so
    #[arg(long, value_name = "OUTCOME", value_parser = PossibleValuesParser::new(Outcome::ALL.map(Outcome::as_str)))]
    outcome: Option<String>,
    /// Only builds with each of these words in project, group or params, or at the beginning of the id
    #[arg(long, value_name = "WORDS")]
    text: Option<String>,
    /// Only builds that this client requested first: 'token NAME', 'uid N' or an address, as in the column
    #[arg(long, value_name = "CLIENT")]
    asked_by: Option<String>,
    /// Only builds that began empty (cold), or as a copy of another build (incremental)
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Only pinned builds
    #[arg(long)]
    pinned: bool,
    /// How many builds at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Print the builds as JSON, as the server sends them
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Cold,
    Incremental,
}

fn state(text: &str) -> Result<State, String> {
    let known = [State::Pending, State::Ready];
    match known.into_iter().find(|state| state.as_str() == text) {
        Some(state) => Ok(state),
        None if Outcome::ALL.iter().any(|outcome| outcome.as_str() == text) => {
            Err(format!("that is an outcome: use --outcome {text}"))
        }
        None => Err("expected pending or ready".to_owned()),
    }
}

impl List {
    pub(super) async fn run(&self, client: &Client, document: &mut Document) -> Result<(), Error> {
        let filter = self.filter();
        let limit = usize::from(self.limit);
        let listed = client.index_json(&filter, limit).await?;
        let items = Vec::<IndexItem>::deserialize(&listed).map_err(client::Error::from)?;
        if items.is_empty() {
            self.check_project(client).await?;
        }
        if self.json {
            return document.print(&listed);
        }
        let pinned = match items.is_empty() || self.pinned {
            true => HashSet::new(),
            false => pinned(client, filter, limit).await?,
        };
        let is_pinned = |id: &str| self.pinned || pinned.contains(id);
        if items.is_empty() {
            print_message("no build was found");
        }
        let rows: Vec<[String; 11]> = items
            .into_iter()
            // A server that ignores `limit` sends all.
            .take(limit)
            .map(|item| row(&item, is_pinned(&item.id)))
            .collect();
        print_table(
            [
                "ID", "PROJECT", "GROUP", "STATE", "ATTEMPT", "KIND", "PINNED", "STARTED", "TOOK",
                "ASKED BY", "PARAMS",
            ],
            &rows,
        )
    }

    fn filter(&self) -> Filter {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Filter {
            project: text(&self.project),
            group: text(&self.group),
            state: self.state.map_or("", State::as_str).to_owned(),
            outcome: text(&self.outcome),
            text: text(&self.text),
            asked_by: text(&self.asked_by),
            kind: match self.kind {
                None => "",
                Some(Kind::Cold) => "cold",
                Some(Kind::Incremental) => "incremental",
            }
            .to_owned(),
            pinned: self.pinned,
        }
    }

    /// An empty list may have no builds because there is no such project.
    async fn check_project(&self, client: &Client) -> Result<(), Error> {
        let Some(project) = &self.project else {
            return Ok(());
        };
        let project: ProjectName = project
            .parse()
            .map_err(|error: crate::project::NameError| Error::Refused(error.to_string()))?;
        match client.project_exists(&project).await? {
            true => Ok(()),
            false => Err(Error::Refused(format!("unknown project '{project}'"))),
        }
    }
}

/// The ids of the listed builds that are pinned: the server's list does not say it.
async fn pinned(client: &Client, filter: Filter, limit: usize) -> Result<HashSet<String>, Error> {
    let filter = Filter {
        pinned: true,
        ..filter
    };
    let items = client.index(&filter, limit).await?;
    Ok(items.into_iter().map(|item| item.id).collect())
}

fn row(item: &IndexItem, is_pinned: bool) -> [String; 11] {
    let info = &item.build_info;
    [
        short_id(&item.id).to_owned(),
        item.project.clone(),
        info.group.clone(),
        state_text(item.state, info).to_owned(),
        attempt_text(info),
        kind(info).to_owned(),
        if is_pinned { "pinned" } else { "" }.to_owned(),
        match info.phase {
            Some(Phase::Queued) => String::new(),
            _ => format_time(item.started_at),
        },
        format_duration(info.duration),
        info.asked_by.clone().unwrap_or_default(),
        params_text(info),
    ]
}

/// How a build began.
pub(super) fn kind(info: &BuildView) -> &'static str {
    match info.incremental {
        true => "incremental",
        false => "cold",
    }
}

/// The params of a build in one line, shortened. The dots are ASCII, since the terminal may know nothing else.
fn params_text(info: &BuildView) -> String {
    const MAX_VALUE_CHARS: usize = 24;
    const MAX_CHARS: usize = 72;
    let cut = |text: &str, at: usize| match text.char_indices().nth(at) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    };
    let params = info.params.iter().map(|(name, value)| match value {
        Some(value) => {
            let first = value.lines().next().unwrap_or_default();
            let more = if first.len() < value.trim_end().len() {
                "..."
            } else {
                ""
            };
            format!("{name}={}", cut(&format!("{first}{more}"), MAX_VALUE_CHARS))
        }
        None => format!("{name}=(hidden)"),
    });
    cut(&params.collect::<Vec<_>>().join(" "), MAX_CHARS)
}

/// The state of a build: its outcome, else that it is being stopped, its phase, or `pending` or `ready`.
pub(super) fn state_text(state: State, info: &BuildView) -> &'static str {
    match (state, info.outcome, info.phase) {
        (State::Ready, Some(outcome), _) => outcome.as_str(),
        (State::Pending, ..) if is_stopping(info) => "stopping",
        (State::Pending, _, Some(phase)) => phase.as_str(),
        (state, ..) => state.as_str(),
    }
}

/// Whether a build was cancelled and is not over yet.
pub(super) fn is_stopping(info: &BuildView) -> bool {
    info.state == State::Pending && (info.stopping || info.cancelled.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_that_waits_has_not_started() {
        let started = |phase: &str| {
            let item = format!(
                r#"{{"id":"aa","project":"p","startedAt":"2026-01-02T03:04:05Z","state":"pending","buildInfo":{{"Phase":"{phase}"}}}}"#
            );
            let [.., started, _took, _asked_by, _params] =
                row(&serde_json::from_str(&item).unwrap(), false);
            started
        };
        assert_eq!(started("queued"), "");
        assert!(started("running").starts_with("2026-01-0"));
    }

    #[test]
    fn long_params_are_cut() {
        let of = |params: &[(&str, Option<&str>)]| {
            params_text(&BuildView {
                params: params
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), value.map(Into::into)))
                    .collect(),
                ..BuildView::default()
            })
        };
        assert_eq!(of(&[]), "");
        assert_eq!(
            of(&[("name", Some("world")), ("_key", None), ("n", Some(""))]),
            "_key=(hidden) n= name=world"
        );
        assert_eq!(of(&[("lock", Some("{\n1\n"))]), "lock={...");
        assert_eq!(of(&[("a", Some("b\n"))]), "a=b");
        let long = "ü".repeat(200);
        assert_eq!(of(&[("a", Some(&long))]).chars().count(), 2 + 24 + 3);
        let many: Vec<_> = ["a", "b", "c", "d", "e"].map(|n| (n, Some(&*long))).into();
        assert_eq!(of(&many).chars().count(), 75);
    }
}

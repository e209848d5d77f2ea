//! `mistry list`: builds, newest first.

use clap::{Args, ValueEnum};

use super::Error;
use super::format::{format_duration, format_time, short_id};
use super::output::print_table;
use crate::api::BuildView;
use crate::client::{Client, Filter};
use crate::job::State;

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
    #[arg(long, value_enum)]
    state: Option<Stage>,
    /// How many builds at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

/// A state on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Stage {
    Pending,
    Ready,
}

impl List {
    pub(super) async fn run(&self, client: &Client) -> Result<(), Error> {
        let state = match self.state {
            None => "",
            Some(Stage::Pending) => State::Pending.as_str(),
            Some(Stage::Ready) => State::Ready.as_str(),
        };
        let filter = Filter {
            project: self.project.clone().unwrap_or_default(),
            group: self.group.clone().unwrap_or_default(),
            state: state.to_owned(),
        };
        let limit = usize::from(self.limit);
        let items = client.index(&filter, limit).await?;
        let rows: Vec<[String; 7]> = items
            .into_iter()
            // A server that ignores `limit` sends all.
            .take(limit)
            .map(|item| {
                [
                    short_id(&item.id).to_owned(),
                    item.project,
                    item.build_info.group.clone(),
                    state_text(item.state, &item.build_info),
                    format_time(item.started_at),
                    format_duration(item.build_info.duration),
                    params_text(&item.build_info),
                ]
            })
            .collect();
        print_table(
            [
                "ID", "PROJECT", "GROUP", "STATE", "STARTED", "TOOK", "PARAMS",
            ],
            &rows,
        )
    }
}

/// The params of a build in one line, shortened.
fn params_text(info: &BuildView) -> String {
    const MAX_VALUE_CHARS: usize = 24;
    const MAX_CHARS: usize = 72;
    let cut = |text: &str, at: usize| match text.char_indices().nth(at) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    };
    let params = info.params.iter().map(|(name, value)| match value {
        Some(value) => {
            let first = value.lines().next().unwrap_or_default();
            let more = if first.len() < value.trim_end().len() {
                "…"
            } else {
                ""
            };
            format!("{name}={}", cut(&format!("{first}{more}"), MAX_VALUE_CHARS))
        }
        None => format!("{name}=(hidden)"),
    });
    cut(&params.collect::<Vec<_>>().join(" "), MAX_CHARS)
}

/// The state of a build: its outcome, else its phase, else `pending` or `ready`.
pub(super) fn state_text(state: State, info: &BuildView) -> String {
    match (state, info.outcome, info.phase) {
        (State::Ready, Some(outcome), _) => outcome.as_str().to_owned(),
        (State::Pending, _, Some(phase)) => phase.as_str().to_owned(),
        (state, ..) => state.as_str().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(of(&[("lock", Some("{\n1\n"))]), "lock={…");
        assert_eq!(of(&[("a", Some("b\n"))]), "a=b");
        let long = "ü".repeat(200);
        assert_eq!(of(&[("a", Some(&long))]).chars().count(), 2 + 24 + 1);
        let many: Vec<_> = ["a", "b", "c", "d", "e"].map(|n| (n, Some(&*long))).into();
        assert_eq!(of(&many).chars().count(), 73);
    }
}

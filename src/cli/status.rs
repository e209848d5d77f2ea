//! `mistry status [ID]`: the status of the server, or of a build.

use clap::Args;
use serde_json::Value;

use super::build_ref::BuildRef;
use super::format::{format_duration, format_size, format_time};
use super::output::print_line;
use super::{Error, list};
use crate::api::{AttemptView, BuildView, NO_EXIT_CODE};
use crate::client::Client;
use crate::job::{Outcome, State};
use crate::screen;

/// Show the state of the server or of one build
#[derive(Debug, Args)]
pub(super) struct Status {
    /// The build's id or the first digits of it, also as PROJECT/ID; without it, the server
    #[arg(value_name = "ID")]
    id: Option<BuildRef>,
    /// This execution of the build's job; else the current one
    #[arg(long, value_name = "N", requires = "id")]
    attempt: Option<u32>,
}

impl Status {
    pub(super) async fn run(&self, client: &Client) -> Result<(), Error> {
        let fields = match &self.id {
            None => server_fields(&client.status().await?),
            Some(build) => build_fields(client, build, self.attempt).await?,
        };
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in fields {
            print_line(&screen::cell(&format!("{name:width$}  {value}")))?;
        }
        Ok(())
    }
}

async fn build_fields(
    client: &Client,
    build: &BuildRef,
    attempt: Option<u32>,
) -> Result<Vec<(String, String)>, Error> {
    let (project, id) = build.resolve(client).await?;
    let view = match attempt {
        None => client.job(&project, id).await?,
        Some(number) => client.attempt(&project, id, number).await?,
    };
    // A server of an earlier version numbers no executions.
    let attempts = match view.build_info.numbers > 1 {
        true => client.attempts(&project, id).await?,
        false => Vec::new(),
    };
    let info = view.build_info;
    let page = client.address().page(&page_path(&info)).unwrap_or_default();
    let mut fields = vec![
        ("id", id.to_string()),
        ("project", project.to_string()),
        ("group", info.group.clone()),
        ("state", list::state_text(info.state, &info)),
        ("attempt", attempt_text(&info)),
        ("error", info.err.clone().unwrap_or_default()),
        (
            "exit code",
            match info.exit_code {
                NO_EXIT_CODE => String::new(),
                code => code.to_string(),
            },
        ),
        ("started", format_time(info.started_at)),
        ("took", format_duration(info.duration)),
        (
            "incremental",
            if info.incremental { "yes" } else { "no" }.to_owned(),
        ),
        ("pinned", if view.pinned { "yes" } else { "" }.to_owned()),
        ("artifacts", info.path.clone()),
        ("page", page),
    ];
    if let Some(by) = &info.cancelled {
        let reason = match by.reason.as_str() {
            "" => String::new(),
            reason => format!(": {reason}"),
        };
        fields.push(("cancelled", format!("by {}{reason}", by.by)));
    }
    let named = fields.into_iter().map(|(n, v)| (n.to_owned(), v));
    let params = info.params.iter().map(|(name, value)| {
        let shown = value.as_deref().map_or("(hidden)".to_owned(), first_line);
        (format!("param {name}"), shown)
    });
    let attempts = attempts.iter().map(|attempt| {
        let name = format!("attempt {}", attempt.number);
        (name, summary_text(attempt))
    });
    Ok(named
        .chain(params)
        .chain(attempts)
        .filter(|(_, v)| !v.is_empty())
        .collect())
}

/// The page of a build. That of a build that is over shows the same execution when the job is built again.
fn page_path(info: &BuildView) -> String {
    match info.state {
        State::Pending => info.url.clone(),
        State::Ready => format!("{}?attempt={}", info.url, info.number),
    }
}

/// Which execution of its job it is; "" for the only one.
fn attempt_text(info: &BuildView) -> String {
    let flaky = if info.flaky { ", flaky" } else { "" };
    match info.numbers {
        0 | 1 => String::new(),
        numbers => format!("{} of {numbers}{flaky}", info.number),
    }
}

/// One execution of a job in one line.
fn summary_text(attempt: &AttemptView) -> String {
    let outcome = attempt.outcome.map_or("pending", Outcome::as_str);
    let code = match attempt.exit_code {
        NO_EXIT_CODE | 0 => String::new(),
        code => format!(" with exit code {code}"),
    };
    let took = match format_duration(attempt.duration) {
        took if took.is_empty() => took,
        took => format!(", took {took}"),
    };
    let served = if attempt.served { ", served" } else { "" };
    format!(
        "{outcome}{code}, started {}{took}{served}",
        format_time(attempt.started_at)
    )
}

/// The first line of a value, shortened: a param may be a whole lock file.
fn first_line(value: &str) -> String {
    const MAX_CHARS: usize = 100;
    let line = value.lines().next().unwrap_or_default();
    let shown: String = line.chars().take(MAX_CHARS).collect();
    if shown.len() < value.trim_end().len() {
        format!("{shown}… ({} bytes)", value.len())
    } else {
        shown
    }
}

/// All fields of the status of a server, nested names joined by dots, sizes in readable units.
fn server_fields(value: &Value) -> Vec<(String, String)> {
    fn collect(name: &str, value: &Value, into: &mut Vec<(String, String)>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let name = match name {
                        "" => key.clone(),
                        name => format!("{name}.{key}"),
                    };
                    collect(&name, value, into);
                }
            }
            Value::String(text) => into.push((name.to_owned(), first_line(text))),
            Value::Null => {}
            Value::Number(n) if name.starts_with("Disk") => {
                into.push((
                    name.to_owned(),
                    n.as_u64().map_or_else(|| n.to_string(), format_size),
                ));
            }
            other => into.push((name.to_owned(), other.to_string())),
        }
    }
    let mut fields = Vec::new();
    collect("", value, &mut fields);
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_fields_of_the_status_are_printed() {
        let value = serde_json::json!({"Slots": {"Used": 1, "All": 2}, "Version": "x", "Idle": null, "DiskFree": 13_000_000_000_u64});
        let mut fields = server_fields(&value);
        fields.sort();
        let fields: Vec<String> = fields
            .into_iter()
            .map(|(n, v)| format!("{n}={v}"))
            .collect();
        assert_eq!(
            fields,
            [
                "DiskFree=12 GiB",
                "Slots.All=2",
                "Slots.Used=1",
                "Version=x"
            ]
        );
    }

    #[test]
    fn a_long_param_is_cut() {
        assert_eq!(first_line("short"), "short");
        assert_eq!(first_line("a\nb\n"), "a… (4 bytes)");
        assert!(first_line(&"x".repeat(1_000)).ends_with("… (1000 bytes)"));
    }
}

//! `mistry status [ID]`: how the server is, or how a build stands.

use clap::Args;
use serde_json::Value;

use super::{Error, Which, list, moment, size, spent, tell};
use crate::build::NO_EXIT_CODE;
use crate::client::Client;
use crate::screen;

/// Show how the server is, or how one build stands
#[derive(Debug, Args)]
pub(super) struct Status {
    /// The build's id or the first digits of it, also as PROJECT/ID; without it, the server
    #[arg(value_name = "ID")]
    id: Option<Which>,
}

impl Status {
    pub(super) async fn run(&self, client: &Client) -> Result<(), Error> {
        let facts = match &self.id {
            None => server_facts(&client.status().await?),
            Some(which) => build_facts(client, which).await?,
        };
        let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in facts {
            tell(&screen::cell(&format!("{name:width$}  {value}")))?;
        }
        Ok(())
    }
}

async fn build_facts(client: &Client, which: &Which) -> Result<Vec<(String, String)>, Error> {
    let (project, id) = which.resolve(client).await?;
    let view = client.job(&project, id).await?;
    let info = view.build_info;
    let page = client.address().page(&info.url).unwrap_or_default();
    let mut facts = vec![
        ("id", id.to_string()),
        ("project", project.to_string()),
        ("group", info.group.clone()),
        ("state", list::standing(info.state, &info)),
        ("error", info.err.clone().unwrap_or_default()),
        (
            "exit code",
            match info.exit_code {
                NO_EXIT_CODE => String::new(),
                code => code.to_string(),
            },
        ),
        ("started", moment(info.started_at)),
        ("took", spent(info.duration)),
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
        facts.push(("cancelled", format!("by {}{reason}", by.by)));
    }
    let named = facts.into_iter().map(|(n, v)| (n.to_owned(), v));
    let params = info.params.iter().map(|(name, value)| {
        let shown = value.as_deref().map_or("(hidden)".to_owned(), first_line);
        (format!("param {name}"), shown)
    });
    Ok(named.chain(params).filter(|(_, v)| !v.is_empty()).collect())
}

/// A value that fits on a line: a lock file is a param, too.
fn first_line(value: &str) -> String {
    /// As much as still fits beside a name.
    const MAX_SHOWN: usize = 100;
    let line = value.lines().next().unwrap_or_default();
    let shown: String = line.chars().take(MAX_SHOWN).collect();
    if shown.len() < value.trim_end().len() {
        format!("{shown}… ({} bytes)", value.len())
    } else {
        shown
    }
}

/// All that a server tells, names joined by dots, bytes in readable units.
fn server_facts(value: &Value) -> Vec<(String, String)> {
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
                    n.as_u64().map_or_else(|| n.to_string(), size),
                ));
            }
            other => into.push((name.to_owned(), other.to_string())),
        }
    }
    let mut facts = Vec::new();
    collect("", value, &mut facts);
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_a_server_tells_is_shown() {
        let value = serde_json::json!({"Slots": {"Used": 1, "All": 2}, "Version": "x", "Idle": null, "DiskFree": 13_000_000_000_u64});
        let mut facts = server_facts(&value);
        facts.sort();
        let facts: Vec<String> = facts.into_iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(
            facts,
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

//! `mistry group list P`, `mistry group reset P G`: from which builds the next builds start.

use clap::{Args, Subcommand};

use super::Error;
use super::format::{format_size, format_time, short_id};
use super::output::{print_line, print_message, print_table};
use crate::client::Client;
use crate::job::GroupName;
use crate::project::ProjectName;

/// List the groups of a project, or reset one
#[derive(Debug, Args)]
pub(super) struct Group {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the groups of a project, each with the build from which its next build starts
    List {
        /// The project
        #[arg(value_name = "PROJECT")]
        project: ProjectName,
    },
    /// Reset a group: its next build starts empty; the builds of the group stay
    ///
    /// For a group whose cache is bad. A build of the group that is under way is not disturbed, and becomes
    /// the base of the group when it succeeds.
    Reset {
        /// The project
        #[arg(value_name = "PROJECT")]
        project: ProjectName,
        /// The group
        #[arg(value_name = "GROUP")]
        group: String,
    },
}

impl Group {
    pub(super) async fn run(&self, client: &Client) -> Result<(), Error> {
        match &self.action {
            Action::List { project } => list(client, project).await,
            Action::Reset { project, group } => reset(client, project, group).await,
        }
    }
}

async fn list(client: &Client, project: &ProjectName) -> Result<(), Error> {
    let rows = client.groups(project).await?.into_iter().map(|group| {
        [
            group.group,
            short_id(&group.base).to_owned(),
            group.finished_at.map(format_time).unwrap_or_default(),
            group.bytes.map(format_size).unwrap_or_default(),
        ]
    });
    let rows: Vec<[String; 4]> = rows.collect();
    print_table(["GROUP", "BASE", "ENDED", "SIZE"], &rows)
}

async fn reset(client: &Client, project: &ProjectName, group: &str) -> Result<(), Error> {
    let checked = group.parse::<GroupName>();
    let group = checked.map_err(|error| Error::Usage(error.to_string()))?;
    client.reset_group(project, group.as_str()).await?;
    print_line(&format!("Reset group '{group}' of {project}"))?;
    print_message(
        "Its next build starts empty. A build of it that is under way becomes its base when it succeeds.",
    );
    Ok(())
}

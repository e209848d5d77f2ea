//! `mistry projects`: what can be built.

use clap::Args;

use super::{Error, table};
use crate::client::Client;

/// List the projects that can be built
#[derive(Debug, Args)]
pub(super) struct Projects {}

impl Projects {
    pub(super) async fn run(&self, client: &Client) -> Result<(), Error> {
        let projects = client.projects().await?;
        if client.is_on_bus() {
            // The bus tells names only; columns with nothing in them would say that there is nothing.
            let rows: Vec<[String; 1]> = projects.into_iter().map(|one| [one.name]).collect();
            return table(["PROJECT"], &rows);
        }
        let rows = projects.into_iter().map(|project| {
            let (builds, latest) = project.builds.unwrap_or_default();
            let latest = latest.map_or_else(|| "never".to_owned(), super::moment);
            [project.name, builds.to_string(), latest]
        });
        let rows: Vec<[String; 3]> = rows.collect();
        table(["PROJECT", "BUILDS", "LATEST"], &rows)
    }
}

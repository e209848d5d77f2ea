//! `mistry projects`: lists the projects.

use clap::Args;

use super::Error;
use super::format::format_time;
use super::output::print_table;
use crate::client::Client;

/// List the projects that can be built
#[derive(Debug, Args)]
pub(super) struct Projects {}

impl Projects {
    pub(super) async fn run(&self, client: &Client) -> Result<(), Error> {
        let rows = client.projects().await?.into_iter().map(|project| {
            let latest = project.latest;
            let latest = latest.map_or_else(|| "never".to_owned(), format_time);
            [project.name, project.builds.to_string(), latest]
        });
        let rows: Vec<[String; 3]> = rows.collect();
        print_table(["PROJECT", "BUILDS", "LATEST"], &rows)
    }
}

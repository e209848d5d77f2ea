//! `mistry projects`: what can be built.

use clap::Args;

use super::{Error, table};
use crate::client::Client;

/// List the projects that can be built
#[derive(Debug, Args)]
pub(super) struct Projects {}

impl Projects {
    pub(super) async fn run(&self, client: &Client) -> Result<(), Error> {
        let rows: Vec<[String; 3]> = client
            .projects()
            .await?
            .into_iter()
            .map(|project| {
                [
                    project.name,
                    project.builds.to_string(),
                    project
                        .latest
                        .map_or_else(|| "never".to_owned(), super::moment),
                ]
            })
            .collect();
        table(["PROJECT", "BUILDS", "LATEST"], &rows)
    }
}

//! `mistry pause`, `mistry resume`: whether queued jobs are started.

use clap::Args;

use super::Error;
use super::output::print_line;
use crate::client::Client;

/// Stop starting jobs
///
/// Running jobs go on and cached results are returned; other jobs wait, also over restarts of the server,
/// until `mistry resume`. `mistry status` shows when no job is running any more.
#[derive(Debug, Args)]
pub(super) struct Pause {}

/// Start jobs again, those that wait first
#[derive(Debug, Args)]
pub(super) struct Resume {}

impl Pause {
    pub(super) async fn run(&self, client: &Client) -> Result<(), Error> {
        client.pause().await?;
        print_line("Paused: what runs goes on, nothing new begins")
    }
}

impl Resume {
    pub(super) async fn run(&self, client: &Client) -> Result<(), Error> {
        client.resume().await?;
        print_line("Resumed: what waits begins")
    }
}

//! `mistry pause`, `mistry resume`: stops and resumes starting jobs.

use clap::Args;

use super::Error;
use super::output::print_line;
use crate::client::Client;

/// Pause the queue: start no new builds
///
/// Running builds go on and cached results are returned; other jobs wait, even if the server is restarted,
/// until `mistry resume`. `mistry status` shows when no build is running any more.
#[derive(Debug, Args)]
pub(super) struct Pause {}

/// Resume the queue: start builds again, those first that have waited longest
#[derive(Debug, Args)]
pub(super) struct Resume {}

impl Pause {
    pub(super) async fn run(&self, client: &Client) -> Result<(), Error> {
        client.pause().await?;
        print_line("Paused: running jobs continue; no new job is started")
    }
}

impl Resume {
    pub(super) async fn run(&self, client: &Client) -> Result<(), Error> {
        client.resume().await?;
        print_line("Resumed: waiting jobs are started")
    }
}

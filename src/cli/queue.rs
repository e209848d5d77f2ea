//! `mistry pause`, `mistry resume`: whether queued jobs are started.

use clap::Args;

use super::Error;
use super::output::print_line;
use crate::client::Client;

/// Have the server begin nothing new
///
/// What runs goes on and what is cached is answered; other jobs wait, also over restarts, until
/// `mistry resume`. When nothing runs any more, `mistry status` says so.
#[derive(Debug, Args)]
pub(super) struct Pause {}

/// Have the server begin jobs again, first those that wait
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

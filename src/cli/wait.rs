//! `mistry wait ID`: waits for a build that was requested before.
//!
//! Standard output gets one line about a build that succeeded, or with `--json-result` its build info.

use std::path::PathBuf;

use clap::Args;
use clap::builder::FalseyValueParser;

use super::Error;
use super::awaited_build::WaitOptions;
use super::build_ref::BuildRef;
use super::build_waiter::wait_for;
use super::fetch::{describe_build, fetch_artifacts, summary};
use super::json_result::Document;
use super::outcome;
use super::output::print_line;
use super::repeat::command_of_build;
use super::server::ServerFlags;
use super::timeout::Timeout;
use super::transport::TransportOptions;
use crate::client::Client;

/// Wait for a build; with --target, fetch its artifacts
#[derive(Debug, Args)]
pub(super) struct Wait {
    /// The build's id or the first digits of it, also as PROJECT/ID
    #[arg(value_name = "ID")]
    id: BuildRef,
    /// Fetch the artifacts of a build that succeeded into this directory; without it, only wait
    #[arg(long, short, value_name = "DIR")]
    target: Option<PathBuf>,
    /// How long to wait for the build, such as 90s, 15m or 2h30m; the build continues after that
    #[arg(long, value_name = "TIME", default_value = "60m")]
    timeout: Timeout,
    /// Print one JSON document on standard output, and nothing else: the build info, or why there is none
    #[arg(long, visible_alias = "json")]
    pub(super) json_result: bool,
    /// Show the log of the build while it runs, on standard error
    #[arg(long, short, env = "MISTRY_VERBOSE", hide_env_values = true, value_parser = FalseyValueParser::new())]
    verbose: bool,
}

impl Wait {
    pub(super) async fn run(
        &self,
        client: &Client,
        flags: &ServerFlags,
        document: &mut Document,
    ) -> Result<(), Error> {
        let transport = self.target.clone().map(TransportOptions::over_http);
        if let Some(transport) = &transport {
            transport.check().map_err(Error::Usage)?;
        }
        let (project, id) = self.id.resolve(client).await?;
        document.job = Some(id);
        let options = WaitOptions {
            print_log: self.verbose,
            ..WaitOptions::default()
        };
        let finished = wait_for(client, flags, (project, id), options, &self.timeout).await?;
        document.print(&finished.raw)?;
        let context = outcome::Context {
            flags,
            repeat: command_of_build(&finished.info, flags),
            has_printed_log: self.verbose,
        };
        context.check_outcome(&finished.info)?;
        let mut line = describe_build(&finished);
        if let Some(transport) = &transport {
            let fetched = fetch_artifacts(client, flags, &finished.info, transport).await?;
            line = format!("{line}, {}", summary(&fetched, transport));
        }
        match self.json_result {
            true => Ok(()),
            false => print_line(&line),
        }
    }
}

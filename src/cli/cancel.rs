//! `mistry cancel ID`: cancels a build.

use clap::Args;

use super::Error;
use super::build_ref::BuildRef;
use super::format::short_id;
use super::output::{print_line, print_message};
use super::server::ServerFlags;
use crate::client::Client;
use crate::job::Phase;

/// Stop a build; clients that wait for it see who stopped it and why
#[derive(Debug, Args)]
pub(super) struct Cancel {
    /// The build's id or the first digits of it, also as PROJECT/ID
    #[arg(value_name = "ID")]
    id: BuildRef,
    /// Why, for the clients that wait
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    reason: String,
}

impl Cancel {
    pub(super) async fn run(&self, client: &Client, flags: &ServerFlags) -> Result<(), Error> {
        let (project, id) = self.id.resolve(client).await?;
        let state = client.cancel(&project, id, &self.reason).await?;
        let id = id.to_string();
        print_line(&format!("Cancelled {project}/{}", short_id(&id)))?;
        // The container may handle the signal before it is killed.
        if state.phase == Some(Phase::Running) {
            print_message(&format!(
                "Its container has 10 s to end; see how it is with: {}",
                flags.suggest_command("status", &id)
            ));
        }
        Ok(())
    }
}

//! `mistry cancel ID`: has a build stopped.

use clap::Args;

use super::{Again, Error, Which, say, short, tell};
use crate::build::Phase;
use crate::client::Client;

/// Stop a build; the clients that wait for it are told who did that and why
#[derive(Debug, Args)]
pub(super) struct Cancel {
    /// The build's id or the first digits of it, also as PROJECT/ID
    #[arg(value_name = "ID")]
    id: Which,
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
    pub(super) async fn run(&self, client: &Client, again: &Again) -> Result<(), Error> {
        let (project, id) = self.id.resolve(client).await?;
        let state = client.cancel(&project, id, &self.reason).await?;
        let id = id.to_string();
        tell(&format!("Cancelled {project}/{}", short(&id)))?;
        // Its container may take the signal as it likes for some seconds.
        if state.phase == Some(Phase::Running) {
            say(&format!(
                "Its container has 10 s to end; see how it is with: {}",
                again.hint("status", &id)
            ));
        }
        Ok(())
    }
}

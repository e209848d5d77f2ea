//! `mistry cancel ID`: cancels a build.

use clap::Args;

use super::Error;
use super::build_ref::BuildRef;
use super::format::short_id;
use super::output::{print_line, print_message};
use super::server::ServerFlags;
use crate::client::{self, Client, ErrorResponse};
use crate::job::{JobId, Outcome, Phase};
use crate::project::ProjectName;

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
        let state = match client.cancel(&project, id, &self.reason).await {
            Ok(state) => state,
            Err(client::Error::Response(response)) if response.status == 409 => {
                return Err(is_over(client, &project, id, response).await);
            }
            Err(error) => return Err(error.into()),
        };
        let id = id.to_string();
        print_line(&format!("Cancelled {project}/{}", short_id(&id)))?;
        // The container may handle the signal before it is killed.
        if state.phase == Some(Phase::Running) {
            print_message(&format!(
                "It is stopping: its container has 10 s to end. See: {}",
                flags.suggest_command("status", &id)
            ));
        }
        Ok(())
    }
}

/// Why a build that is over cannot be cancelled, with how it ended.
async fn is_over(
    client: &Client,
    project: &ProjectName,
    id: JobId,
    refused: ErrorResponse,
) -> Error {
    let Ok(view) = client.job_without_log(project, id).await else {
        return client::Error::Response(refused).into();
    };
    let how = match view.build_info.outcome {
        Some(Outcome::Succeeded) => "it succeeded",
        Some(Outcome::Failed) => "it failed",
        Some(Outcome::Errored) => "it could not be run to its end",
        Some(Outcome::Cancelled) => "it was cancelled",
        Some(Outcome::TimedOut) => "it ran out of time",
        None => return client::Error::Response(refused).into(),
    };
    let id = id.to_string();
    Error::Refused(format!("build {project}/{} is over: {how}", short_id(&id)))
}

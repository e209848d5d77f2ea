//! `mistry pin ID`, `mistry unpin ID`: builds that garbage collection keeps.

use clap::Args;

use super::Error;
use super::build_ref::BuildRef;
use super::format::short_id;
use super::output::print_line;
use crate::client::Client;

/// Keep a build from garbage collection
#[derive(Debug, Args)]
pub(super) struct Pin {
    /// The build's id or the first digits of it, also as PROJECT/ID
    #[arg(value_name = "ID")]
    id: BuildRef,
}

/// Allow garbage collection to remove a pinned build
#[derive(Debug, Args)]
pub(super) struct Unpin {
    /// The build's id or the first digits of it, also as PROJECT/ID
    #[arg(value_name = "ID")]
    id: BuildRef,
}

impl Pin {
    pub(super) async fn run(&self, client: &Client) -> Result<(), Error> {
        let (project, id) = self.id.resolve(client).await?;
        client.pin(&project, id).await?;
        print_line(&format!("Pinned {project}/{}", short_id(&id.to_string())))
    }
}

impl Unpin {
    pub(super) async fn run(&self, client: &Client) -> Result<(), Error> {
        let (project, id) = self.id.resolve(client).await?;
        client.unpin(&project, id).await?;
        print_line(&format!("Unpinned {project}/{}", short_id(&id.to_string())))
    }
}

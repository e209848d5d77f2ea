//! `mistry pin ID`, `mistry unpin ID`: builds that garbage collection leaves alone.

use clap::Args;

use super::{Error, Which, short, tell};
use crate::client::Client;

/// Keep a build from garbage collection
#[derive(Debug, Args)]
pub(super) struct Pin {
    /// The build's id or the first digits of it, also as PROJECT/ID
    #[arg(value_name = "ID")]
    id: Which,
}

/// Let a pinned build go
#[derive(Debug, Args)]
pub(super) struct Unpin {
    /// The build's id or the first digits of it, also as PROJECT/ID
    #[arg(value_name = "ID")]
    id: Which,
}

impl Pin {
    pub(super) async fn run(&self, client: &Client) -> Result<(), Error> {
        let (project, id) = self.id.resolve(client).await?;
        client.pin(&project, id).await?;
        tell(&format!("Pinned {project}/{}", short(&id.to_string())))
    }
}

impl Unpin {
    pub(super) async fn run(&self, client: &Client) -> Result<(), Error> {
        let (project, id) = self.id.resolve(client).await?;
        client.unpin(&project, id).await?;
        tell(&format!("Unpinned {project}/{}", short(&id.to_string())))
    }
}

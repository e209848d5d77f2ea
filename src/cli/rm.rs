//! `mistry rm ID`: removes a build.

use clap::Args;

use super::Error;
use super::build_ref::BuildRef;
use super::format::short_id;
use super::output::{print_line, print_message};
use crate::client::Client;
use crate::screen::cell;

/// Remove a build that is over
///
/// The base of a group stays unless --base is given. So does the latest build of a project without a group, which
/// counts as a base.
#[derive(Debug, Args)]
pub(super) struct Rm {
    /// The build's id or the first digits of it, also as PROJECT/ID
    #[arg(value_name = "ID")]
    id: BuildRef,
    /// Remove it also if it is the base of its group, whose next build starts empty then, or the latest build
    /// without a group
    #[arg(long)]
    base: bool,
}

impl Rm {
    pub(super) async fn run(&self, client: &Client) -> Result<(), Error> {
        let (project, id) = self.id.resolve(client).await?;
        let base_of = match self.base {
            true => client.remove_base(&project, id).await?.base_of,
            false => {
                client.remove(&project, id).await?;
                None
            }
        };
        print_line(&format!("Removed {project}/{}", short_id(&id.to_string())))?;
        match base_of.as_deref() {
            None => {}
            Some("") => print_message("It was the latest build of the project without a group."),
            Some(group) => print_message(&format!(
                "It was the base of group '{}', whose next build starts empty.",
                cell(group)
            )),
        }
        Ok(())
    }
}

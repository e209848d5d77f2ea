//! `mistry rebuild P`: rebuilds a project's image.

use clap::Args;

use super::Error;
use super::format::{format_duration, format_size};
use super::output::{print_line, print_message};
use crate::api::RebuildRequest;
use crate::client::{self, Client, parse_params};
use crate::project::ProjectName;
use crate::screen::LogView;

/// Make a new image of a project (image rebuild), pulling its base image; no build is made, and cached results stay
#[derive(Debug, Args)]
pub(super) struct Rebuild {
    /// The project
    #[arg(value_name = "PROJECT")]
    project: ProjectName,
    /// Show the output of the image build, on standard error
    #[arg(long, short)]
    verbose: bool,
    /// The values that its mistry.json names in "secrets" and "ssh": --_NAME=@FILE or --_NAME=@-
    #[arg(last = true, value_name = "--_NAME=@FILE")]
    params: Vec<String>,
}

impl Rebuild {
    pub(super) async fn run(&self, client: &Client) -> Result<(), Error> {
        // Variables are for builds: a rebuild takes no other params than those of the image.
        let params = parse_params(&self.params, std::iter::empty(), std::io::stdin());
        let params = params.map_err(|error| Error::Usage(error.to_string()))?;
        let request = RebuildRequest {
            params: params.into_iter().collect(),
        };
        let image = match client.rebuild(&self.project, &request).await {
            Ok(image) => image,
            // The image could not be built.
            Err(client::Error::Response(response)) if response.status == 500 => {
                return Err(Error::BuildFailed(response.to_string()));
            }
            Err(error) => return Err(error.into()),
        };
        if self.verbose {
            let mut view = LogView::on_stderr();
            let printed = view.push(image.log.as_bytes());
            let _ = printed
                .and_then(|()| view.finish())
                .and_then(|()| view.begin_line());
        }
        print_line(&format!(
            "Rebuilt {} in {}",
            self.project,
            format_duration(image.duration)
        ))?;
        let pruned = image.pruned;
        if self.verbose && pruned.images + pruned.containers > 0 {
            print_message(&format!(
                "Removed {} images ({}) and {} containers that nothing uses any more",
                pruned.images,
                format_size(pruned.bytes),
                pruned.containers
            ));
        }
        Ok(())
    }
}

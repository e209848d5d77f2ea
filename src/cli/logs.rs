//! `mistry logs [-f] ID`: what a build printed.
//!
//! Both ways it comes byte for byte: without `-f` the log so far, with it as a stream of events, so that
//! a broken connection is taken up where it ended.

use clap::Args;

use super::screen::LogView;
use super::wait::Follower;
use super::{Error, Which};
use crate::client::{Backoff, Client};

/// Print the log of a build
#[derive(Debug, Args)]
pub(super) struct Logs {
    /// Follow the log until the build is over
    #[arg(long, short)]
    follow: bool,
    /// The build's id or the first digits of it, also as PROJECT/ID
    #[arg(value_name = "ID")]
    id: Which,
}

impl Logs {
    pub(super) async fn run(&self, client: &Client) -> Result<(), Error> {
        let (project, id) = self.id.resolve(client).await?;
        let mut view = LogView::on_stdout();
        if self.follow {
            let mut follower = Follower::new(project, id);
            let mut backoff = Backoff::default();
            let mut lost = false;
            loop {
                let seen = follower.seen();
                let mut show = |bytes: &[u8]| view.push(bytes).map_err(Error::Output);
                match follower.follow(client, &mut show).await {
                    Ok(true) => break,
                    Err(Error::Server(error)) if !error.is_passing() => return Err(error.into()),
                    Err(Error::Server(error)) if seen == 0 && !lost && follower.seen() == 0 => {
                        return Err(error.into());
                    }
                    Ok(false) | Err(Error::Server(_)) => {}
                    Err(error) => return Err(error),
                }
                if !std::mem::replace(&mut lost, true) {
                    super::say("The connection to the server was lost; coming back by itself");
                }
                if follower.seen() > seen {
                    backoff = Backoff::default();
                }
                tokio::time::sleep(backoff.pause()).await;
            }
        } else {
            let mut answer = client.log(&project, id).await?;
            while let Some(chunk) = answer.chunk().await? {
                view.push(&chunk).map_err(Error::Output)?;
            }
        }
        view.finish().map_err(Error::Output)
    }
}

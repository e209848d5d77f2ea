//! `mistry logs [-f] ID`: what a build printed.
//!
//! Both ways it comes byte for byte, and a broken connection is taken up where it ended: without `-f` the
//! log so far, with it as a stream of events.

use clap::Args;

use super::wait::{Follower, Reaching};
use super::{Error, Which};
use crate::client::{Backoff, Client};
use crate::job::JobId;
use crate::project::ProjectName;
use crate::screen::LogView;

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
                    Err(Error::Server(error)) if !error.is_transient() => return Err(error.into()),
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
                tokio::time::sleep(backoff.next_pause()).await;
            }
        } else {
            let mut show = |bytes: &[u8]| view.push(bytes).map_err(Error::Output);
            so_far(client, &project, id, &mut show).await?;
        }
        view.finish().map_err(Error::Output)
    }
}

/// Shows the log so far. A reader that stops, such as less(1), keeps the server waiting, which has had
/// enough of it after a minute.
async fn so_far(
    client: &Client,
    project: &ProjectName,
    id: JobId,
    show: &mut (dyn FnMut(&[u8]) -> Result<(), Error> + Send),
) -> Result<(), Error> {
    let mut response = client.log(project, id).await?;
    let (mut shown, mut reaching) = (0, None);
    loop {
        let mut error = match response.chunk().await {
            Ok(Some(chunk)) => {
                show(&chunk)?;
                shown += chunk.len() as u64;
                reaching = None;
                continue;
            }
            Ok(None) => return Ok(()),
            Err(error) => error,
        };
        response = loop {
            let reaching = reaching.get_or_insert_with(Reaching::begin);
            if !reaching.again(&error).await {
                return Err(error.into());
            }
            match client.log_rest(project, id, &response, shown).await {
                Ok(rest) => break rest,
                Err(next) => error = next,
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::scripted::Scripted;

    async fn shown(script: Vec<String>) -> (Result<(), Error>, String, Vec<String>) {
        let server = Scripted::start(script).await;
        let client = Client::new(server.address(), None);
        let mut text = String::new();
        let mut show = |bytes: &[u8]| {
            text.push_str(std::str::from_utf8(bytes).unwrap());
            Ok(())
        };
        let (project, id) = ("p".parse().unwrap(), "0".repeat(64).parse().unwrap());
        let ended = so_far(&client, &project, id, &mut show).await;
        (ended, text, server.asked())
    }

    fn part(status: &str, headers: &str, length: usize, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
    }

    #[tokio::test]
    async fn a_log_that_breaks_off_is_taken_up_where_it_ended() {
        let log = "Mistry-Log: name\r\n";
        let from = |first| format!("{log}Content-Range: bytes {first}-9/10\r\n");
        let (ended, text, asked) = shown(vec![
            part("200 OK", log, 10, "one\n"),
            String::new(),
            part("206 Partial Content", &from(4), 6, "tw"),
            part("206 Partial Content", &from(6), 4, "o\n3\n"),
        ])
        .await;
        ended.unwrap();
        assert_eq!(text, "one\ntwo\n3\n");
        assert!(asked[1].contains("range: bytes=4-") && asked[1].contains("mistry-log: name"));
        assert!(asked[3].contains("range: bytes=6-"));
    }

    #[tokio::test]
    async fn another_log_is_not_shown_after_it() {
        let first = || part("200 OK", "Mistry-Log: name\r\n", 10, "one\n");
        for second in [
            part("412 Precondition Failed", "", 0, ""),
            part("200 OK", "Mistry-Log: name\r\n", 10, "one\ntwo\n3\n"),
        ] {
            let (ended, text, _) = shown(vec![first(), second]).await;
            assert!(ended.is_err());
            assert_eq!(text, "one\n");
        }
        let (ended, ..) = shown(vec![part("200 OK", "", 10, "one\n")]).await;
        assert!(ended.is_err());
        // A server that says nothing more is given up.
        let nothing = || {
            let range = "Content-Range: bytes 4-9/10\r\n";
            part(
                "206 Partial Content",
                &format!("Mistry-Log: name\r\n{range}"),
                6,
                "",
            )
        };
        let script = [vec![first()], (0..9).map(|_| nothing()).collect()].concat();
        let (ended, _, asked) = shown(script).await;
        assert!(ended.is_err() && asked.len() < 9, "{asked:?}");
    }
}

//! `mistry logs [-f] ID`: prints the log of a build.
//!
//! Without `-f`, the log so far is downloaded; with it, the log is followed as a stream of events. Either
//! way the log is printed byte for byte, and resumed where a connection broke.

use std::cell::RefCell;

use clap::Args;

use super::Error;
use super::build_ref::BuildRef;
use super::line_times::TimedLines;
use super::log_follower::{FollowEnd, LogFollower};
use super::output::print_message;
use super::retry::RetryPolicy;
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
    /// The log of attempt N of the build; else of the current one
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
    /// Print when each line was written before it, in UTC
    #[arg(long, short)]
    times: bool,
    /// The build's id or the first digits of it, also as PROJECT/ID
    #[arg(value_name = "ID")]
    id: BuildRef,
}

impl Logs {
    pub(super) async fn run(&self, client: &Client) -> Result<(), Error> {
        let (project, id) = self.id.resolve(client).await?;
        let mut view = LogView::on_stdout();
        let timed = self.times.then(RefCell::<TimedLines>::default);
        let mut print = |bytes: &[u8]| {
            let printed = match &timed {
                Some(lines) => view.push(&lines.borrow_mut().push(bytes)),
                None => view.push(bytes),
            };
            printed.map_err(Error::Output)
        };
        if self.follow {
            let follower = LogFollower::new(project, id).of_attempt(self.attempt);
            follow_to_end(client, follower, timed.as_ref(), &mut print).await?;
        } else {
            if let Some(lines) = &timed {
                let times = client.log_times(&project, id, self.attempt).await?;
                lines.borrow_mut().know(times);
            }
            print_so_far(client, &project, id, self.attempt, &mut print).await?;
        }
        view.finish().map_err(Error::Output)
    }
}

/// Prints the log until the build is finished. A broken connection is opened again, unless it is the first
/// and brought no data.
async fn follow_to_end(
    client: &Client,
    mut follower: LogFollower,
    timed: Option<&RefCell<TimedLines>>,
    print: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut backoff = Backoff::default();
    let mut reported_lost = false;
    loop {
        let start = follower.position();
        if let Some(lines) = timed {
            // What was printed while the connection was lost is not new any more.
            match follower.times(client).await {
                Ok(times) => lines.borrow_mut().know(times),
                Err(error) if error.is_transient() && reported_lost => {}
                Err(error) => return Err(error.into()),
            }
        }
        match follower.follow(client, print).await {
            Ok(FollowEnd::BuildFinished) => return Ok(()),
            Err(Error::Server(error)) if !error.is_transient() => return Err(error.into()),
            Err(Error::Server(error))
                if start == 0 && !reported_lost && follower.position() == 0 =>
            {
                return Err(error.into());
            }
            Ok(FollowEnd::Interrupted) | Err(Error::Server(_)) => {}
            Err(error) => return Err(error),
        }
        if !std::mem::replace(&mut reported_lost, true) {
            print_message("The connection to the server was lost; reconnecting");
        }
        if follower.position() > start {
            backoff = Backoff::default();
        }
        tokio::time::sleep(backoff.next_pause()).await;
    }
}

/// Prints the log so far. The server ends the connection when its reader, such as less(1), stops for a
/// minute; the rest is requested after that.
async fn print_so_far(
    client: &Client,
    project: &ProjectName,
    id: JobId,
    attempt: Option<u32>,
    print: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut response = client.log(project, id, attempt).await?;
    let (mut printed, mut retry) = (0, None);
    loop {
        let mut error = match response.chunk().await {
            Ok(Some(chunk)) => {
                print(&chunk)?;
                printed += chunk.len() as u64;
                retry = None;
                continue;
            }
            Ok(None) => return Ok(()),
            Err(error) => error,
        };
        response = loop {
            let retry = retry.get_or_insert_with(RetryPolicy::new);
            if !retry.should_retry(&error).await {
                return Err(error.into());
            }
            match client
                .log_rest(project, id, attempt, &response, printed)
                .await
            {
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

    async fn run(script: Vec<String>) -> (Result<(), Error>, String, Vec<String>) {
        let server = Scripted::start(script).await;
        let client = Client::new(server.address(), None);
        let mut text = String::new();
        let mut print = |bytes: &[u8]| {
            text.push_str(std::str::from_utf8(bytes).unwrap());
            Ok(())
        };
        let (project, id) = ("p".parse().unwrap(), "0".repeat(64).parse().unwrap());
        let ended = print_so_far(&client, &project, id, None, &mut print).await;
        (ended, text, server.asked())
    }

    fn part(status: &str, headers: &str, length: usize, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
    }

    #[tokio::test]
    async fn a_truncated_log_is_resumed_where_it_ended() {
        let log = "Mistry-Log: name\r\n";
        let from = |first| format!("{log}Content-Range: bytes {first}-9/10\r\n");
        let (ended, text, asked) = run(vec![
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
    async fn a_different_log_is_not_appended() {
        let first = || part("200 OK", "Mistry-Log: name\r\n", 10, "one\n");
        for second in [
            part("412 Precondition Failed", "", 0, ""),
            part("200 OK", "Mistry-Log: name\r\n", 10, "one\ntwo\n3\n"),
        ] {
            let (ended, text, _) = run(vec![first(), second]).await;
            assert!(ended.is_err());
            assert_eq!(text, "one\n");
        }
        let (ended, ..) = run(vec![part("200 OK", "", 10, "one\n")]).await;
        assert!(ended.is_err());
        // The client gives up on a server that sends nothing more.
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
        let (ended, _, asked) = run(script).await;
        assert!(ended.is_err() && asked.len() < 9, "{asked:?}");
    }
}

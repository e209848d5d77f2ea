//! Waits for a build over broken connections and restarts of the server.
//!
//! Until the server has accepted the job, connecting is tried for five seconds, and a busy server is asked
//! again as long as the caller says. From then on the id is known, and the client reconnects until the build
//! is finished. `--timeout` and Ctrl-C belong to the caller, which drops the future.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Error;
use super::awaited_build::{AwaitedBuild, WaitOptions};
use super::build_facts::describe_refusal;
use super::log_follower::FollowEnd;
use super::retry::{BusyPolicy, CONNECT_RETRY_TIMEOUT, RetryPolicy};
use super::server::ServerFlags;
use super::timeout::{Cut, Timeout, wait_at_most};
use crate::api::{ErrorView, JobRequest};
use crate::client::{self, Backoff, Client, ErrorResponse, Events, Finished, Submitted};
use crate::job::JobId;
use crate::project::ProjectName;

/// After a connection that lasted this long, pauses begin short again.
const STABLE_CONNECTION_TIME: Duration = Duration::from_secs(5);

/// Submits one job and waits for its build.
#[derive(Debug)]
pub(super) struct BuildWaiter<'a> {
    build: AwaitedBuild<'a>,
    connect_timeout: Duration,
}

/// Waits for the end of a build that was accepted before.
pub(super) async fn wait_for(
    client: &Client,
    flags: &ServerFlags,
    (project, id): (ProjectName, JobId),
    options: WaitOptions,
    timeout: &Timeout,
) -> Result<Finished, Error> {
    let mut waiter = BuildWaiter::new(client, flags, project, options);
    let awaited = wait_at_most(timeout.time, waiter.run_accepted(id)).await;
    waiter.finish_output();
    let goes_on = || flags.suggest_control(&id.to_string());
    match awaited {
        Ok(finished) => finished,
        Err(Cut::TimedOut) => Err(Error::TimedOut(format!(
            "The build did not finish after {}; {}",
            timeout.text,
            goes_on()
        ))),
        Err(Cut::Interrupted) => Err(Error::Interrupted(format!("Interrupted; {}", goes_on()))),
    }
}

/// What submitting a job led to.
enum SubmitOutcome {
    Finished(Box<Finished>),
    /// The job is accepted, but its stream ended: wait for it by its id, after `pause`.
    Reconnect {
        pause: Duration,
    },
}

impl<'a> BuildWaiter<'a> {
    pub(super) fn new(
        client: &'a Client,
        flags: &'a ServerFlags,
        project: ProjectName,
        options: WaitOptions,
    ) -> BuildWaiter<'a> {
        BuildWaiter {
            build: AwaitedBuild::new(client, flags, project, options),
            connect_timeout: CONNECT_RETRY_TIMEOUT,
        }
    }

    /// The id of the job, once it is accepted.
    pub(super) fn accepted_id(&self) -> Option<JobId> {
        self.build.accepted_id()
    }

    /// Removes the progress line from the terminal and ends the output of the log.
    pub(super) fn finish_output(&self) {
        self.build.progress.finish();
    }

    /// Submits the job and waits until its build is finished.
    pub(super) async fn run(&mut self, request: &JobRequest) -> Result<Finished, Error> {
        let report = self.build.report();
        tokio::select! {
            finished = self.submit_and_wait(request) => finished,
            never = report => match never {},
        }
    }

    /// Waits for a job that was accepted before.
    pub(super) async fn run_accepted(&mut self, id: JobId) -> Result<Finished, Error> {
        self.build.accept(id)?;
        self.build.progress.set_phase("waiting");
        let report = self.build.report();
        tokio::select! {
            finished = self.wait_by_id(Duration::ZERO) => finished,
            never = report => match never {},
        }
    }

    async fn submit_and_wait(&mut self, request: &JobRequest) -> Result<Finished, Error> {
        let finished = match self.submit(request).await? {
            SubmitOutcome::Finished(finished) => *finished,
            SubmitOutcome::Reconnect { pause } => self.wait_by_id(pause).await?,
        };
        if let Ok(id) = finished.info.id.parse() {
            self.build.accept(id)?;
        }
        Ok(finished)
    }

    async fn submit(&mut self, request: &JobRequest) -> Result<SubmitOutcome, Error> {
        let mut retry = RetryPolicy::with_timeout(self.connect_timeout);
        let mut busy = BusyPolicy::new(self.build.options.busy_timeout);
        self.build.progress.set_phase("connecting");
        loop {
            let error = match self.build.client.submit(request).await {
                Ok(Submitted::Finished(finished)) => {
                    return Ok(SubmitOutcome::Finished(finished));
                }
                Ok(Submitted::Stream(events)) => match self.read_stream(*events).await {
                    Ok(Some(finished)) => {
                        return Ok(SubmitOutcome::Finished(Box::new(finished)));
                    }
                    Ok(None) => client::Error::Broken("the stream ended early".into()),
                    Err(Error::Server(error)) => error,
                    Err(error) => return Err(error),
                },
                Err(error) => error,
            };
            if let client::Error::Response(ErrorResponse { job: Some(id), .. }) = &error {
                self.build.accept(*id)?;
            }
            if self.build.job.is_some() {
                if error.is_transient() {
                    self.build.report_lost_connection();
                }
                let pause = error.retry_after().unwrap_or_default();
                return Ok(SubmitOutcome::Reconnect { pause });
            }
            if let Some(pause) = busy.next_pause(&error) {
                if let Some(time) = busy.notice() {
                    let timeout = self.build.options.busy_timeout.unwrap_or_default();
                    let text = describe_refusal(self.build.client, &error, time, timeout).await;
                    self.build.progress.message(&text);
                }
                self.build
                    .progress
                    .set_phase("waiting for the server to take the job");
                sleep(pause).await;
                // It answers; from now on it may be restarted again.
                retry = RetryPolicy::with_timeout(self.connect_timeout);
            } else if !retry.should_retry(&error).await {
                return Err(error.into());
            }
        }
    }

    /// Reads the event stream of a job; `None` when it ends before the build does.
    async fn read_stream(&mut self, mut events: Events) -> Result<Option<Finished>, Error> {
        while let Some(event) = events.next().await? {
            match event.name.as_str() {
                "state" => self.build.update_state(&event.state()?).await?,
                "log" => {
                    if let Some(job) = &mut self.build.job {
                        job.set_position(event.id.as_deref());
                    }
                    let bytes = event.log_bytes();
                    self.build.progress.set_log(&bytes);
                    if self.build.options.print_log {
                        self.build.progress.print_log(&bytes);
                    }
                }
                "result" => return Ok(Some(event.result()?)),
                // The state of an accepted job is requested by its id.
                "error" if self.build.job.is_some() => return Ok(None),
                "error" => {
                    let view: ErrorView =
                        serde_json::from_str(&event.data).map_err(client::Error::from)?;
                    let response = ErrorResponse::new(500, view);
                    return Err(Error::Server(client::Error::Response(response)));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Waits for an accepted job, with as many connections as necessary.
    async fn wait_by_id(&mut self, mut pause: Duration) -> Result<Finished, Error> {
        let mut backoff = Backoff::default();
        let mut log_is_complete = !self.build.options.print_log;
        self.build.progress.requested.set(self.accepted_id());
        loop {
            sleep(pause).await;
            let start = Instant::now();
            let error = match self.wait_once(&mut log_is_complete).await {
                Ok(Some(finished)) => return Ok(finished),
                Ok(None) => None,
                Err(Error::Server(error)) if error.is_transient() => Some(error),
                Err(error) => return Err(error),
            };
            self.build.report_lost_connection();
            if start.elapsed() > STABLE_CONNECTION_TIME {
                backoff = Backoff::default();
            }
            pause = backoff.next_pause();
            if let Some(retry_after) = error.and_then(|error| error.retry_after()) {
                pause = pause.max(retry_after);
            }
        }
    }

    /// Waits for an accepted job with one request for the log and one for the result; `None` when
    /// either ends before the build does.
    async fn wait_once(&mut self, log_is_complete: &mut bool) -> Result<Option<Finished>, Error> {
        let (client, progress) = (self.build.client, &self.build.progress);
        let Some(job) = &mut self.build.job else {
            return Ok(None);
        };
        if !*log_is_complete {
            let mut print = |bytes: &[u8]| {
                progress.print_log(bytes);
                Ok(())
            };
            match job.follow(client, &mut print).await {
                Ok(FollowEnd::BuildFinished) => *log_is_complete = true,
                Ok(FollowEnd::Interrupted) => return Ok(None),
                Err(Error::Server(error)) if error.is_transient() => return Err(error.into()),
                // The build is awaited even if its log cannot be read.
                Err(_) => *log_is_complete = true,
            }
        }
        Ok(client.wait(&job.project, job.id).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::scripted::Scripted;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn info() -> String {
        format!(
            r#"{{"ID":"{ID}","Project":"p","State":"ready","Outcome":"succeeded","ExitCode":0}}"#
        )
    }

    fn state() -> String {
        format!(
            "event: state\ndata: {{\"ID\":\"{ID}\",\"Project\":\"p\",\"State\":\"pending\",\"Phase\":\"queued\",\"URL\":\"job/p/{ID}\"}}\n\n"
        )
    }

    fn view() -> String {
        let body = format!(
            r#"{{"ID":"{ID}","Project":"p","State":"ready","BuildInfo":{}}}"#,
            info()
        );
        Scripted::answer("200 OK", "Content-Type: application/json\r\n", &body)
    }

    async fn wait(server: &Scripted, log: bool) -> (Result<Finished, Error>, bool, bool) {
        let client = Client::new(server.address(), None);
        let options = WaitOptions {
            print_log: log,
            ..WaitOptions::default()
        };
        let flags = &ServerFlags::default();
        let mut waiter = BuildWaiter::new(&client, flags, "p".parse().unwrap(), options);
        let done = waiter.run(&JobRequest::default()).await;
        (
            done,
            waiter.accepted_id().is_some(),
            waiter.build.reported_lost,
        )
    }

    fn asked(server: &Scripted) -> Vec<String> {
        let lines = server.asked();
        lines
            .iter()
            .map(|r| r.lines().next().unwrap().to_owned())
            .collect()
    }

    #[tokio::test]
    async fn a_complete_stream_needs_one_request() {
        let events = format!(
            "{}event: log\nid: 3\ndata: hi\n\nevent: result\ndata: {}\n\n",
            state(),
            info()
        );
        let server = Scripted::start(vec![Scripted::events(&events)]).await;
        let (done, accepted, lost) = wait(&server, false).await;
        assert!(done.unwrap().info.succeeded());
        assert!(accepted && !lost);
        assert_eq!(asked(&server), ["POST /jobs HTTP/1.1"]);
        assert!(server.asked()[0].contains("accept: text/event-stream"));
    }

    #[tokio::test]
    async fn after_a_broken_connection_an_accepted_job_is_awaited_by_id() {
        for torn in [Scripted::torn_events(&state()), Scripted::events(&state())] {
            let server = Scripted::start(vec![
                torn,
                // It breaks once more, then the server is still stopping, then it answers.
                String::new(),
                Scripted::answer("503 Service Unavailable", "Retry-After: 0\r\n", ""),
                view(),
            ])
            .await;
            let (done, _, lost) = wait(&server, false).await;
            assert!(done.unwrap().info.succeeded());
            assert!(lost);
            let again = format!("GET /job/p/{ID}?wait HTTP/1.1");
            assert_eq!(
                asked(&server),
                ["POST /jobs HTTP/1.1", &again, &again, &again]
            );
            assert!(server.asked()[3].contains("accept: application/json"));
        }
    }

    #[tokio::test]
    async fn the_log_is_resumed_where_it_ended() {
        let log = "event: log\nid: 7\ndata: hi\n\n";
        let end =
            "event: end\ndata: {\"State\":\"ready\",\"Outcome\":\"succeeded\",\"ExitCode\":0}\n\n";
        let server = Scripted::start(vec![
            Scripted::torn_events(&format!("{}{log}", state())),
            Scripted::torn_events("event: log\nid: 20\ndata: more\n\n"),
            Scripted::events(end),
            view(),
        ])
        .await;
        let (done, ..) = wait(&server, true).await;
        assert!(done.unwrap().info.succeeded());
        let asked = server.asked();
        assert!(
            asked[1].contains(&format!("GET /log/p/{ID} "))
                && asked[1].contains("last-event-id: 7")
        );
        assert!(asked[2].contains("last-event-id: 20"));
        assert!(asked[3].contains("?wait"));
    }

    #[tokio::test]
    async fn a_stopping_server_that_names_the_job_has_accepted_it() {
        let gone = format!("Retry-After: 0\r\nLocation: /job/p/{ID}\r\n");
        let server = Scripted::start(vec![
            Scripted::answer("503 Service Unavailable", &gone, "{}"),
            view(),
        ])
        .await;
        let (done, accepted, lost) = wait(&server, false).await;
        assert!(done.unwrap().info.succeeded() && accepted && lost);
    }

    #[tokio::test]
    async fn an_image_that_cannot_be_built_is_reported_by_its_job() {
        let body =
            format!(r#"{{"error":"could not build docker image","request":"r","job":"{ID}"}}"#);
        let server = Scripted::start(vec![
            Scripted::answer("500 Internal Server Error", "", &body),
            view(),
        ])
        .await;
        let (done, _, lost) = wait(&server, false).await;
        assert!(done.is_ok() && !lost);
    }

    #[tokio::test]
    async fn an_error_response_before_acceptance_is_final() {
        let server = Scripted::start(vec![Scripted::answer(
            "503 Service Unavailable",
            "Retry-After: 1\r\n",
            "overloaded",
        )])
        .await;
        let (done, accepted, _) = wait(&server, false).await;
        let error = done.unwrap_err();
        assert_eq!(error.exit_status(), 3);
        assert_eq!(error.line(), "Server is overloaded; try again later");
        assert!(!accepted);
    }

    #[tokio::test]
    async fn a_busy_server_is_asked_again() {
        let busy = || Scripted::answer("503 Service Unavailable", "Retry-After: 0\r\n", "");
        let events = format!("{}event: result\ndata: {}\n\n", state(), info());
        let status = r#"{"Running":2,"Queued":4,"Backlog":4}"#;
        let server = Scripted::start(vec![
            busy(),
            Scripted::answer("200 OK", "", status),
            busy(),
            Scripted::events(&events),
        ])
        .await;
        let client = Client::new(server.address(), None);
        let options = WaitOptions {
            busy_timeout: Some(Duration::from_secs(60)),
            ..WaitOptions::default()
        };
        let flags = &ServerFlags::default();
        let mut waiter = BuildWaiter::new(&client, flags, "p".parse().unwrap(), options);
        let done = waiter.run(&JobRequest::default()).await;
        assert!(done.unwrap().info.succeeded());
        // Whether the queue is full is asked for once, for the message.
        let posted = "POST /jobs HTTP/1.1";
        let status = "GET /status HTTP/1.1";
        assert_eq!(asked(&server), [posted, status, posted, posted]);
    }

    #[tokio::test]
    async fn the_client_gives_up_if_the_connection_always_breaks_before_acceptance() {
        let server = Scripted::start(vec![String::new(); 4]).await;
        let (done, ..) = wait(&server, false).await;
        assert_eq!(done.unwrap_err().exit_status(), 7);
        assert_eq!(asked(&server).len(), 4);
    }

    #[tokio::test]
    async fn the_client_waits_for_a_server_that_starts_late() {
        let free = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .unwrap();
        let at = free.local_addr().unwrap();
        drop(free);
        let client = Client::new(
            client::Address::Tcp("127.0.0.1".to_owned(), at.port()),
            None,
        );
        let flags = &ServerFlags::default();
        let mut waiter =
            BuildWaiter::new(&client, flags, "p".parse().unwrap(), WaitOptions::default());
        let request = JobRequest::default();
        let late = async {
            sleep(Duration::from_millis(150)).await;
            let listener = tokio::net::TcpListener::bind(at).await.unwrap();
            let events = format!("{}event: result\ndata: {}\n\n", state(), info());
            Scripted::serve(listener, vec![Scripted::events(&events)])
        };
        let (done, _server) = tokio::join!(waiter.run(&request), late);
        assert!(done.unwrap().info.succeeded());
    }

    #[tokio::test]
    async fn the_client_gives_up_on_an_unreachable_server_after_its_timeout() {
        let client = Client::new(client::Address::Unix("/does/not/exist".into()), None);
        let flags = &ServerFlags::default();
        let mut waiter =
            BuildWaiter::new(&client, flags, "p".parse().unwrap(), WaitOptions::default());
        assert_eq!(waiter.connect_timeout, Duration::from_secs(5));
        waiter.connect_timeout = Duration::from_millis(500);
        let start = Instant::now();
        let error = waiter.run(&JobRequest::default()).await.unwrap_err();
        assert_eq!(error.exit_status(), 7);
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}

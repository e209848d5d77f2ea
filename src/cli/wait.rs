//! Waiting for a build, whatever happens to the connection.
//!
//! Until the server has accepted the job, connecting is tried for five seconds. From then on
//! the id is known, and the client comes back to it until the caller gives up: the
//! deadline and Ctrl-C are the caller's, which drops the future.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::progress::Progress;
use super::{Again, Error, say, short, tell};
use crate::api::{ErrorView, JobRequest};
use crate::build::{Phase, State};
use crate::client::{self, Backoff, Client, ErrorResponse, Events, Finished, Submitted};
use crate::job::JobId;
use crate::project::ProjectName;
use crate::screen::LogView;

/// How long connecting is tried before a job is accepted: a server that is being activated or
/// restarted is there by then, and a wrong address is noticed soon.
const REACH: Duration = Duration::from_secs(5);
/// How often a connection may break between asking and acceptance; a server that breaks it
/// each time does so because of what is asked.
const MAX_BREAKS: u32 = 3;
/// A connection that held this long was a good one: pauses begin anew after it.
const HELD: Duration = Duration::from_secs(5);

/// How long to go on asking a server that is being started, or has just gone away.
#[derive(Debug)]
pub(super) struct Reaching {
    reach: Duration,
    deadline: Instant,
    backoff: Backoff,
    breaks: u32,
}

impl Reaching {
    /// From now on.
    pub(super) fn begin() -> Reaching {
        Reaching::within(REACH)
    }

    fn within(reach: Duration) -> Reaching {
        Reaching {
            reach,
            deadline: Instant::now() + reach,
            backoff: Backoff::default(),
            breaks: 0,
        }
    }

    /// Pauses before the next try; false when there is no use in one.
    pub(super) async fn again(&mut self, error: &client::Error) -> bool {
        match error {
            client::Error::Connect { source, .. }
                if source.kind() != io::ErrorKind::PermissionDenied =>
            {
                let pause = self.backoff.next_pause();
                let is_time = Instant::now() + pause < self.deadline;
                if is_time {
                    sleep(pause).await;
                }
                is_time
            }
            client::Error::Broken(_) => self.again_after_break().await,
            _ => false,
        }
    }

    /// The same, where there was a connection.
    pub(super) async fn again_after_break(&mut self) -> bool {
        if self.breaks == MAX_BREAKS {
            return false;
        }
        self.breaks += 1;
        self.deadline = Instant::now() + self.reach;
        sleep(self.backoff.next_pause()).await;
        true
    }
}

/// A log that is read event by event, and how far.
#[derive(Debug)]
pub(super) struct Follower {
    project: ProjectName,
    id: JobId,
    seen: u64,
}

impl Follower {
    pub(super) fn new(project: ProjectName, id: JobId) -> Follower {
        Follower {
            project,
            id,
            seen: 0,
        }
    }

    /// The byte that comes next.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// Shows bytes until the log or the connection ends; true when the build is over.
    pub(super) async fn follow(
        &mut self,
        client: &Client,
        show: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        let Some(mut events) = client.follow(&self.project, self.id, self.seen).await? else {
            return Ok(true);
        };
        while let Some(event) = events.next().await? {
            match event.name.as_str() {
                "end" => return Ok(event.end()?.state == State::Ready),
                // The first mistry's lines had no name.
                "log" | "message" => {
                    let end = event.id.clone();
                    show(&event.log_bytes())?;
                    self.note(end.as_deref());
                }
                _ => {}
            }
        }
        Ok(false)
    }

    fn note(&mut self, id: Option<&str>) {
        if let Some(seen) = id.and_then(|id| id.parse().ok()) {
            self.seen = seen;
        }
    }
}

/// What shall be seen while one waits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shown {
    /// The log, on standard error.
    pub log: bool,
    /// Where the log can be found, on standard output.
    pub place: bool,
    /// That the build ends with the connection, unless another client wants it.
    pub is_bound: bool,
}

/// One build that is awaited.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    client: &'a Client,
    again: &'a Again,
    project: ProjectName,
    shown: Shown,
    view: LogView<io::Stderr>,
    progress: Progress,
    job: Option<Follower>,
    lost: bool,
    reach: Duration,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(
        client: &'a Client,
        again: &'a Again,
        project: ProjectName,
        shown: Shown,
    ) -> Waiting<'a> {
        Waiting {
            client,
            again,
            project,
            shown,
            view: LogView::on_stderr(),
            progress: if shown.log {
                Progress::hidden()
            } else {
                Progress::waiting()
            },
            job: None,
            lost: false,
            reach: REACH,
        }
    }

    /// The job, once it is accepted.
    pub(super) fn accepted(&self) -> Option<JobId> {
        self.job.as_ref().map(|job| job.id)
    }

    /// Asks for the job and waits until its build is over.
    pub(super) async fn finish(&mut self, request: &JobRequest) -> Result<Finished, Error> {
        let done = match self.submit(request).await? {
            Ok(done) => done,
            Err(pause) => self.come_back(pause).await?,
        };
        if let Ok(id) = done.info.id.parse() {
            self.accept(id)?;
        }
        Ok(done)
    }

    /// Takes what moves off the screen.
    pub(super) fn done(&mut self) {
        self.progress.done();
        let _ = self.view.finish();
    }

    /// The build info, or how long to pause before coming back to a job that was accepted.
    async fn submit(&mut self, request: &JobRequest) -> Result<Result<Finished, Duration>, Error> {
        let mut reaching = Reaching::within(self.reach);
        self.progress.phase("connecting");
        loop {
            let error = match self.client.submit(request).await {
                Ok(Submitted::Finished(done)) => return Ok(Ok(*done)),
                Ok(Submitted::Stream(events)) => match self.read(*events).await {
                    Ok(Some(done)) => return Ok(Ok(done)),
                    Ok(None) => client::Error::Broken("the stream ended early".into()),
                    Err(Error::Server(error)) => error,
                    Err(error) => return Err(error),
                },
                Err(error) => error,
            };
            if let client::Error::Response(ErrorResponse { job: Some(id), .. }) = &error {
                self.accept(*id)?;
            }
            if self.job.is_some() {
                if error.is_transient() {
                    self.tell_lost();
                }
                return Ok(Err(error.retry_after().unwrap_or_default()));
            }
            if !reaching.again(&error).await {
                return Err(error.into());
            }
        }
    }

    /// Reads the stream of a job; `None` when it ends before the build does.
    async fn read(&mut self, mut events: Events) -> Result<Option<Finished>, Error> {
        while let Some(event) = events.next().await? {
            match event.name.as_str() {
                "state" => {
                    let state = event.state()?;
                    let id = state.id.parse().map_err(|_| {
                        client::Error::InvalidResponse("a job without an id".to_owned())
                    })?;
                    self.accept(id)?;
                    self.progress.phase(match state.phase {
                        Some(Phase::Queued) => "waiting for a slot",
                        Some(Phase::Preparing) => "preparing",
                        Some(Phase::Imaging) => "building the image",
                        Some(Phase::Running) => "building",
                        Some(Phase::Finishing) | None => "finishing",
                    });
                }
                "log" => {
                    if let Some(job) = &mut self.job {
                        job.note(event.id.as_deref());
                    }
                    if self.shown.log {
                        // A standard error that is gone is no reason to give up the build.
                        let _ = self.view.push(&event.log_bytes());
                    }
                }
                "result" => return Ok(Some(event.result()?)),
                // An accepted job tells the truth itself when one comes back to it.
                "error" if self.job.is_some() => return Ok(None),
                "error" => {
                    let view: ErrorView =
                        serde_json::from_str(&event.data).map_err(client::Error::from)?;
                    return Err(Error::Server(client::Error::Response(ErrorResponse::new(
                        500, view,
                    ))));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Waits for a job that was accepted, as often as it takes.
    async fn come_back(&mut self, mut pause: Duration) -> Result<Finished, Error> {
        let mut backoff = Backoff::default();
        let mut log_is_over = !self.shown.log;
        loop {
            sleep(pause).await;
            let begun = Instant::now();
            let error = match self.ask_again(&mut log_is_over).await {
                Ok(Some(done)) => return Ok(done),
                Ok(None) => None,
                Err(Error::Server(error)) if error.is_transient() => Some(error),
                Err(error) => return Err(error),
            };
            self.tell_lost();
            if begun.elapsed() > HELD {
                backoff = Backoff::default();
            }
            pause = backoff.next_pause();
            if let Some(wish) = error.and_then(|error| error.retry_after()) {
                pause = pause.max(wish);
            }
        }
    }

    /// One connection's worth of coming back; `None` when it ended too early.
    async fn ask_again(&mut self, log_is_over: &mut bool) -> Result<Option<Finished>, Error> {
        let (client, view) = (self.client, &mut self.view);
        let Some(job) = &mut self.job else {
            return Ok(None);
        };
        if !*log_is_over {
            let mut show = |bytes: &[u8]| {
                let _ = view.push(bytes);
                Ok(())
            };
            match job.follow(client, &mut show).await {
                Ok(true) => *log_is_over = true,
                Ok(false) => return Ok(None),
                Err(Error::Server(error)) if error.is_transient() => return Err(error.into()),
                // No log is no reason not to wait for the build.
                Err(_) => *log_is_over = true,
            }
        }
        Ok(client.wait(&job.project, job.id).await?)
    }

    fn accept(&mut self, id: JobId) -> Result<(), Error> {
        if self.job.is_some() {
            return Ok(());
        }
        self.job = Some(Follower::new(self.project.clone(), id));
        if !self.shown.place {
            return Ok(());
        }
        let page = format!("job/{}/{id}", self.project);
        let line = match self.client.address().page(&page) {
            Some(url) => format!("Logs can be found at {url}"),
            None => {
                let hint = self.again.hint("logs", &id.to_string());
                format!("Logs can be found with: {hint}")
            }
        };
        self.progress.aside(|| tell(&line))
    }

    fn tell_lost(&mut self) {
        if !std::mem::replace(&mut self.lost, true) {
            let id = self
                .accepted()
                .map_or_else(String::new, |id| id.to_string());
            let id = short(&id);
            let fate = match self.shown.is_bound {
                true => {
                    "the build is cancelled unless another client wants it or the server was restarted"
                }
                false => "the build goes on",
            };
            self.progress.phase("connecting");
            self.progress.aside(|| {
                say(&format!(
                    "The connection to the server was lost; {fate}, coming back to {id} by itself"
                ));
            });
        }
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
        let shown = Shown {
            log,
            ..Shown::default()
        };
        let again = &Again::default();
        let mut waiting = Waiting::new(&client, again, "p".parse().unwrap(), shown);
        let done = waiting.finish(&JobRequest::default()).await;
        (done, waiting.job.is_some(), waiting.lost)
    }

    fn asked(server: &Scripted) -> Vec<String> {
        let lines = server.asked();
        lines
            .iter()
            .map(|r| r.lines().next().unwrap().to_owned())
            .collect()
    }

    #[tokio::test]
    async fn a_stream_that_ends_well_is_all_that_is_asked() {
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
    async fn a_connection_that_breaks_after_acceptance_is_taken_up_by_id() {
        for torn in [Scripted::torn_events(&state()), Scripted::events(&state())] {
            let server = Scripted::start(vec![
                torn,
                // Broken once more, then a server that is still stopping, then the answer.
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
    async fn the_log_goes_on_where_it_ended() {
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
    async fn an_image_that_cannot_be_built_is_read_from_its_job() {
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
    async fn a_refusal_before_acceptance_is_final() {
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
    async fn a_connection_that_always_breaks_before_acceptance_is_given_up() {
        let server = Scripted::start(vec![String::new(); 4]).await;
        let (done, ..) = wait(&server, false).await;
        assert_eq!(done.unwrap_err().exit_status(), 7);
        assert_eq!(asked(&server).len(), 4);
    }

    #[tokio::test]
    async fn a_server_that_comes_up_late_is_waited_for() {
        let free = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .unwrap();
        let at = free.local_addr().unwrap();
        drop(free);
        let client = Client::new(
            client::Address::Tcp("127.0.0.1".to_owned(), at.port()),
            None,
        );
        let again = &Again::default();
        let mut waiting = Waiting::new(&client, again, "p".parse().unwrap(), Shown::default());
        let request = JobRequest::default();
        let late = async {
            sleep(Duration::from_millis(150)).await;
            let listener = tokio::net::TcpListener::bind(at).await.unwrap();
            let events = format!("{}event: result\ndata: {}\n\n", state(), info());
            Scripted::serve(listener, vec![Scripted::events(&events)])
        };
        let (done, _server) = tokio::join!(waiting.finish(&request), late);
        assert!(done.unwrap().info.succeeded());
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_given_up_in_time() {
        let client = Client::new(client::Address::Unix("/does/not/exist".into()), None);
        let again = &Again::default();
        let mut waiting = Waiting::new(&client, again, "p".parse().unwrap(), Shown::default());
        assert_eq!(waiting.reach, Duration::from_secs(5));
        waiting.reach = Duration::from_millis(500);
        let begun = Instant::now();
        let error = waiting.finish(&JobRequest::default()).await.unwrap_err();
        assert_eq!(error.exit_status(), 7);
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}

//! The client: one method for each request.

use std::fmt;

use hyper::Method;
use serde::Deserialize;

use super::connection::{self, EVENT_STREAM, Request, TEXT};
use super::{Address, Error, Events, Filter, Finished, Response};
use crate::api::{
    AttemptView, CancelRequest, GcRequest, GcView, GroupItem, GroupRequest, ImageView, IndexItem,
    JobRequest, JobState, JobView, LogTimes, ProjectItem, ProjectView, RebuildRequest, RemovedBase,
};
use crate::job::{JobId, State};
use crate::project::ProjectName;

/// Identifies a log: each attempt at a job may have its own.
const LOG_HEADER: &str = "mistry-log";

/// Builds per request when the whole index is read; the most that a server sends.
const PAGE_SIZE: usize = 1_000;
/// Most bytes of a JSON response: a page of the index may hold many builds with long params.
const MAX_JSON: usize = 64 << 20;
/// Bytes of the end of a log: a line.
const LAST_BYTES: usize = 1 << 10;
/// An event stream, and errors as JSON.
const EVENT_STREAM_OR_JSON: &str = "text/event-stream, application/json;q=0.5";

/// A server's answer to a job request.
#[derive(Debug)]
pub enum Submitted {
    /// A stream of states and lines that ends with the result.
    Stream(Box<Events>),
    /// The build info at once, from a server without event streams.
    Finished(Box<Finished>),
}

/// A page of the index.
#[derive(Debug)]
struct Page {
    /// Newest first.
    items: Vec<IndexItem>,
    /// The address of the next page.
    next: Option<String>,
}

/// The client of one server. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    address: Address,
    token: Option<String>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.address)
    }
}

impl Client {
    /// A client of the server at `address` that sends `token` with each request.
    pub fn new(address: Address, token: Option<String>) -> Client {
        Client { address, token }
    }

    /// The address of the server.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Submits a job and follows its build.
    ///
    /// # Errors
    /// [`super::ErrorResponse::job`] is set when the job was accepted nonetheless.
    pub async fn submit(&self, job: &JobRequest) -> Result<Submitted, Error> {
        let request = Request::new(Method::POST, "/jobs")
            .accept(EVENT_STREAM_OR_JSON)
            .json(job)?;
        let response = self.send(request).await?;
        if response.has_media_type(EVENT_STREAM) {
            Ok(Submitted::Stream(Box::new(Events::new(response))))
        } else {
            let info = Finished::read(response.json(MAX_JSON).await?)?;
            Ok(Submitted::Finished(Box::new(info)))
        }
    }

    /// Submits a job and does not wait for it; `None` when the server does not name the job.
    pub async fn submit_only(&self, job: &JobRequest) -> Result<Option<JobState>, Error> {
        let request = Request::new(Method::POST, "/jobs?async").json(job)?;
        let body = self.send(request).await?.bytes(MAX_JSON).await?;
        Ok(serde_json::from_slice(&body).ok())
    }

    /// Fetches the current state of a job.
    pub async fn job(&self, project: &ProjectName, id: JobId) -> Result<JobView, Error> {
        let request = Request::new(Method::GET, format!("/job/{project}/{id}"));
        self.send(request).await?.json(MAX_JSON).await
    }

    /// Fetches the current state of a job, or one attempt at it, without its log, as the server sends it.
    pub async fn job_json(
        &self,
        project: &ProjectName,
        id: JobId,
        attempt: Option<u32>,
    ) -> Result<serde_json::Value, Error> {
        let attempt = attempt.map_or(String::new(), |number| format!("&attempt={number}"));
        self.json(format!("/job/{project}/{id}?log=none{attempt}"))
            .await
    }

    /// Fetches the current state of a job without its log.
    pub async fn job_without_log(
        &self,
        project: &ProjectName,
        id: JobId,
    ) -> Result<JobView, Error> {
        let path = format!("/job/{project}/{id}?log=none");
        let request = Request::new(Method::GET, path);
        self.send(request).await?.json(MAX_JSON).await
    }

    /// Lists the attempts at a job that are kept, newest first.
    pub async fn attempts(
        &self,
        project: &ProjectName,
        id: JobId,
    ) -> Result<Vec<AttemptView>, Error> {
        let request = Request::new(Method::GET, format!("/job/{project}/{id}/attempts"));
        self.send(request).await?.json(MAX_JSON).await
    }

    /// Waits until a job is finished; `None` from a server that answers before that.
    pub async fn wait(&self, project: &ProjectName, id: JobId) -> Result<Option<Finished>, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Raw {
            state: State,
            build_info: serde_json::Value,
        }
        let request = Request::new(Method::GET, format!("/job/{project}/{id}?wait"));
        let raw: Raw = self.send(request).await?.json(MAX_JSON).await?;
        match raw.state {
            State::Pending => Ok(None),
            State::Ready => Finished::read(raw.build_info).map(Some),
        }
    }

    /// Cancels a build; returns when the server has recorded that.
    ///
    /// # Errors
    /// A finished build is an [`Error::Response`] with status 409.
    pub async fn cancel(
        &self,
        project: &ProjectName,
        id: JobId,
        reason: &str,
    ) -> Result<JobState, Error> {
        let reason = reason.to_owned();
        let request = Request::new(Method::POST, format!("/job/{project}/{id}/cancel"))
            .json(&CancelRequest { reason })?;
        self.send(request).await?.json(MAX_JSON).await
    }

    /// Fetches the newest `limit` builds, newest first.
    pub async fn index(&self, filter: &Filter, limit: usize) -> Result<Vec<IndexItem>, Error> {
        Ok(self.first_page(filter, limit).await?.items)
    }

    /// The same as the server sends it.
    pub async fn index_json(
        &self,
        filter: &Filter,
        limit: usize,
    ) -> Result<serde_json::Value, Error> {
        self.json(format!("/index/?{}", filter.query(limit))).await
    }

    async fn first_page(&self, filter: &Filter, limit: usize) -> Result<Page, Error> {
        self.page(format!("/index/?{}", filter.query(limit))).await
    }

    async fn page(&self, path: String) -> Result<Page, Error> {
        let response = self.send(Request::new(Method::GET, path)).await?;
        let next = response.header("link").and_then(next_link);
        let items = response.json(MAX_JSON).await?;
        Ok(Page { items, next })
    }

    /// Finds all builds whose id begins with `prefix`; a whole id ends the search when it is found.
    pub async fn find_by_prefix(
        &self,
        filter: &Filter,
        prefix: &str,
    ) -> Result<Vec<IndexItem>, Error> {
        let mut found: Vec<IndexItem> = Vec::new();
        let mut page = self.first_page(filter, PAGE_SIZE).await?;
        loop {
            for item in page.items {
                let known = |f: &IndexItem| f.id == item.id && f.project == item.project;
                if item.id.starts_with(prefix) && !found.iter().any(known) {
                    found.push(item);
                }
            }
            let is_whole = prefix.len() == 64 && !found.is_empty();
            match page.next.take() {
                Some(next) if !is_whole => {
                    page = self.page(next.clone()).await?.check_progress(&next)?;
                }
                _ => return Ok(found),
            }
        }
    }

    /// Follows the log of a job, or of one attempt at it, after byte `after`; `None` at its end.
    pub async fn follow(
        &self,
        project: &ProjectName,
        id: JobId,
        attempt: Option<u32>,
        after: u64,
    ) -> Result<Option<Events>, Error> {
        let path = log_path(project, id, attempt);
        let mut request = Request::new(Method::GET, path).accept(EVENT_STREAM_OR_JSON);
        if after > 0 {
            request = request.header("last-event-id", &after.to_string());
        }
        let response = self.send(request).await?;
        if response.status() == 204 {
            return Ok(None);
        }
        if response.has_media_type(EVENT_STREAM) {
            Ok(Some(Events::new(response)))
        } else {
            Err(Error::InvalidResponse(
                "a log that is no event stream".to_owned(),
            ))
        }
    }

    /// Fetches the log of a job, or of one attempt at it, so far, byte for byte.
    pub async fn log(
        &self,
        project: &ProjectName,
        id: JobId,
        attempt: Option<u32>,
    ) -> Result<Response, Error> {
        let path = log_path(project, id, attempt);
        self.send(Request::new(Method::GET, path).accept(TEXT))
            .await
    }

    /// Fetches when the log of a job, or of one attempt at it, was written, as far as it is.
    pub async fn log_times(
        &self,
        project: &ProjectName,
        id: JobId,
        attempt: Option<u32>,
    ) -> Result<LogTimes, Error> {
        let path = log_path(project, id, attempt);
        let separator = if attempt.is_some() { '&' } else { '?' };
        let request = Request::new(Method::GET, format!("{path}{separator}times"));
        self.send(request).await?.json(MAX_JSON).await
    }

    /// Fetches the last bytes of a job's log so far.
    ///
    /// # Errors
    /// [`Error::InvalidResponse`] if the server sends the whole log.
    pub async fn end_of_log(&self, project: &ProjectName, id: JobId) -> Result<Vec<u8>, Error> {
        let request = Request::new(Method::GET, format!("/log/{project}/{id}"))
            .accept(TEXT)
            .header("range", &format!("bytes=-{LAST_BYTES}"));
        self.send(request).await?.bytes(LAST_BYTES).await
    }

    /// Fetches the part that `response`, of [`Client::log`], had not delivered, from byte `from` on.
    ///
    /// # Errors
    /// [`Error::InvalidResponse`] if the server cannot continue that log.
    pub async fn log_rest(
        &self,
        project: &ProjectName,
        id: JobId,
        attempt: Option<u32>,
        response: &Response,
        from: u64,
    ) -> Result<Response, Error> {
        let not_resumable =
            || Error::InvalidResponse("an answer that cannot be taken up".to_owned());
        let log = response.header(LOG_HEADER).ok_or_else(not_resumable)?;
        let request = Request::new(Method::GET, log_path(project, id, attempt))
            .accept(TEXT)
            .header(LOG_HEADER, log)
            .header("range", &format!("bytes={from}-"));
        let rest = self.send(request).await?;
        let range = rest.header("content-range").unwrap_or_default();
        match range.starts_with(&format!("bytes {from}-")) {
            true => Ok(rest),
            false => Err(not_resumable()),
        }
    }

    /// Fetches a tar of a job's artifacts, with sparse files as GNU tar's sparse entries if the server can;
    /// see [`Response::header`] for how it is compressed.
    pub async fn artifacts(&self, project: &ProjectName, id: JobId) -> Result<Response, Error> {
        let request = Request::new(Method::GET, format!("/artifacts/{project}/{id}?sparse"))
            .accept("application/x-tar, application/json;q=0.5")
            .header("accept-encoding", "zstd");
        self.send(request).await
    }

    /// Lists all projects, as the server sends them.
    pub async fn projects_json(&self) -> Result<serde_json::Value, Error> {
        self.json("/projects".to_owned()).await
    }

    /// Lists all projects.
    pub async fn projects(&self) -> Result<Vec<ProjectItem>, Error> {
        Ok(serde_json::from_value(self.projects_json().await?)?)
    }

    /// Whether the server knows a project.
    pub async fn project_exists(&self, project: &ProjectName) -> Result<bool, Error> {
        let request = Request::new(Method::GET, format!("/project/{project}"));
        match self.send(request).await {
            Ok(_) => Ok(true),
            Err(Error::Response(response)) if response.status == 404 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Fetches the details of a project, as the server sends them.
    pub async fn project_json(&self, name: &ProjectName) -> Result<serde_json::Value, Error> {
        self.json(format!("/project/{name}")).await
    }

    /// Fetches the details of a project.
    pub async fn project(&self, name: &ProjectName) -> Result<ProjectView, Error> {
        Ok(serde_json::from_value(self.project_json(name).await?)?)
    }

    /// Rebuilds a project's image with the secrets that its build needs, and waits for it.
    ///
    /// # Errors
    /// An image that cannot be built is an [`Error::Response`] with status 500; one that is left as it is, because
    /// a secret is missing, with status 409.
    pub async fn rebuild(
        &self,
        project: &ProjectName,
        request: &RebuildRequest,
    ) -> Result<ImageView, Error> {
        let request =
            Request::new(Method::POST, format!("/project/{project}/rebuild")).json(request)?;
        self.send(request).await?.json(MAX_JSON).await
    }

    /// Lists the groups of a project with their bases.
    pub async fn groups(&self, project: &ProjectName) -> Result<Vec<GroupItem>, Error> {
        let request = Request::new(Method::GET, format!("/project/{project}/groups"));
        self.send(request).await?.json(MAX_JSON).await
    }

    /// Resets a group: its next build starts empty.
    pub async fn reset_group(&self, project: &ProjectName, group: &str) -> Result<(), Error> {
        let request = Request::new(Method::POST, format!("/project/{project}/groups/reset"));
        let group = group.to_owned();
        self.send(request.json(&GroupRequest { group })?).await?;
        Ok(())
    }

    /// Removes a build that no link names.
    pub async fn remove(&self, project: &ProjectName, id: JobId) -> Result<(), Error> {
        let request = Request::new(Method::DELETE, format!("/job/{project}/{id}"));
        self.send(request.json(&serde_json::json!({}))?).await?;
        Ok(())
    }

    /// Removes a build, also one that is the base of its group.
    pub async fn remove_base(
        &self,
        project: &ProjectName,
        id: JobId,
    ) -> Result<RemovedBase, Error> {
        let request = Request::new(Method::DELETE, format!("/job/{project}/{id}?base"));
        let response = self.send(request.json(&serde_json::json!({}))?).await?;
        response.json(MAX_JSON).await
    }

    /// Collects garbage, or computes what would be removed, and waits for the result.
    pub async fn collect_garbage(&self, request: &GcRequest) -> Result<GcView, Error> {
        Ok(serde_json::from_value(
            self.collect_garbage_json(request).await?,
        )?)
    }

    /// The same with the result as the server sends it.
    pub async fn collect_garbage_json(
        &self,
        request: &GcRequest,
    ) -> Result<serde_json::Value, Error> {
        let request = Request::new(Method::POST, "/gc").json(request)?;
        self.send(request).await?.json(MAX_JSON).await
    }

    /// Pins a build: garbage collection keeps it.
    pub async fn pin(&self, project: &ProjectName, id: JobId) -> Result<(), Error> {
        self.set_pin(Method::PUT, project, id).await
    }

    /// Unpins a build: garbage collection may remove it.
    pub async fn unpin(&self, project: &ProjectName, id: JobId) -> Result<(), Error> {
        self.set_pin(Method::DELETE, project, id).await
    }

    async fn set_pin(&self, method: Method, project: &ProjectName, id: JobId) -> Result<(), Error> {
        let request = Request::new(method, format!("/job/{project}/{id}/pin"));
        let request = request.json(&serde_json::json!({}))?;
        self.send(request).await.map(drop)
    }

    /// Pauses the queue: running jobs continue, no job is started.
    pub async fn pause(&self) -> Result<(), Error> {
        let request = Request::new(Method::POST, "/queue/pause").json(&serde_json::json!({}))?;
        self.send(request).await.map(drop)
    }

    /// Resumes the queue: waiting jobs are started first.
    pub async fn resume(&self) -> Result<(), Error> {
        let request = Request::new(Method::POST, "/queue/resume").json(&serde_json::json!({}))?;
        self.send(request).await.map(drop)
    }

    /// Fetches the status of the server and its host.
    pub async fn status(&self) -> Result<serde_json::Value, Error> {
        self.json("/status".to_owned()).await
    }

    async fn json(&self, path: String) -> Result<serde_json::Value, Error> {
        let request = Request::new(Method::GET, path);
        self.send(request).await?.json(MAX_JSON).await
    }

    /// Sends a request; any status but 2xx is an error.
    async fn send(&self, request: Request) -> Result<Response, Error> {
        let request = request.with_token(self.token.as_deref());
        let response = connection::send(&self.address, request).await?;
        if (200..300).contains(&response.status()) {
            Ok(response)
        } else {
            Err(response.into_error().await)
        }
    }
}

/// The address of a log; without a number, that of the current attempt at the job.
fn log_path(project: &ProjectName, id: JobId, attempt: Option<u32>) -> String {
    let query = attempt.map(|number| format!("?attempt={number}"));
    format!("/log/{project}/{id}{}", query.unwrap_or_default())
}

impl Page {
    /// Refuses a page that links to itself: the client would request it for ever.
    fn check_progress(self, path: &str) -> Result<Page, Error> {
        if self.next.as_deref() == Some(path) {
            Err(Error::InvalidResponse("an index without end".to_owned()))
        } else {
            Ok(self)
        }
    }
}

/// Path and query of the link whose relation is `next`; its host is ignored.
fn next_link(header: &str) -> Option<String> {
    let link = header
        .split(',')
        .find(|link| link.contains("rel=\"next\"") || link.contains("rel=next"))?;
    let target = link.split_once('<')?.1.split_once('>')?.0;
    let target = match target.split_once("://") {
        Some((_, rest)) => &rest[rest.find('/')?..],
        None => target,
    };
    if target.starts_with('?') {
        Some(format!("/index/{target}"))
    } else {
        target.starts_with('/').then(|| target.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::scripted::Scripted;
    use crate::job::Outcome;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn client(server: &Scripted) -> Client {
        Client::new(server.address(), Some("secret".to_owned()))
    }

    #[test]
    fn the_next_page_is_on_the_same_host() {
        for (header, next) in [
            (
                r#"</index/?before=x>; rel="next""#,
                Some("/index/?before=x"),
            ),
            (
                r#"</a>; rel="prev", <http://evil/index/?b=1>; rel="next""#,
                Some("/index/?b=1"),
            ),
            (r#"<?before=x>; rel="next""#, Some("/index/?before=x")),
            (r#"</a>; rel="prev""#, None),
            ("no link", None),
        ] {
            assert_eq!(next_link(header).as_deref(), next, "{header}");
        }
    }

    #[tokio::test]
    async fn an_error_response_has_the_message_and_the_request() {
        let server = Scripted::start(vec![Scripted::answer(
            "404 Not Found",
            "Content-Type: application/json\r\n",
            r#"{"error":"unknown project 'x'","request":"r1"}"#,
        )])
        .await;
        let error = client(&server).projects().await.unwrap_err();
        assert_eq!(error.to_string(), "unknown project 'x'");
        let asked = server.asked();
        assert!(
            asked[0].contains("authorization: Bearer secret"),
            "{asked:?}"
        );
        assert!(asked[0].contains("host: 127.0.0.1:"), "{asked:?}");
    }

    #[tokio::test]
    async fn a_response_of_mistry_1_is_parsed() {
        let body = format!(r#"{{"Params":{{}},"ExitCode":3,"ErrBuild":"","URL":"job/p/{ID}"}}"#);
        let server = Scripted::start(vec![Scripted::answer(
            "201 Created",
            "Content-Type: text/plain; charset=utf-8\r\n",
            &body,
        )])
        .await;
        let submitted = client(&server)
            .submit(&JobRequest::default())
            .await
            .unwrap();
        let Submitted::Finished(done) = submitted else {
            unreachable!("{submitted:?}")
        };
        assert_eq!(done.info.id, ID);
        assert_eq!(done.info.project, "p");
        assert_eq!(done.info.outcome, Some(Outcome::Failed));
    }

    #[tokio::test]
    async fn a_prefix_is_searched_on_all_pages() {
        let item = |id: &str| {
            format!(
                r#"{{"id":"{id}","project":"p","startedAt":"2026-01-02T03:04:05Z","buildInfo":{{}},"state":"ready"}}"#
            )
        };
        let other = ID.replace('0', "f");
        let server = Scripted::start(vec![
            Scripted::answer(
                "200 OK",
                "Link: </index/?before=1>; rel=\"next\"\r\n",
                &format!("[{}]", item(&other)),
            ),
            Scripted::answer("200 OK", "", &format!("[{},{}]", item(ID), item(ID))),
        ])
        .await;
        let found = client(&server)
            .find_by_prefix(&Filter::default(), "0123")
            .await
            .unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].id, ID);
    }

    #[tokio::test]
    async fn a_truncated_response_is_a_broken_connection() {
        let server = Scripted::start(vec![
            "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[".to_owned(),
        ])
        .await;
        let error = client(&server).projects().await.unwrap_err();
        assert!(matches!(error, Error::Broken(_)) && error.is_transient());
    }
}

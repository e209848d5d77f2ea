//! The client: what a server can be asked.

use std::fmt;

use hyper::Method;
use serde::Deserialize;

use super::connection::{self, Ask, LINES, TEXT};
use super::error::refusal;
use super::{Address, Answer, Error, Events, Filter, Finished, Submitted};
use crate::api::{
    CancelRequest, GcRequest, GcView, ImageView, IndexItem, JobRequest, JobState, JobView,
    ProjectItem,
};
use crate::build::State;
use crate::job::JobId;
use crate::project::ProjectName;

/// Names a log: which of those that a job has had.
const LOG: &str = "mistry-log";

/// Builds asked for at once when the whole list is read; the most that a server gives.
const PAGE: usize = 1_000;
/// Most bytes of a JSON answer: a page of the index may hold many builds with long params.
const MAX_JSON: usize = 64 << 20;
/// An event stream, and errors as JSON.
const LINES_OR_JSON: &str = "text/event-stream, application/json;q=0.5";

/// A page of the index.
#[derive(Debug)]
struct Page {
    /// Newest first.
    items: Vec<IndexItem>,
    /// Where the next page is.
    next: Option<String>,
}

/// One server, as seen from here. Cheap to clone.
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
    /// Asks at `address`, showing `token` with each request.
    pub fn new(address: Address, token: Option<String>) -> Client {
        Client { address, token }
    }

    /// Where the server is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Asks for a job and is told how it goes.
    ///
    /// # Errors
    /// As [`Error`] says; [`super::Refusal::job`] is set when the job was accepted nonetheless.
    pub async fn submit(&self, job: &JobRequest) -> Result<Submitted, Error> {
        let ask = Ask::new(Method::POST, "/jobs")
            .accept(LINES_OR_JSON)
            .json(job)?;
        let answer = self.send(ask).await?;
        if answer.is(LINES) {
            Ok(Submitted::Stream(Box::new(answer.events())))
        } else {
            let info = Finished::read(answer.json(MAX_JSON).await?)?;
            Ok(Submitted::Finished(Box::new(info)))
        }
    }

    /// Asks for a job without waiting; `None` when the server does not say which it is.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn submit_only(&self, job: &JobRequest) -> Result<Option<JobState>, Error> {
        let ask = Ask::new(Method::POST, "/jobs?async").json(job)?;
        let body = self.send(ask).await?.bytes(MAX_JSON).await?;
        Ok(serde_json::from_slice(&body).ok())
    }

    /// A job as it is now.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn job(&self, project: &ProjectName, id: JobId) -> Result<JobView, Error> {
        let ask = Ask::new(Method::GET, format!("/job/{project}/{id}"));
        self.send(ask).await?.json(MAX_JSON).await
    }

    /// A job once it is over; `None` from a server that answers before that.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn wait(&self, project: &ProjectName, id: JobId) -> Result<Option<Finished>, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Raw {
            state: State,
            build_info: serde_json::Value,
        }
        let ask = Ask::new(Method::GET, format!("/job/{project}/{id}?wait"));
        let raw: Raw = self.send(ask).await?.json(MAX_JSON).await?;
        match raw.state {
            State::Pending => Ok(None),
            State::Ready => Finished::read(raw.build_info).map(Some),
        }
    }

    /// Has a build stopped; returns when the server has written that down.
    ///
    /// # Errors
    /// As [`Error`] says; a build that is over is a refusal with status 409.
    pub async fn cancel(
        &self,
        project: &ProjectName,
        id: JobId,
        reason: &str,
    ) -> Result<JobState, Error> {
        let reason = reason.to_owned();
        let ask = Ask::new(Method::POST, format!("/job/{project}/{id}/cancel"))
            .json(&CancelRequest { reason })?;
        self.send(ask).await?.json(MAX_JSON).await
    }

    /// The newest `limit` builds, newest first.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn index(&self, filter: &Filter, limit: usize) -> Result<Vec<IndexItem>, Error> {
        Ok(self.first_page(filter, limit).await?.items)
    }

    async fn first_page(&self, filter: &Filter, limit: usize) -> Result<Page, Error> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (key, value) in [
            ("project", &filter.project),
            ("group", &filter.group),
            ("state", &filter.state),
        ] {
            if !value.is_empty() {
                query.append_pair(key, value);
            }
        }
        query.append_pair("limit", &limit.to_string());
        self.page(format!("/index/?{}", query.finish())).await
    }

    /// The page that [`Page::next`] names.
    async fn page(&self, path: String) -> Result<Page, Error> {
        let answer = self.send(Ask::new(Method::GET, path)).await?;
        let next = answer.header("link").and_then(next_link);
        let items = answer.json(MAX_JSON).await?;
        Ok(Page { items, next })
    }

    /// All builds whose id begins with `prefix`; a whole id ends the search when it is found.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn matching(&self, filter: &Filter, prefix: &str) -> Result<Vec<IndexItem>, Error> {
        let mut found: Vec<IndexItem> = Vec::new();
        let mut page = self.first_page(filter, PAGE).await?;
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
                    page = self.page(next.clone()).await?.unless(&next)?;
                }
                _ => return Ok(found),
            }
        }
    }

    /// The lines of a job's log after byte `after`, as they come; `None` when there are no more.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn follow(
        &self,
        project: &ProjectName,
        id: JobId,
        after: u64,
    ) -> Result<Option<Events>, Error> {
        let mut ask = Ask::new(Method::GET, format!("/log/{project}/{id}")).accept(LINES_OR_JSON);
        if after > 0 {
            ask = ask.header("last-event-id", &after.to_string());
        }
        let answer = self.send(ask).await?;
        if answer.status() == 204 {
            return Ok(None);
        }
        if answer.is(LINES) {
            Ok(Some(answer.events()))
        } else {
            Err(Error::Nonsense("a log that is no event stream".to_owned()))
        }
    }

    /// A job's log so far, byte for byte.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn log(&self, project: &ProjectName, id: JobId) -> Result<Answer, Error> {
        self.send(Ask::new(Method::GET, format!("/log/{project}/{id}")).accept(TEXT))
            .await
    }

    /// What `answer`, of [`Client::log`], still had to bring from byte `from` on.
    ///
    /// # Errors
    /// As [`Error`] says; [`Error::Nonsense`] where the server cannot go on with that log.
    pub async fn log_rest(
        &self,
        project: &ProjectName,
        id: JobId,
        answer: &Answer,
        from: u64,
    ) -> Result<Answer, Error> {
        let cannot = || Error::Nonsense("an answer that cannot be taken up".to_owned());
        let log = answer.header(LOG).ok_or_else(cannot)?;
        let ask = Ask::new(Method::GET, format!("/log/{project}/{id}"))
            .accept(TEXT)
            .header(LOG, log)
            .header("range", &format!("bytes={from}-"));
        let rest = self.send(ask).await?;
        let range = rest.header("content-range").unwrap_or_default();
        match range.starts_with(&format!("bytes {from}-")) {
            true => Ok(rest),
            false => Err(cannot()),
        }
    }

    /// A tar of a job's artifacts, with sparse files as GNU tar's sparse entries where the server can;
    /// see [`Answer::header`] for how it is compressed.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn artifacts(&self, project: &ProjectName, id: JobId) -> Result<Answer, Error> {
        let ask = Ask::new(Method::GET, format!("/artifacts/{project}/{id}?sparse"))
            .accept("application/x-tar, application/json;q=0.5")
            .header("accept-encoding", "zstd");
        self.send(ask).await
    }

    /// All projects.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn projects(&self) -> Result<Vec<ProjectItem>, Error> {
        let ask = Ask::new(Method::GET, "/projects");
        self.send(ask).await?.json(MAX_JSON).await
    }

    /// Builds a project's image anew and waits for it.
    ///
    /// # Errors
    /// As [`Error`] says; an image that cannot be built is a refusal with status 500.
    pub async fn rebuild(&self, project: &ProjectName) -> Result<ImageView, Error> {
        let ask = Ask::new(Method::POST, format!("/project/{project}/rebuild"))
            .json(&serde_json::json!({}))?;
        self.send(ask).await?.json(MAX_JSON).await
    }

    /// Collects garbage, or says what would go, and waits for it.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn collect(&self, request: &GcRequest) -> Result<GcView, Error> {
        let ask = Ask::new(Method::POST, "/gc").json(request)?;
        self.send(ask).await?.json(MAX_JSON).await
    }

    /// Keeps a build from garbage collection, or lets it go.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn pin(&self, project: &ProjectName, id: JobId, is_kept: bool) -> Result<(), Error> {
        let method = if is_kept { Method::PUT } else { Method::DELETE };
        let ask = Ask::new(method, format!("/job/{project}/{id}/pin"));
        self.send(ask.json(&serde_json::json!({}))?).await.map(drop)
    }

    /// Has the server begin nothing new; what runs goes on.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn pause(&self) -> Result<(), Error> {
        let ask = Ask::new(Method::POST, "/queue/pause").json(&serde_json::json!({}))?;
        self.send(ask).await.map(drop)
    }

    /// Has the server begin jobs again, first those that wait.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn resume(&self) -> Result<(), Error> {
        let ask = Ask::new(Method::POST, "/queue/resume").json(&serde_json::json!({}))?;
        self.send(ask).await.map(drop)
    }

    /// What the server tells about itself and its host.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn status(&self) -> Result<serde_json::Value, Error> {
        self.send(Ask::new(Method::GET, "/status"))
            .await?
            .json(MAX_JSON)
            .await
    }

    /// Sends a question; any answer but a success is an error.
    async fn send(&self, ask: Ask) -> Result<Answer, Error> {
        let ask = ask.sign(self.token.as_deref());
        let answer = connection::open(&self.address, ask).await?;
        if (200..300).contains(&answer.status()) {
            Ok(answer)
        } else {
            Err(refusal(answer).await)
        }
    }
}

impl Page {
    /// A server whose next page is the page itself would be asked for ever.
    fn unless(self, asked: &str) -> Result<Page, Error> {
        if self.next.as_deref() == Some(asked) {
            Err(Error::Nonsense("an index without end".to_owned()))
        } else {
            Ok(self)
        }
    }
}

/// Path and query of the link whose relation is `next`; never another host's.
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
    use crate::build::Outcome;
    use crate::client::scripted::Scripted;

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
            ("nonsense", None),
        ] {
            assert_eq!(next_link(header).as_deref(), next, "{header}");
        }
    }

    #[tokio::test]
    async fn a_refusal_has_the_sentence_and_the_request() {
        let server = Scripted::start(vec![Scripted::answer(
            "404 Not Found",
            "Content-Type: application/json\r\n",
            r#"{"error":"unknown project 'x'","request":"r1"}"#,
        )])
        .await;
        let error = client(&server).projects().await.unwrap_err();
        assert_eq!(error.to_string(), "unknown project 'x' (request r1)");
        let asked = server.asked();
        assert!(
            asked[0].contains("authorization: Bearer secret"),
            "{asked:?}"
        );
        assert!(asked[0].contains("host: 127.0.0.1:"), "{asked:?}");
    }

    #[tokio::test]
    async fn an_answer_of_the_first_mistry_is_understood() {
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
    async fn a_prefix_is_looked_for_on_all_pages() {
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
            .matching(&Filter::default(), "0123")
            .await
            .unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].id, ID);
    }

    #[tokio::test]
    async fn a_torn_answer_is_a_broken_connection() {
        let server = Scripted::start(vec![
            "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[".to_owned(),
        ])
        .await;
        let error = client(&server).projects().await.unwrap_err();
        assert!(matches!(error, Error::Broken(_)) && error.is_passing());
    }
}

//! A request as its handler sees it.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use hyper::Method;
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use percent_encoding::percent_decode_str;
use tokio_util::sync::CancellationToken;

use super::caller::Caller;
use super::client_budget::ClientBudget;
use super::connection::HalfClosed;
use super::error::ApiError;
use super::query::Query;
use super::response;
use crate::budget::Client;
use crate::job::JobId;
use crate::project::{NameError, ProjectName};
use crate::scheduler::Reader;

/// Names and values of the variable segments of a path; the values are still percent-encoded.
pub(super) type PathParams = Vec<(&'static str, String)>;

/// A request that was admitted.
#[derive(Debug)]
pub(super) struct Request {
    /// Its id, in the response and in the journal.
    pub(super) id: String,
    pub(super) http: hyper::Request<Incoming>,
    pub(super) path: PathParams,
    pub(super) query: Query,
    pub(super) caller: Caller,
    /// The client whose budgets it uses.
    pub(super) client: Client,
    /// The budget for reads by clients.
    pub(super) budget: ClientBudget,
    /// Reads builds, lists and logs for the client.
    pub(super) reader: Reader,
}

impl Request {
    /// The segment `name` of its path, decoded; "" where the route has none of that name.
    pub(super) fn segment(&self, name: &str) -> Cow<'_, str> {
        percent_decode_str(self.raw_segment(name)).decode_utf8_lossy()
    }

    /// The segment `name` of its path as the client sent it.
    pub(super) fn raw_segment(&self, name: &str) -> &str {
        let found = self.path.iter().find(|(known, _)| *known == name);
        found.map_or("", |(_, value)| value)
    }

    /// The project that its path names.
    pub(super) fn project(&self) -> Result<ProjectName, NameError> {
        self.segment("project").parse()
    }

    /// The job that its path names.
    pub(super) fn job(&self) -> Result<(ProjectName, JobId), NameError> {
        Ok((self.project()?, self.segment("id").parse()?))
    }

    /// The path below the artifacts; names are bytes. `None` if a segment cannot be a file name. The kernel
    /// prevents all other attempts to leave the artifacts.
    pub(super) fn artifact(&self) -> Option<PathBuf> {
        self.raw_segment("path")
            .split('/')
            .map(|segment| {
                let name = Cow::from(percent_decode_str(segment));
                let is_name = *name != *b".." && !name.iter().any(|byte| matches!(byte, b'/' | 0));
                is_name.then(|| OsStr::from_bytes(&name).to_owned())
            })
            .collect()
    }

    /// Whether the flag `name` of the query is set: [`Query::flag`].
    pub(super) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        self.query.flag(name)
    }

    /// The number of the attempt that the query names.
    pub(super) fn attempt(&self) -> Result<Option<u32>, ApiError> {
        let Some(text) = self.query.get("attempt") else {
            return Ok(None);
        };
        match text.parse() {
            Ok(number) if number > 0 => Ok(Some(number)),
            _ => Err(ApiError::bad_request(
                "attempt: expected the number of an attempt, from 1",
            )),
        }
    }

    /// True for a browser that shows pages, unless it asks for JSON.
    pub(super) fn wants_page(&self) -> Result<bool, ApiError> {
        let is_json = self.flag("json")?;
        Ok(!is_json && response::prefers(self.headers(), "text/html", "application/json"))
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.http.headers()
    }

    /// The method that the client sent: `HEAD` is not `GET` here.
    pub(super) fn method(&self) -> &Method {
        self.http.method()
    }

    /// Cancelled when the client has closed its sending side.
    pub(super) fn half_closed(&self) -> CancellationToken {
        let closed = self.http.extensions().get::<HalfClosed>();
        closed.cloned().unwrap_or_default().0
    }

    /// Whether reading a build by this request counts as its use, which keeps it from garbage collection.
    /// Only a request with a response body counts, and only of a client that is known: clients that need no
    /// token to read could keep all builds otherwise.
    pub(super) fn is_use(&self) -> bool {
        *self.method() == Method::GET && !self.caller.is_anonymous
    }
}

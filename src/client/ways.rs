//! The one client that the verbs know, whichever way it asks.

use std::fmt;

use bytes::Bytes;
use jiff::Timestamp;

use super::bus::{Artifacts, Bus, LogSoFar, Scope};
use super::{
    Address, Answer, DEFAULT_HOST, Error, Events, Filter, Finished, Http, Matching, PAGE, Submitted,
};
use crate::api::{GcRequest, GcView, ImageView, IndexItem, JobRequest, JobState, JobView};
use crate::job::JobId;
use crate::project::ProjectName;

/// What the bus hands out as a directory comes over HTTP as a stream, and the other way round.
const NO_STREAM: &str = "artifacts do not travel over the bus; take --transport local";
const NO_DIRECTORY: &str = "directories are handed out over the bus only; take --transport http";
/// A pin is a matter between the operator and the disk.
const NO_PINS: &str = "builds cannot be pinned over the bus; leave out --bus to do that over HTTP";

/// One server, as seen from here. Cheap to clone.
#[derive(Clone)]
pub struct Client(Way);

#[derive(Clone)]
enum Way {
    Http(Http),
    Bus(Bus),
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Way::Http(http) => write!(f, "{http:?}"),
            Way::Bus(bus) => write!(f, "{bus:?}"),
        }
    }
}

/// A project, and what is told of it.
#[derive(Clone, Debug)]
pub struct Project {
    /// Its name.
    pub name: String,
    /// How many builds of it are kept, and when the latest began; the bus tells names only.
    pub builds: Option<(u64, Option<Timestamp>)>,
}

/// What came of garbage collection.
#[derive(Clone, Debug)]
pub enum Collection {
    /// All of it.
    Told(Box<GcView>),
    /// How many builds went, and how many bytes: what the bus tells.
    Counted {
        /// Builds that went, or would.
        builds: u64,
        /// Bytes that they took.
        bytes: u64,
    },
}

/// Bytes as they come.
#[derive(Debug)]
pub enum Body {
    /// Of an answer.
    Http(Answer),
    /// From a descriptor.
    Bus(LogSoFar),
}

impl Body {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Broken`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        match self {
            Body::Http(answer) => answer.chunk().await,
            Body::Bus(log) => log.chunk().await,
        }
    }
}

impl Client {
    /// Asks over HTTP at `address`, showing `token` with each request.
    pub fn new(address: Address, token: Option<String>) -> Client {
        Client(Way::Http(Http::new(address, token)))
    }

    /// Asks over a bus, which knows who we are.
    pub fn on_bus(scope: Scope) -> Client {
        Client(Way::Bus(Bus::new(scope)))
    }

    /// True when it asks over a bus.
    pub fn is_on_bus(&self) -> bool {
        matches!(self.0, Way::Bus(..))
    }

    /// The host for transports that connect by themselves: a bus is on this host.
    pub fn host(&self) -> &str {
        match &self.0 {
            Way::Http(http) => http.address().host(),
            Way::Bus(..) => DEFAULT_HOST,
        }
    }

    /// The address of one of the server's pages for a person, where it has one.
    pub fn page(&self, path: &str) -> Option<String> {
        match &self.0 {
            Way::Http(http) => http.address().page(path),
            Way::Bus(..) => None,
        }
    }

    /// Asks for a job and is told how it goes. Lines of its log are told when they are wanted, and
    /// perhaps when not.
    ///
    /// # Errors
    /// As [`Error`] says; [`super::Refusal::job`] is set when the job was accepted nonetheless.
    pub async fn submit(&self, job: &JobRequest, with_log: bool) -> Result<Submitted, Error> {
        match &self.0 {
            Way::Http(http) => http.submit(job).await,
            Way::Bus(bus) => {
                let course = bus.submit(job, with_log).await?;
                Ok(Submitted::Stream(Box::new(Events::of_bus(course))))
            }
        }
    }

    /// Asks for a job without waiting; `None` when the server does not say which it is.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn submit_only(&self, job: &JobRequest) -> Result<Option<JobState>, Error> {
        match &self.0 {
            Way::Http(http) => http.submit_only(job).await,
            Way::Bus(bus) => bus.submit_only(job).await.map(Some),
        }
    }

    /// A job as it is now.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn job(&self, project: &ProjectName, id: JobId) -> Result<JobView, Error> {
        match &self.0 {
            Way::Http(http) => http.job(project, id).await,
            Way::Bus(bus) => bus.job(project, id).await,
        }
    }

    /// A job once it is over; `None` from a server that answers before that.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn wait(&self, project: &ProjectName, id: JobId) -> Result<Option<Finished>, Error> {
        match &self.0 {
            Way::Http(http) => http.wait(project, id).await,
            Way::Bus(bus) => bus.wait(project, id).await,
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
        match &self.0 {
            Way::Http(http) => http.cancel(project, id, reason).await,
            Way::Bus(bus) => bus.cancel(project, id, reason).await,
        }
    }

    /// The newest `limit` builds, newest first.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn index(&self, filter: &Filter, limit: usize) -> Result<Vec<IndexItem>, Error> {
        match &self.0 {
            Way::Http(http) => Ok(http.index(filter, limit).await?.items),
            Way::Bus(bus) => bus.index(filter, limit).await,
        }
    }

    /// All builds whose id begins with `prefix`; a whole id ends the search when it is found.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn matching(&self, filter: &Filter, prefix: &str) -> Result<Vec<IndexItem>, Error> {
        match &self.0 {
            Way::Http(http) => http.matching(filter, prefix).await,
            Way::Bus(bus) => {
                let mut found = Matching::new(prefix);
                bus.pages(filter, PAGE, |page| found.add(page)).await?;
                Ok(found.items)
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
        match &self.0 {
            Way::Http(http) => http.follow(project, id, after).await,
            Way::Bus(bus) => {
                let course = bus.follow(project, id, after).await?;
                Ok(Some(Events::of_bus(course)))
            }
        }
    }

    /// A job's log so far, byte for byte.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn log(&self, project: &ProjectName, id: JobId) -> Result<Body, Error> {
        match &self.0 {
            Way::Http(http) => http.log(project, id).await.map(Body::Http),
            Way::Bus(bus) => bus.log(project, id).await.map(Body::Bus),
        }
    }

    /// What `body`, of [`Client::log`], still had to bring from byte `from` on.
    ///
    /// # Errors
    /// As [`Error`] says; over the bus nothing is taken up.
    pub async fn log_rest(
        &self,
        project: &ProjectName,
        id: JobId,
        body: &Body,
        from: u64,
    ) -> Result<Body, Error> {
        match (&self.0, body) {
            (Way::Http(http), Body::Http(answer)) => {
                let rest = http.log_rest(project, id, answer, from).await;
                rest.map(Body::Http)
            }
            _ => Err(Error::NotOffered("a log is not taken up over the bus")),
        }
    }

    /// A tar of a job's artifacts; see [`Answer::header`] for how it is compressed.
    ///
    /// # Errors
    /// As [`Error`] says; over the bus there is none.
    pub async fn artifacts(&self, project: &ProjectName, id: JobId) -> Result<Answer, Error> {
        match &self.0 {
            Way::Http(http) => http.artifacts(project, id).await,
            Way::Bus(..) => Err(Error::NotOffered(NO_STREAM)),
        }
    }

    /// A job's artifacts as a directory of this host.
    ///
    /// # Errors
    /// As [`Error`] says; over HTTP there is none.
    pub async fn open_artifacts(&self, id: JobId) -> Result<Artifacts, Error> {
        match &self.0 {
            Way::Http(_) => Err(Error::NotOffered(NO_DIRECTORY)),
            Way::Bus(bus) => bus.artifacts(id).await,
        }
    }

    /// All projects.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn projects(&self) -> Result<Vec<Project>, Error> {
        match &self.0 {
            Way::Http(http) => {
                let items = http.projects().await?.into_iter();
                let all = items.map(|item| Project {
                    name: item.name,
                    builds: Some((item.builds, item.latest)),
                });
                Ok(all.collect())
            }
            Way::Bus(bus) => {
                let names = bus.projects().await?.into_iter();
                Ok(names.map(|name| Project { name, builds: None }).collect())
            }
        }
    }

    /// Builds a project's image anew and waits for it; `None` where the server says no more than that
    /// it is there.
    ///
    /// # Errors
    /// As [`Error`] says; an image that cannot be built is a refusal with status 500.
    pub async fn rebuild(&self, project: &ProjectName) -> Result<Option<ImageView>, Error> {
        match &self.0 {
            Way::Http(http) => http.rebuild(project).await.map(Some),
            Way::Bus(bus) => bus.rebuild(project).await.map(|()| None),
        }
    }

    /// Collects garbage, or says what would go, and waits for it.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn collect(&self, request: &GcRequest) -> Result<Collection, Error> {
        match &self.0 {
            Way::Http(http) => {
                let view = http.collect(request).await?;
                Ok(Collection::Told(Box::new(view)))
            }
            Way::Bus(bus) => {
                let (builds, bytes) = bus.collect(request).await?;
                Ok(Collection::Counted { builds, bytes })
            }
        }
    }

    /// Whether builds can be pinned this way.
    ///
    /// # Errors
    /// [`Error::NotOffered`] over the bus.
    pub fn can_pin(&self) -> Result<(), Error> {
        match &self.0 {
            Way::Http(_) => Ok(()),
            Way::Bus(..) => Err(Error::NotOffered(NO_PINS)),
        }
    }

    /// Keeps a build from garbage collection, or lets it go.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn pin(&self, project: &ProjectName, id: JobId, is_kept: bool) -> Result<(), Error> {
        match &self.0 {
            Way::Http(http) => http.pin(project, id, is_kept).await,
            Way::Bus(..) => self.can_pin(),
        }
    }

    /// Has the server begin nothing new; what runs goes on.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn pause(&self) -> Result<(), Error> {
        match &self.0 {
            Way::Http(http) => http.pause().await,
            Way::Bus(bus) => bus.pause().await,
        }
    }

    /// Has the server begin jobs again, first those that wait.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn resume(&self) -> Result<(), Error> {
        match &self.0 {
            Way::Http(http) => http.resume().await,
            Way::Bus(bus) => bus.resume().await,
        }
    }

    /// What the server tells about itself and its host.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn status(&self) -> Result<serde_json::Value, Error> {
        match &self.0 {
            Way::Http(http) => http.status().await,
            Way::Bus(bus) => bus.status().await,
        }
    }
}

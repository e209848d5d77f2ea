//! The questions as they are asked over the bus: the other end of `dbus/`.
//!
//! Each question has a connection of its own, as over HTTP: nothing is left half-used when one
//! breaks, and who leaves has left. What grows comes as a descriptor, never over the bus.

mod course;
mod error;
mod log;
pub mod proxy;
mod session;

pub use course::Course;

use std::collections::HashMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use zbus::Variant;

use super::{Error, Filter, Finished, PAGE, Refusal, nonsense};
use crate::api::{GcRequest, IndexItem, JobRequest, JobState, JobView};
use crate::build::State;
use crate::job::JobId;
use crate::project::ProjectName;
use course::{Asked, Description};
use log::Log;
use proxy::Options;
use session::{Ends, Session};

/// Which bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// The host's.
    #[default]
    System,
    /// That of whoever asks, where a daemon of their own is.
    User,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scope::System => "the system bus",
            Scope::User => "the bus of the user",
        })
    }
}

/// The daemon on a bus, as seen from here.
#[derive(Clone, Copy, Debug)]
pub struct Bus {
    scope: Scope,
}

/// What a build left, as far as it is handed out.
#[derive(Debug)]
pub enum Artifacts {
    /// The directory, from which nothing else can be reached.
    Directory(OwnedFd),
    /// The build left none, or is not over; the server's sentence says which.
    None(Refusal),
}

/// A log so far, byte for byte.
#[derive(Debug)]
pub struct LogSoFar {
    log: Log,
    patience: Duration,
    /// Who leaves the bus is not written to any more.
    _session: Session,
}

impl LogSoFar {
    /// The next piece; `None` at the end of what there is.
    ///
    /// # Errors
    /// [`Error::Broken`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        self.log.chunk_so_far(&mut self.patience).await
    }
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(nonsense)
}

/// A job that `SubmitJob` has named.
struct Submitted {
    job: (ProjectName, JobId),
    path: String,
    asked: Asked,
}

impl Bus {
    /// The daemon on one of the buses; nobody is asked yet.
    pub fn new(scope: Scope) -> Bus {
        Bus { scope }
    }

    async fn session(&self) -> Result<Session, Error> {
        Session::begin(self.scope).await
    }

    /// Asks for a job and is told how it goes; with its log if that is wanted and ours to read.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn submit(&self, job: &JobRequest, with_log: bool) -> Result<Course, Error> {
        let session = self.session().await?;
        let mut ends = Ends::of(&session).await?;
        let submitted = ends.during(submit(&session, job)).await?;
        let Submitted { job, path, asked } = submitted;
        Course::submitted(session, ends, job, asked, &path, with_log).await
    }

    /// Asks for a job without waiting.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn submit_only(&self, job: &JobRequest) -> Result<JobState, Error> {
        let session = self.session().await?;
        let Submitted { job, asked, .. } = submit(&session, job).await?;
        let mut state = JobState::accepted(&job.0, job.1);
        if asked.cached {
            (state.state, state.phase) = (State::Ready, None);
        }
        Ok(state)
    }

    /// A job as it is now.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn job(&self, project: &ProjectName, id: JobId) -> Result<JobView, Error> {
        let session = self.session().await?;
        let described = Description::of(&session, project, id).await?;
        Ok(JobView {
            id: id.to_string(),
            project: project.to_string(),
            state: described.state,
            pinned: described.pinned,
            build_info: described.info()?,
        })
    }

    /// A job once it is over; `None` when it begins anew.
    ///
    /// # Errors
    /// As [`Error`] says; [`Error::Broken`] when the daemon leaves the bus before that.
    pub async fn wait(&self, project: &ProjectName, id: JobId) -> Result<Option<Finished>, Error> {
        let session = self.session().await?;
        let mut ends = Ends::of(&session).await?;
        course::finished(&session, &mut ends, project, id).await
    }

    /// Has a build stopped; returns when the server has written that down.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn cancel(
        &self,
        project: &ProjectName,
        id: JobId,
        reason: &str,
    ) -> Result<JobState, Error> {
        let session = self.session().await?;
        // Not that of another project, which may have the id that was meant for this one.
        Description::of(&session, project, id).await?;
        let text = id.to_string();
        let cancelling = session.manager.cancel_job(&text, reason);
        session.answer(cancelling).await?;
        let described = Description::of(&session, project, id).await?;
        Ok(JobState::of(&described.info()?))
    }

    /// The newest `limit` builds.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn index(&self, filter: &Filter, limit: usize) -> Result<Vec<IndexItem>, Error> {
        let mut found = Vec::new();
        // A page may hold fewer than it was asked for.
        self.pages(filter, limit.clamp(1, PAGE), |items| {
            found.extend(items);
            found.len() >= limit
        })
        .await?;
        found.truncate(limit);
        Ok(found)
    }

    /// All builds, newest first, `size` at once, until `enough` has seen enough.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn pages(
        &self,
        filter: &Filter,
        size: usize,
        mut enough: impl FnMut(Vec<IndexItem>) -> bool,
    ) -> Result<(), Error> {
        let session = self.session().await?;
        let mut before = String::new();
        loop {
            let (items, next) = page(&session, filter, size, &before).await?;
            if enough(items) || next.is_empty() {
                return Ok(());
            }
            if next == before {
                return Err(Error::Nonsense("an index without end".to_owned()));
            }
            before = next;
        }
    }

    /// The lines of a job's log after byte `after`, as they come, and how the build ended.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn follow(
        &self,
        project: &ProjectName,
        id: JobId,
        after: u64,
    ) -> Result<Course, Error> {
        let session = self.session().await?;
        let ends = Ends::of(&session).await?;
        Course::followed(session, ends, (project.clone(), id), after).await
    }

    /// A job's log so far.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn log(&self, project: &ProjectName, id: JobId) -> Result<LogSoFar, Error> {
        let session = self.session().await?;
        Description::of(&session, project, id).await?;
        let text = id.to_string();
        let fd = session.answer(session.manager.open_log(&text)).await?;
        Ok(LogSoFar {
            patience: log::QUIET,
            log: Log::of(fd.into())?,
            _session: session,
        })
    }

    /// A build's artifacts.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn artifacts(&self, id: JobId) -> Result<Artifacts, Error> {
        let session = self.session().await?;
        let text = id.to_string();
        let opening = session.manager.open_artifacts(&text).await;
        match opening {
            Ok(fd) => Ok(Artifacts::Directory(fd.into())),
            Err(error) => {
                let name = error::named(&error).map(|(name, _)| name);
                match error::told(self.scope, error) {
                    Error::Refused(no) if name.as_deref() == Some(error::NO_ARTIFACTS) => {
                        Ok(Artifacts::None(no))
                    }
                    other => Err(other),
                }
            }
        }
    }

    /// The names of all projects.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn projects(&self) -> Result<Vec<String>, Error> {
        let session = self.session().await?;
        session.soon(session.manager.list_projects()).await
    }

    /// Builds a project's image anew and waits for it.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn rebuild(&self, project: &ProjectName) -> Result<(), Error> {
        let session = self.session().await?;
        let rebuilding = session.manager.rebuild_image(project.as_str());
        session.answer(rebuilding).await
    }

    /// Collects garbage, or finds out what would go: how many builds, and how many bytes.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn collect(&self, request: &GcRequest) -> Result<(u64, u64), Error> {
        let session = self.session().await?;
        let policy = policy(request);
        let collecting = session.manager.collect_garbage(&policy);
        session.answer(collecting).await
    }

    /// Has the server begin nothing new.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn pause(&self) -> Result<(), Error> {
        let session = self.session().await?;
        session.answer(session.manager.pause_queue()).await
    }

    /// Has the server begin jobs again.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn resume(&self) -> Result<(), Error> {
        let session = self.session().await?;
        session.answer(session.manager.resume_queue()).await
    }

    /// What the server tells about itself, under the names that HTTP has for it.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn status(&self) -> Result<serde_json::Value, Error> {
        let session = self.session().await?;
        let daemon = &session.manager;
        let asking = async {
            Ok(serde_json::json!({
                "Version": daemon.version().await?,
                "Slots": daemon.job_concurrency().await?,
                "Running": daemon.n_running().await?,
                "Backlog": daemon.job_backlog().await?,
                "Queued": daemon.n_queued().await?,
                "Paused": daemon.paused().await?,
                "Filesystem": daemon.file_system().await?,
            }))
        };
        session.soon(asking).await
    }
}

async fn submit(session: &Session, job: &JobRequest) -> Result<Submitted, Error> {
    let params = job.params.iter();
    let params: HashMap<&str, &str> = params.map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let mut options = Options::new();
    for (name, value) in [
        ("rebuild", job.rebuild),
        ("cancel_on_disconnect", job.cancel_on_disconnect),
    ] {
        if value {
            options.insert(name, value.into());
        }
    }
    let manager = &session.manager;
    let submitting = manager.submit_job(&job.project, &job.group, &params, &options);
    let (id, path, disposition) = session.answer(submitting).await?;
    let wrong = || Error::Nonsense("a job without an id".to_owned());
    let project = job.project.parse().map_err(|_| wrong())?;
    Ok(Submitted {
        job: (project, id.parse().map_err(|_| wrong())?),
        path: path.to_string(),
        asked: Asked {
            cached: disposition == "cached",
            coalesced: disposition == "coalesced",
            rebuild: job.rebuild,
        },
    })
}

/// Builds, and where the next page begins; "" on the last one.
async fn page(
    session: &Session,
    filter: &Filter,
    limit: usize,
    before: &str,
) -> Result<(Vec<IndexItem>, String), Error> {
    let mut options = Options::from([("limit", Variant::from(limit as u64))]);
    for (name, value) in [
        ("project", filter.project.as_str()),
        ("group", &filter.group),
        ("state", &filter.state),
        ("before", before),
    ] {
        if !value.is_empty() {
            options.insert(name, value.into());
        }
    }
    let (builds, next) = session.soon(session.manager.list_builds(&options)).await?;
    let items = builds.iter().map(|text| read(text));
    Ok((items.collect::<Result<_, Error>>()?, next))
}

/// The rules, as the bus has them: an age in whole seconds, and rather a build too many than one too
/// few.
fn policy(request: &GcRequest) -> Options<'static> {
    let rules = &request.policy;
    let age = rules.max_age.map(|age| {
        let part = u64::from(age.subsec_nanos() > 0);
        age.as_secs().saturating_add(part)
    });
    let mut options = Options::new();
    for (name, value) in [
        ("max_age", age),
        ("max_bytes", rules.max_bytes),
        ("min_free", rules.min_free),
        ("keep_last", rules.keep_last),
    ] {
        if let Some(value) = value {
            options.insert(name, value.into());
        }
    }
    if request.dry_run {
        options.insert("dry_run", true.into());
    }
    options
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::build::Policy;

    #[test]
    fn an_age_is_whole_seconds_and_not_less() {
        let of = |age: Duration| {
            let policy = Policy {
                max_age: Some(age),
                ..Policy::default()
            };
            let request = GcRequest {
                dry_run: false,
                policy,
            };
            u64::try_from(&super::policy(&request)["max_age"]).unwrap()
        };
        assert_eq!(of(Duration::from_secs(60)), 60);
        assert_eq!(of(Duration::from_millis(500)), 1);
        assert_eq!(of(Duration::MAX), u64::MAX);
    }

    #[test]
    fn only_what_was_said_is_said() {
        let request = GcRequest {
            dry_run: true,
            policy: Policy {
                keep_last: Some(3),
                ..Policy::default()
            },
        };
        let options = policy(&request);
        assert_eq!(options.len(), 2);
        assert_eq!(options["dry_run"], Variant::from(true));
    }
}

//! A build from its acceptance to its end, as the events that HTTP sends of it.
//!
//! What is heard on the bus says when to look; how the build is, `DescribeBuild` says. So nothing is
//! lost that ended before we began to listen, and nobody who pretends to be the daemon is believed.
//! Where the daemon leaves the bus before the build is over, the events break off as a connection does.

use std::collections::VecDeque;

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zbus::proxy::PropertyStream;

use super::log::{self, Log, Tail};
use super::proxy::JobProxy;
use super::session::{Ends, Session};
use crate::api::{JobState, LogEnd, LogPieces};
use crate::build::{BuildInfo, NO_EXIT_CODE, Outcome, Phase, State};
use crate::client::{Error, Event, Finished, Refusal, nonsense};
use crate::job::JobId;
use crate::project::ProjectName;

/// What `DescribeBuild` says.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Description {
    pub(super) project: String,
    pub(super) state: State,
    #[serde(default)]
    pub(super) pinned: bool,
    pub(super) build_info: Value,
}

impl Description {
    /// As it is now. An id says which build it is; whoever named a project beside it must have named
    /// the right one.
    pub(super) async fn of(
        session: &Session,
        project: &ProjectName,
        id: JobId,
    ) -> Result<Description, Error> {
        let id = id.to_string();
        let text = session.soon(session.manager.describe_build(&id)).await?;
        let described: Description = serde_json::from_str(&text).map_err(nonsense)?;
        if described.project == project.as_str() {
            Ok(described)
        } else {
            Err(Error::Refused(Refusal {
                status: 404,
                sentence: format!("project '{project}' has no job '{id}'"),
                request: String::new(),
                job: None,
                retry_after: None,
            }))
        }
    }

    pub(super) fn info(&self) -> Result<BuildInfo, Error> {
        BuildInfo::deserialize(&self.build_info).map_err(nonsense)
    }
}

/// How a job came to be followed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    /// The answer came from a ready build.
    pub(super) cached: bool,
    /// Somebody had asked for the same already.
    pub(super) coalesced: bool,
    /// A new build was asked for, whatever is there.
    pub(super) rebuild: bool,
}

/// What the last event shall say.
#[derive(Clone, Copy, Debug)]
enum Last {
    /// The build info.
    Result(Asked),
    /// How the build ended.
    End,
}

/// The events.
#[derive(Debug)]
pub struct Course {
    session: Session,
    ends: Ends,
    project: ProjectName,
    id: JobId,
    last: Last,
    /// It is to be opened, once it is told that the job was accepted.
    is_log_wanted: bool,
    /// Until it is at its end; none where it is not shown, or not for us.
    log: Option<(Log, LogPieces)>,
    /// What was begun of a line when a pipe ended: perhaps with the log, perhaps with the daemon.
    rest: Option<LogPieces>,
    /// What the log ended with, as far as it was read.
    tail: Tail,
    /// How its build ended, where that was heard and not yet used.
    heard: Option<String>,
    phases: Option<PropertyStream<'static, String>>,
    ready: VecDeque<Event>,
    is_over: bool,
}

impl Course {
    /// A job that was asked for.
    pub(super) async fn submitted(
        session: Session,
        ends: Ends,
        (project, id): (ProjectName, JobId),
        asked: Asked,
        path: &str,
        with_log: bool,
    ) -> Result<Course, Error> {
        let mut course = Course::new(session, ends, (project, id), Last::Result(asked));
        if asked.cached {
            return Ok(course);
        }
        let accepted = JobState::accepted(&course.project, id);
        course.push("state", &accepted)?;
        // A progress bar that does not move is no reason to give up the build.
        course.phases = phases(&course.session, path).await.ok();
        // The log of a rebuild is read in any case: when it fails, the build before it stays in its
        // place, and nobody can ask for the log afterwards.
        course.is_log_wanted = with_log || asked.rebuild;
        Ok(course)
    }

    /// The log of a job after byte `after`, and how the build ended.
    pub(super) async fn followed(
        session: Session,
        mut ends: Ends,
        (project, id): (ProjectName, JobId),
        after: u64,
    ) -> Result<Course, Error> {
        let describing = Description::of(&session, &project, id);
        ends.during(describing).await?;
        let mut course = Course::new(session, ends, (project, id), Last::End);
        course.open_log(after).await?;
        Ok(course)
    }

    fn new(session: Session, ends: Ends, job: (ProjectName, JobId), last: Last) -> Course {
        let (project, id) = job;
        Course {
            session,
            ends,
            project,
            id,
            last,
            is_log_wanted: false,
            log: None,
            rest: None,
            tail: Tail::default(),
            heard: None,
            phases: None,
            ready: VecDeque::new(),
            is_over: false,
        }
    }

    async fn open_log(&mut self, after: u64) -> Result<(), Error> {
        self.log = Some((self.log_after(after).await?, LogPieces::new(after)));
        Ok(())
    }

    async fn log_after(&mut self, after: u64) -> Result<Log, Error> {
        let id = self.id.to_string();
        let opening = self.session.answer(self.session.manager.open_log(&id));
        let fd = self.ends.during(opening).await?;
        let mut log = Log::of(fd.into())?;
        self.ends.during(log.skip(after)).await?;
        Ok(log)
    }

    /// A pipe that has ended may have ended with the daemon: what lies beyond it is in the file that
    /// the log is now.
    async fn read_rest(&mut self, mut lines: LogPieces) -> Result<(), Error> {
        // After a rebuild that failed it would be another build's.
        if !self.is_rebuild() {
            match self.log_after(lines.position()).await {
                Ok(log @ Log::Whole(_)) => {
                    self.log = Some((log, lines));
                    return Ok(());
                }
                Ok(Log::Growing(_)) | Err(Error::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.ready.extend(log::last_event(&mut lines));
        Ok(())
    }

    fn push(&mut self, name: &str, data: &impl Serialize) -> Result<(), Error> {
        self.ready.push_back(Event {
            name: name.to_owned(),
            data: serde_json::to_string(data).map_err(nonsense)?,
            ..Event::default()
        });
        Ok(())
    }

    /// The next event; `None` after the last.
    ///
    /// # Errors
    /// [`Error::Broken`] when the daemon leaves the bus.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            if self.is_over {
                return Ok(None);
            }
            if std::mem::take(&mut self.is_log_wanted) {
                match self.open_log(0).await {
                    Ok(()) | Err(Error::Refused(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            if self.log.is_some() {
                self.read().await?;
            } else {
                self.look().await?;
            }
        }
    }

    /// Goes on in the log. That the daemon has left is heard when the log ends: what it has told
    /// before counts.
    async fn read(&mut self) -> Result<(), Error> {
        let Some((log, lines)) = &mut self.log else {
            return Ok(());
        };
        let phase = tokio::select! {
            biased;
            phase = next_phase(&mut self.phases) => Some(phase),
            chunk = self.ends.during(log.chunk()) => {
                match chunk? {
                    Some(chunk) => {
                        self.tail.push(&chunk);
                        self.ready.extend(log::events(lines, &chunk));
                    }
                    None => match self.log.take() {
                        Some((Log::Growing(_), lines)) => self.rest = Some(lines),
                        Some((Log::Whole(_), mut lines)) => {
                            self.ready.extend(log::last_event(&mut lines));
                        }
                        None => {}
                    },
                }
                None
            }
        };
        match phase {
            Some(phase) => self.enter(&phase),
            None => Ok(()),
        }
    }

    /// Looks how the build is, and waits until it is worth to look again.
    async fn look(&mut self) -> Result<(), Error> {
        let id = self.id.to_string();
        let mut heard = self.ends.outcome(&id).or(self.heard.take());
        let describing = Description::of(&self.session, &self.project, self.id);
        let described = self.ends.during(describing).await?;
        heard = self.ends.outcome(&id).or(heard);
        if described.state == State::Ready
            && let Some(lines) = self.rest.take()
        {
            self.heard = heard;
            return self.read_rest(lines).await;
        }
        if described.state == State::Ready {
            // Its end is told after the answer that named it, so it is still to come.
            while heard.is_none() && self.is_rebuild() {
                let hearing = async { Ok(self.ends.hear().await) };
                self.session.soon(hearing).await??;
                heard = self.ends.outcome(&id);
            }
            self.is_over = true;
            return self.conclude(described, heard).await;
        }
        while heard.is_none() {
            let phase = tokio::select! {
                biased;
                phase = next_phase(&mut self.phases) => Some(phase),
                told = self.ends.hear() => {
                    told?;
                    None
                }
            };
            if let Some(phase) = phase {
                return self.enter(&phase);
            }
            heard = self.ends.outcome(&id);
        }
        // The next look uses it: it is told once, and the one just now may have come too early.
        self.heard = heard;
        Ok(())
    }

    fn is_rebuild(&self) -> bool {
        matches!(self.last, Last::Result(asked) if asked.rebuild)
    }

    fn enter(&mut self, phase: &str) -> Result<(), Error> {
        // A later daemon may have phases that we do not know.
        let phase: Option<Phase> = serde_json::from_value(phase.into()).ok();
        let mut state = JobState::accepted(&self.project, self.id);
        state.phase = phase;
        self.push("state", &state)
    }

    async fn conclude(
        &mut self,
        described: Description,
        heard: Option<String>,
    ) -> Result<(), Error> {
        match self.last {
            Last::End => {
                let info = described.info()?;
                self.push(
                    "end",
                    &LogEnd {
                        state: described.state,
                        outcome: info.outcome,
                        exit_code: info.exit_code,
                    },
                )
            }
            Last::Result(asked) => {
                let mut raw = described.build_info;
                let heard = heard.filter(|_| asked.rebuild);
                if let Some(outcome) = heard.and_then(|heard| kept(&raw, &heard)) {
                    fail(&mut raw, outcome, self.tail.text());
                } else {
                    let log = with_log(&self.session, self.id, raw);
                    raw = self.ends.during(log).await?;
                }
                set(&mut raw, "Cached", asked.cached.into());
                set(&mut raw, "Coalesced", asked.coalesced.into());
                self.push("result", &raw)
            }
        }
    }
}

/// A build once it is over; `None` when it begins anew meanwhile.
pub(super) async fn finished(
    session: &Session,
    ends: &mut Ends,
    project: &ProjectName,
    id: JobId,
) -> Result<Option<Finished>, Error> {
    let text = id.to_string();
    let mut heard = None;
    loop {
        let describing = Description::of(session, project, id);
        let described = ends.during(describing).await?;
        match described.state {
            State::Ready => {
                let mut raw = described.build_info;
                // A rebuild that failed leaves the build of before in its place.
                match heard.and_then(|heard: String| kept(&raw, &heard)) {
                    Some(outcome) => fail(&mut raw, outcome, String::new()),
                    None => raw = ends.during(with_log(session, id, raw)).await?,
                }
                return Finished::read(raw).map(Some);
            }
            State::Pending if heard.is_some() => return Ok(None),
            State::Pending => {}
        }
        heard = loop {
            match ends.outcome(&text) {
                Some(outcome) => break Some(outcome),
                None => ends.hear().await?,
            }
        };
    }
}

/// What a build that did not succeed has printed last, where we may read it.
async fn with_log(session: &Session, id: JobId, mut raw: Value) -> Result<Value, Error> {
    let succeeded = Some(Outcome::Succeeded.as_str());
    if raw.get("Outcome").and_then(Value::as_str) == succeeded {
        return Ok(raw);
    }
    let reading = async {
        let id = id.to_string();
        let fd = session.answer(session.manager.open_log(&id)).await?;
        Log::of(fd.into())?.tail().await
    };
    // Nobody is told less of how it ended because they may not read this.
    if let Ok(tail) = reading.await {
        set(&mut raw, "ContainerStdouterr", tail.into());
    }
    Ok(raw)
}

/// How a rebuild ended that left the build of before in its place.
fn kept(raw: &Value, heard: &str) -> Option<Outcome> {
    let described = raw.get("Outcome").and_then(Value::as_str);
    let heard: Outcome = serde_json::from_value(heard.into()).ok()?;
    (described == Some(Outcome::Succeeded.as_str()) && heard != Outcome::Succeeded).then_some(heard)
}

/// Says of the build of before what became of its rebuild. Nobody knows its exit code any more.
fn fail(raw: &mut Value, outcome: Outcome, log: String) {
    let sentence = match outcome {
        Outcome::Succeeded | Outcome::Failed | Outcome::Errored => {
            "the rebuild failed; the build before it stays"
        }
        Outcome::Cancelled => "the rebuild was cancelled; the build before it stays",
        Outcome::TimedOut => "the rebuild took too long; the build before it stays",
    };
    set(raw, "Outcome", outcome.as_str().into());
    set(raw, "ExitCode", NO_EXIT_CODE.into());
    set(raw, "Err", sentence.into());
    set(raw, "ErrBuild", sentence.into());
    set(raw, "ContainerStdouterr", log.into());
}

fn set(raw: &mut Value, field: &str, value: Value) {
    if let Value::Object(fields) = raw {
        fields.insert(field.to_owned(), value);
    }
}

async fn phases(session: &Session, path: &str) -> Result<PropertyStream<'static, String>, Error> {
    let listening = async {
        let builder = JobProxy::builder(&session.connection).path(path.to_owned());
        let job = builder.build().await?;
        Ok(job.receive_state_changed().await)
    };
    session.soon(listening).await
}

/// The next phase; for ever where nobody tells them.
async fn next_phase(phases: &mut Option<PropertyStream<'static, String>>) -> String {
    while let Some(stream) = phases {
        match stream.next().await {
            Some(change) => {
                if let Ok(phase) = change.get().await {
                    return phase;
                }
            }
            None => *phases = None,
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebuild_that_failed_is_not_taken_for_the_build_that_it_left_in_place() {
        let raw = serde_json::json!({"Outcome": "succeeded", "ExitCode": 0, "New": 1});
        assert_eq!(kept(&raw, "succeeded"), None);
        assert_eq!(kept(&raw, "something new"), None);
        let outcome = kept(&raw, "timed-out").unwrap();
        let mut failed = raw.clone();
        fail(&mut failed, outcome, "log".to_owned());
        let done = Finished::read(failed).unwrap();
        assert_eq!(done.info.outcome, Some(Outcome::TimedOut));
        assert_eq!(done.info.exit_code, NO_EXIT_CODE);
        assert_eq!(done.info.container_stdouterr.as_deref(), Some("log"));
        assert_eq!(done.raw["New"], 1);
        // What is described as failed is described better there.
        let raw = serde_json::json!({"Outcome": "failed", "ExitCode": 3});
        assert_eq!(kept(&raw, "failed"), None);
    }
}
